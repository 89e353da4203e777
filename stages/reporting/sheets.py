"""The sheets: one PNG image per class, with its real drawings above its generated ones."""

from __future__ import annotations

import io
import math
import re

import numpy as np
import numpy.typing as npt

from stages.common.errors import one_line
from stages.quickdraw import SIDE

COLUMNS = 8
SCALE = 10  # each pixel of a drawing is SCALE × SCALE pixels of the sheet
# The largest sheet to read. A sheet of 16 drawings has 1.3 million pixels; a PNG header can claim any number.
MAX_PIXELS = 50_000_000

Images = npt.NDArray[np.uint8]


def sheet_name(label: int, name: str) -> str:
    """A file name that is valid on every system for any class name, such as `309_The_Eiffel_Tower.png`."""
    return f"{label}_{re.sub('[^A-Za-z0-9-]', '_', name)}.png"


def sheet(real: Images, generated: Images) -> Images:
    """Tile a row of real drawings above rows of generated ones, without margins, each drawing 280 × 280 pixels.

    Args:
      real: (M, 28, 28) uint8, at most as many as columns.
      generated: (N, 28, 28) uint8.

    Returns:
      (height, width) uint8, with one column per generated drawing, at most COLUMNS. Empty positions are black.
    """
    columns = min(COLUMNS, len(generated))
    rows = 1 + math.ceil(len(generated) / columns)
    tiles = np.zeros((rows * columns, SIDE, SIDE), np.uint8)
    tiles[: len(real)] = real
    tiles[columns : columns + len(generated)] = generated
    tiled = tiles.reshape(rows, columns, SIDE, SIDE).swapaxes(1, 2).reshape(rows * SIDE, columns * SIDE)
    return tiled.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def read_sheet(png: bytes) -> tuple[list[Images], list[Images]]:
    """Read the real and the generated drawings back from a sheet, each (28, 28) uint8.

    Raises:
      ValueError: the bytes are not a sheet.
    """
    from PIL import Image

    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # from the PNG header
    if width * height > MAX_PIXELS:
        raise ValueError(f"a sheet of {width} × {height} pixels")
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("L"))[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises SyntaxError for bad chunks
        raise ValueError(f"a sheet that is not a picture: {one_line(error)}") from None
    if min(pixels.shape) < SIDE or pixels.shape[0] % SIDE or pixels.shape[1] % SIDE:
        raise ValueError(f"a sheet of {pixels.shape} pixels")
    rows = pixels.reshape(pixels.shape[0] // SIDE, SIDE, -1, SIDE).swapaxes(1, 2)
    real, generated = list(rows[0]), [drawing for row in rows[1:] for drawing in row]
    while len(real) > 1 and not real[-1].any():  # fewer real drawings than columns leave black positions
        real.pop()
    return real, generated
