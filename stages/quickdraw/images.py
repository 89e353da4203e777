"""Writes drawings as one array of images, block by block, and reads such an array."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from stages.common import tables
from stages.common.errors import StageError, one_line
from stages.common.progress import progress
from stages.quickdraw import npy_header
from stages.quickdraw.mirrors import Pixels
from stages.quickdraw.npy_header import ImageShape

if TYPE_CHECKING:
    import pandas as pd

BLOCK_BYTES = 32_768 * 784  # 26 MB; at most two blocks of pixels are in memory


class Pictures(Protocol):
    """Provides the pixels of drawings, which are given by position, label, name and row."""

    def image_shape(self) -> ImageShape:
        """The height, width and channels of every drawing."""

    def prepare(self, drawings: pd.DataFrame) -> None:
        """Fetch the drawings that are not on this machine yet."""

    def pixels(self, drawings: pd.DataFrame) -> Pixels:
        """The pixels `(len(drawings), values)` of drawings, in their order; `values` is the product of the shape."""


class Source(Pictures, Protocol):
    """Where drawings come from."""

    def counts(self) -> dict[str, int]:
        """The number of drawings of each class, in the order of the labels."""

    def index(self, number: int) -> pd.DataFrame:
        """The first `number` drawings, in the order of the source: position, label, name and row."""


def write(path: Path, drawings: pd.DataFrame, source: Pictures) -> None:
    """Write the images `(len(drawings), height, width, channels)` of drawings, in their order, as a .npy file."""
    source.prepare(drawings)
    shape = source.image_shape()
    step = max(1, BLOCK_BYTES // math.prod(shape))
    with open(path, "wb") as file, progress("writing images", len(drawings), "drawings") as add:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(drawings), *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(drawings), step):
            block = drawings.iloc[start : start + step]
            file.write(source.pixels(block).data)
            add(len(block))


class Prefetched:
    """The images of all drawings of an index, as `write` stored them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def image_shape(self) -> ImageShape:
        """The height, width and channels of every image."""
        try:
            return self._shape(tables.open_memmap(self.path))
        except ValueError as error:
            raise self._error(error) from None

    def prepare(self, drawings: pd.DataFrame) -> None:
        """Do nothing: the images are on this machine."""

    def pixels(self, drawings: pd.DataFrame) -> Pixels:
        """The pixels `(len(drawings), values)` of drawings, found by `position`."""
        positions = drawings["position"].to_numpy()
        try:
            if positions.min(initial=0) < 0:
                raise IndexError(f"position {positions.min()} is negative")
            images = tables.open_memmap(self.path)
            pixels: Pixels = images[positions].reshape(len(drawings), math.prod(self._shape(images)))
            return pixels
        except (IndexError, ValueError) as error:
            raise self._error(error) from None

    def _shape(self, images: npt.NDArray[np.uint8]) -> ImageShape:
        shape = npy_header.image_shape(images.shape[1:])
        if images.ndim != 4 or shape is None:
            raise ValueError(f"it holds an array of shape {one_line(images.shape)}")
        return shape

    def _error(self, error: Exception) -> StageError:
        return StageError(f"{self.path} does not fit the index ({error}): run the stage extract again")
