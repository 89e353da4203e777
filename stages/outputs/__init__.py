"""What the stages hand on to each other: the paths, and how each is written and read."""
