"""The drawings of a run that filter writes: data/filter/images.npy and data/filter/drawings.parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.common import tables
from stages.common.classes import Class
from stages.common.errors import StageError
from stages.quickdraw import IMAGE_SHAPE

FOLDER = Path("data/filter")
IMAGES = "images.npy"
TABLE = "drawings.parquet"


@dataclass(frozen=True)
class Drawings:
    """Drawings in a fixed order.

    Attributes:
      images: (N, 28, 28, 1) uint8, 0 is paper and 255 is ink.
      labels: (N,) int16.
      names: (N,) the classes' names.
      heldout: (N,) bool, which of them training must not see.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int16]
    names: npt.NDArray[np.object_]
    heldout: npt.NDArray[np.bool_]

    def where(self, chosen: npt.NDArray[np.bool_]) -> Drawings:
        """Some of the drawings, in the same order."""
        return Drawings(self.images[chosen], self.labels[chosen], self.names[chosen], self.heldout[chosen])

    def classes(self, names: Sequence[str]) -> tuple[Class, ...]:
        """The classes of these names, with the labels they have here."""
        found = dict(zip(self.names, self.labels, strict=True))
        if missing := [name for name in names if name not in found]:
            raise StageError(f"{FOLDER / TABLE} holds no {missing[0]!r}: run the stage filter again")
        return tuple(Class(int(found[name]), name) for name in names)


def load(folder: Path = FOLDER) -> Drawings:
    """The drawings in a folder. Raises `StageError` for files that are not there or do not belong together."""
    for path in (folder / TABLE, folder / IMAGES):
        if not path.exists():
            raise StageError(f"{path} is not there: run the stage filter first")
    try:
        table = tables.read(folder / TABLE, {"label": "int16", "name": "category", "heldout": "bool"})
        images = tables.open_memmap(folder / IMAGES)
        columns = [table[name].to_numpy() for name in table]
    except ValueError as error:
        raise StageError(f"{folder} cannot be read ({error}): run the stage filter again") from None
    if images.shape != (len(table), *IMAGE_SHAPE):
        raise StageError(
            f"{folder / IMAGES} holds uint8 of shape {images.shape}, not uint8 of {(len(table), *IMAGE_SHAPE)}: "
            "run the stage filter again"
        )
    return Drawings(images, *columns)
