"""A contact sheet: the first pictures of each class, a row for each, so that a person sees what will be learned."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]

SHOWN = 8  # pictures of a class
FRAME = 96  # the grey between pictures
SCALE = 2


def write(path: Path, classes: Sequence[Images]) -> None:
    """Write the sheet of classes as a PNG file.

    Args:
      path: of the file. The same pictures give the same bytes.
      classes: for each class its pictures, (N, height, width, 1 or 3), all of one shape. The sheet has the first
        `SHOWN` of each.
    """
    from PIL import Image

    Image.fromarray(draw(classes)).save(path, "PNG", optimize=True)


def draw(classes: Sequence[Images]) -> Images:
    """The sheet, (height, width) or (height, width, 3)."""
    rows = []
    for pictures in classes:
        row = np.zeros((SHOWN, *pictures.shape[1:]), np.uint8)
        row[: len(pictures)] = pictures[:SHOWN]
        rows.append(np.concatenate(list(np.pad(row, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=FRAME)), axis=1))
    enlarged = np.concatenate(rows).repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    return enlarged[..., 0] if enlarged.shape[-1] == 1 else enlarged
