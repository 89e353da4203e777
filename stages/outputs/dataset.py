"""The drawings that filter writes: data/filter/images.npy and data/filter/drawings.parquet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stages.common import files, tables
from stages.common.classes import Class
from stages.common.errors import StageError

FOLDER = Path("data/filter")
IMAGES = "images.npy"
TABLE = "drawings.parquet"


class Images(Protocol):
    """(N, height, width, channels) uint8: an array, or rows of one in a file, which are read when they are indexed."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True)
class SelectedImages:
    """Some rows of an array, which may be larger than memory. Those that are indexed are copied into memory.

    Attributes:
      images: (M, height, width, channels) uint8.
      rows: (N,) which of them.
    """

    images: Images
    rows: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.images.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.images.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any, /) -> npt.NDArray[np.uint8]:
        return np.asarray(self.images[self.rows[index]])


@dataclass(frozen=True)
class Drawings:
    """Drawings in a fixed order.

    Attributes:
      images: (N, height, width, channels) uint8; in drawings of one channel, 0 is paper and 255 is ink.
      labels: (N,) int16.
      names: (N,) class names.
      heldout: (N,) bool, True for drawings that are held out from training.
    """

    images: Images
    labels: npt.NDArray[np.int16]
    names: npt.NDArray[np.object_]
    heldout: npt.NDArray[np.bool_]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a drawing."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    def where(self, mask: npt.NDArray[np.bool_]) -> Drawings:
        """Return the drawings for which `mask`, (N,), is True, in the same order. Their images are not copied."""
        images, rows = self.images, np.flatnonzero(mask)
        if isinstance(images, SelectedImages):
            rows, images = images.rows[rows], images.images
        return Drawings(SelectedImages(images, rows), self.labels[mask], self.names[mask], self.heldout[mask])

    def fingerprint(self) -> str:
        """The first eight digits of a SHA-256 of the drawings and their labels, in order."""
        digest = hashlib.sha256(np.asarray(self.labels, "<i2").tobytes())
        files.hash_array(digest, self.images)
        return digest.hexdigest()[:8]

    def classes(self, names: Sequence[str]) -> tuple[Class, ...]:
        """Return the classes with these names. Raises `StageError` if a class has no drawing."""
        labels = dict(zip(self.names, self.labels, strict=True))
        if missing := [name for name in names if name not in labels]:
            path = FOLDER / TABLE
            raise StageError(f"{path} cannot be used (it has no drawing of {missing[0]!r}): run the stage filter again")
        return tuple(Class(int(labels[name]), name) for name in names)


def load(folder: Path = FOLDER) -> Drawings:
    """Read the drawings from a folder. Raises `StageError` if a file is missing or cannot be used."""
    for path in (folder / TABLE, folder / IMAGES):
        if not path.exists():
            raise StageError(f"{path} is missing: run the stage filter first")
    try:
        table = tables.read(folder / TABLE, {"label": "int16", "name": "category", "heldout": "bool"})
        images = tables.open_memmap(folder / IMAGES)
        columns = [table[name].to_numpy() for name in table]
    except ValueError as error:
        raise StageError(f"{folder} cannot be used ({error}): run the stage filter again") from None
    if images.ndim != 4 or len(images) != len(table):
        raise StageError(
            f"{folder / IMAGES} cannot be used (it has the shape {images.shape}; "
            f"expected: ({len(table)}, height, width, channels)): run the stage filter again"
        )
    return Drawings(images, *columns)
