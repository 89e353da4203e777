"""Quick, Draw!: which drawings are the first N, where their pixels come from, and doodles where there are none."""

SIDE = 28  # pixels along each side of a drawing
IMAGE_SHAPE = (SIDE, SIDE, 1)
