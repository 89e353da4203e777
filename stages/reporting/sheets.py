"""The sheets: one PNG image per class, with its real drawings above its generated ones."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.common.errors import one_line

COLUMNS = 8
SIZE = "drawing"  # the text field of a sheet with the size of its drawings
OLD_SIZE = "28x28"  # of a sheet without this field
MAX_SIDE = 256
# The largest sheet to read. A sheet of 16 drawings has 1.3 million pixels; a PNG header can claim any number.
MAX_PIXELS = 50_000_000

Images = npt.NDArray[np.uint8]


def sheet_name(label: int, name: str) -> str:
    """A file name that is valid on every system for any class name, such as `309_The_Eiffel_Tower.png`."""
    return f"{label}_{re.sub('[^A-Za-z0-9-]', '_', name)}.png"


def sheet(real: Images, generated: Images) -> Images:
    """Tile a row of real drawings above rows of generated ones, without margins, each enlarged by `scale`.

    Args:
      real: (M, H, W) or, in colour, (M, H, W, 3) uint8, at most as many as columns.
      generated: (N, H, W) or (N, H, W, 3) uint8.

    Returns:
      (height, width) or (height, width, 3) uint8, with one column per generated drawing, at most COLUMNS. Empty
      positions are black.
    """
    height, width, *channels = generated.shape[1:]
    columns = min(COLUMNS, len(generated))
    rows = 1 + math.ceil(len(generated) / columns)
    tiles = np.zeros((rows * columns, height, width, *channels), np.uint8)
    tiles[: len(real)] = real
    tiles[columns : columns + len(generated)] = generated
    tiled = tiles.reshape(rows, columns, height, width, *channels).swapaxes(1, 2)
    tiled = tiled.reshape(rows * height, columns * width, *channels)
    return tiled.repeat(scale(height, width), axis=0).repeat(scale(height, width), axis=1)


def scale(height: int, width: int) -> int:
    """How many pixels of a sheet are a pixel of a drawing, along each side: a drawing of 28 × 28 takes 280 × 280."""
    return max(1, 280 // max(height, width))


def write_sheet(path: Path, real: Images, generated: Images) -> None:
    """Write a sheet as PNG, with the height and the width of its drawings in the text field SIZE."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    height, width = generated.shape[1:3]
    information = PngInfo()
    information.add_text(SIZE, f"{height}x{width}")
    Image.fromarray(sheet(real, generated)).save(path, "PNG", pnginfo=information)


def read_sheet(png: bytes) -> tuple[list[Images], list[Images]]:
    """Read the real and the generated drawings back from a sheet, each (H, W) or (H, W, 3) uint8.

    Raises:
      ValueError: the bytes are not a sheet.
    """
    from PIL import Image

    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # from the PNG header
    if width * height > MAX_PIXELS:
        raise ValueError(f"a sheet of {width} × {height} pixels")
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("RGB" if image.mode == "RGB" else "L"))
            height, width = _drawing_size(str(image.info.get(SIZE, OLD_SIZE)))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises SyntaxError for bad chunks
        raise ValueError(f"a sheet that is not a picture: {one_line(error)}") from None
    step = scale(height, width)
    pixels = pixels[step // 2 :: step, step // 2 :: step]
    rows, columns = pixels.shape[0] // height, pixels.shape[1] // width
    if not rows or not columns or pixels.shape[:2] != (rows * height, columns * width):
        raise ValueError(f"a sheet of {pixels.shape} pixels")
    tiles = pixels.reshape(rows, height, columns, width, *pixels.shape[2:]).swapaxes(1, 2)
    real, generated = list(tiles[0]), [drawing for row in tiles[1:] for drawing in row]
    while len(real) > 1 and not real[-1].any():  # fewer real drawings than columns leave black positions
        real.pop()
    return real, generated


def _drawing_size(text: str) -> tuple[int, int]:
    """The height and the width in text such as `28x28`. Raises `ValueError` for other text or too large a size."""
    match = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text, re.ASCII)
    if not match or not all(0 < int(side) <= MAX_SIDE for side in match.groups()):
        raise ValueError(f"a sheet of drawings of the size {one_line(text, 40)}")
    return int(match[1]), int(match[2])
