"""The command `import`: pictures as people have them become a folder of one `<class>.npy` file per class."""
