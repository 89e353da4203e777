"""The files that stages pass to each other: their paths, and how to write and read them."""
