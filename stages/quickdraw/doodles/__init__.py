"""Doodles: stand-in drawings that the project generates, for use without a network.

A drawing depends only on its class and row: the bytes are the same in any order, batch and process, on any platform.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.common import files
from stages.quickdraw import SIDE
from stages.quickdraw.doodles.pen import Pen
from stages.quickdraw.doodles.raster import fit, render
from stages.quickdraw.doodles.recipes import RECIPES

CLASSES: tuple[str, ...] = tuple(sorted(RECIPES))
ROWS_PER_CLASS = 2000

_BATCH = 64  # drawings at a time, whose arrays fit into a processor's cache


def draw(name: str, rows: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Generate drawings of a class: (len(rows), 784) uint8, row-major, 0 = paper, 255 = stroke.

    Args:
      name: of the class.
      rows: integers from 0, in any order; repeats are allowed. A hundred take little longer than one.

    Raises:
      KeyError: the class is not in `CLASSES`.
      ValueError: `rows` is not a list of such integers.
    """
    recipes = RECIPES[name]
    row_array = np.asarray(rows)
    if row_array.ndim != 1 or (row_array.size and (row_array.dtype.kind not in "iu" or row_array.min() < 0)):
        raise ValueError(f"rows must be a list of integers from 0, not {rows!r}")
    row_array = row_array.astype(np.uint64)
    drawings = np.empty((len(row_array), SIDE * SIDE), np.uint8)
    ends = np.cumsum([recipe.share for recipe in recipes])
    chosen = np.searchsorted(ends / ends[-1], Pen(name, row_array).between(0, 1)[:, 0], side="right")
    for i, recipe in enumerate(recipes):
        indices = np.flatnonzero(chosen == i)
        for start in range(0, len(indices), _BATCH):
            batch = indices[start : start + _BATCH]
            pen = Pen(f"{name}/{recipe.draw.__name__}", row_array[batch])
            recipe.draw(pen)
            x, y, drawn = pen.drawing(recipe.tilt)
            drawings[batch] = render(*fit(x, y, drawn), drawn)
    return drawings


def write(folder: Path, names: Iterable[str] = CLASSES, rows_per_class: int = ROWS_PER_CLASS) -> None:
    """Write the first drawings of classes in the bucket's layout: `<class>.npy`, (rows_per_class, 784) uint8."""
    for name in names:
        with files.atomic_file(folder / f"{name}.npy") as path:
            np.save(path, draw(name, range(rows_per_class)))
