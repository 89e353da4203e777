"""Drawings written as one array of images, a block at a time."""

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

BLOCK = 32_768  # drawings, 26 MB: twice that is all that is held of the pixels


class Source(Protocol):
    """What can hand out the pixels of drawings, told by position, label, name and row."""

    def prepare(self, drawings: pd.DataFrame) -> None:
        """Bring drawings to this machine, those that are not there yet."""

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
    """Images that `write` wrote of the first drawings, all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self, drawings: pd.DataFrame) -> None:
        """They are there."""

    def pixels(self, drawings: pd.DataFrame) -> Pixels:
        """By position."""
        positions = drawings["position"].to_numpy()
        try:
            if positions.min(initial=0) < 0:
                raise IndexError(f"position {positions.min()} is wanted")
            images = tables.open_memmap(self.path)
            if images.shape[1:] != IMAGE_SHAPE:
                raise ValueError(f"it holds an array of shape {one_line(images.shape)}")
            pixels: Pixels = images[positions].reshape(len(drawings), npy_header.PIXELS)
            return pixels
        except (IndexError, ValueError) as error:
            raise StageError(f"{self.path} does not fit the index ({error}): run the stage extract again") from None
