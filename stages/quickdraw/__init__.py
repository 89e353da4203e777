"""Quick, Draw! data: which drawings a run uses, where their pixels are read, and stand-in drawings (doodles)."""

SIDE = 28  # pixels along each side of a drawing
IMAGE_SHAPE = (SIDE, SIDE, 1)
