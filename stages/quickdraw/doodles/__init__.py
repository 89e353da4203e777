"""Doodles that the project draws itself, in the place of Quick, Draw!'s where there is no network.

A drawing is a function of its class and row alone: the same bytes in any order, batch, process and platform.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.common import files
from stages.quickdraw import SIDE
from stages.quickdraw.doodles.pen import Pen
from stages.quickdraw.doodles.raster import fitted, rendered
from stages.quickdraw.doodles.recipes import RECIPES

CLASSES: tuple[str, ...] = tuple(sorted(RECIPES))
ROWS_PER_CLASS = 2000

_BATCH = 64  # drawings at once: what they need stays in a processor's cache


def draw(name: str, rows: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """The drawings of a class in the given rows: (len(rows), 784) uint8, row-major, 0 = paper, 255 = stroke.

    Rows are whole numbers from 0 on, in any order and any number of times; a hundred take little longer than one.
    Raises KeyError for a class that is not in `CLASSES`, and ValueError for rows that are not such numbers.
    """
    recipes = RECIPES[name]
    wanted = np.asarray(rows)
    if wanted.ndim != 1 or (wanted.size and (wanted.dtype.kind not in "iu" or wanted.min() < 0)):
        raise ValueError(f"rows must be a list of whole numbers from 0 on, not {rows!r}")
    wanted = wanted.astype(np.uint64)
    drawings = np.empty((len(wanted), SIDE * SIDE), np.uint8)
    ends = np.cumsum([recipe.share for recipe in recipes])
    chosen = np.searchsorted(ends / ends[-1], Pen(name, wanted).between(0, 1)[:, 0], side="right")
    for i, recipe in enumerate(recipes):
        mine = np.flatnonzero(chosen == i)
        for start in range(0, len(mine), _BATCH):
            batch = mine[start : start + _BATCH]
            pen = Pen(f"{name}/{recipe.draw.__name__}", wanted[batch])
            recipe.draw(pen)
            x, y, drawn = pen.drawing(recipe.tilt)
            drawings[batch] = rendered(*fitted(x, y, drawn), drawn)
    return drawings


def write(folder: Path, names: Iterable[str] = CLASSES, rows_per_class: int = ROWS_PER_CLASS) -> None:
    """Lay the first drawings of each class out as the bucket does: `<class>.npy`, uint8 (rows_per_class, 784)."""
    for name in names:
        with files.atomic_file(folder / f"{name}.npy") as path:
            np.save(path, draw(name, range(rows_per_class)))
