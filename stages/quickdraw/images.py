"""Writes drawings as one array of images, block by block, and reads such an array."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from stages.common import tables
from stages.common.errors import StageError, one_line
from stages.common.progress import progress
from stages.quickdraw import IMAGE_SHAPE, npy_header
from stages.quickdraw.mirrors import Pixels

if TYPE_CHECKING:
    import pandas as pd

BLOCK = 32_768  # drawings, 26 MB; at most two blocks of pixels are in memory


class Source(Protocol):
    """Provides the pixels of drawings, which are given by position, label, name and row."""

    def prepare(self, drawings: pd.DataFrame) -> None:
        """Fetch the drawings that are not on this machine yet."""

    def pixels(self, drawings: pd.DataFrame) -> Pixels:
        """The pixels `(len(drawings), 784)` of drawings, in their order."""


def write(path: Path, drawings: pd.DataFrame, source: Source) -> None:
    """Write the images `(len(drawings), 28, 28, 1)` of drawings, in their order, as a .npy file."""
    source.prepare(drawings)
    with open(path, "wb") as file, progress("writing images", len(drawings), "drawings") as add:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(drawings), *IMAGE_SHAPE)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(drawings), BLOCK):
            block = drawings.iloc[start : start + BLOCK]
            file.write(source.pixels(block).data)
            add(len(block))


class Prefetched:
    """The images of all drawings of an index, as `write` stored them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self, drawings: pd.DataFrame) -> None:
        """Do nothing: the images are on this machine."""

    def pixels(self, drawings: pd.DataFrame) -> Pixels:
        """The pixels `(len(drawings), 784)` of drawings, found by `position`."""
        positions = drawings["position"].to_numpy()
        try:
            if positions.min(initial=0) < 0:
                raise IndexError(f"position {positions.min()} is negative")
            images = tables.open_memmap(self.path)
            if images.shape[1:] != IMAGE_SHAPE:
                raise ValueError(f"it holds an array of shape {one_line(images.shape)}")
            pixels: Pixels = images[positions].reshape(len(drawings), npy_header.PIXELS)
            return pixels
        except (IndexError, ValueError) as error:
            raise StageError(f"{self.path} does not fit the index ({error}): run the stage extract again") from None
