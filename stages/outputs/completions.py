"""The completions of held-out drawings that sample writes and evaluate reads, if there are any.

data/sample/completions.npy   (drawings, COMPLETIONS, height, width, channels) uint8
data/sample/completions.json  the number of upper rows that were given, and the drawings' rows in data/filter/images.npy
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.common import tables
from stages.common.errors import StageError
from stages.outputs.dataset import Drawings
from stages.outputs.samples import FOLDER

IMAGES = "completions.npy"
GIVEN = "completions.json"
COMPLETIONS = 2  # of each drawing, so that their distance can be measured


@dataclass(frozen=True)
class Completions:
    """Completions of held-out drawings, class by class.

    Attributes:
      images: (drawings, COMPLETIONS, height, width, channels) uint8.
      rows: how many upper rows were given; the model has drawn the others.
      drawings: (drawings,) the row of each given drawing in data/filter/images.npy.
    """

    images: npt.NDArray[np.uint8]
    rows: int
    drawings: npt.NDArray[np.int64]

    def describe(self) -> str:
        """What determines, with the held-out drawings, whether two runs have completed the same."""
        return f"{self.rows} rows of {len(self.drawings)}"


def write(folder: Path, completions: Completions) -> None:
    """Write completions into a folder."""
    images = np.ascontiguousarray(completions.images)
    with open(folder / IMAGES, "wb") as file:  # np.save does not report a full disk
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(images))
        file.write(images.data)
    given = {"rows": completions.rows, "drawings": completions.drawings.tolist()}
    (folder / GIVEN).write_text(json.dumps(given) + "\n", encoding="utf-8")


def read(data: Drawings, folder: Path = FOLDER) -> Completions | None:
    """Read the completions of drawings of a data set; None if the run has none.

    Raises:
      StageError: a file cannot be used, or its completions are of other drawings.
    """
    path = folder / GIVEN
    if not path.exists():
        return None
    try:
        given = json.loads(path.read_bytes())
        rows, drawings = int(given["rows"]), np.array(given["drawings"], np.int64)
        images = np.asarray(tables.open_memmap(folder / IMAGES))
        height = data.images.shape[1]
        if not 0 <= rows <= height or drawings.ndim != 1 or not len(drawings):
            raise ValueError(f"it has {rows} rows of an array of {drawings.shape} drawings")
        if images.dtype != np.uint8 or images.shape != (len(drawings), COMPLETIONS, *data.images.shape[1:]):
            raise ValueError(f"{IMAGES} has the shape {images.shape}")
        if not (drawings.min() >= 0 and drawings.max() < len(data.images) and data.heldout[drawings].all()):
            raise ValueError("its drawings are not held out")
        if (images[:, :, :rows] != data.images[drawings, np.newaxis, :rows]).any():
            raise ValueError("its drawings have other upper rows")
    except (FileNotFoundError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise StageError(f"{path} cannot be used ({error}): run the stage sample again") from None
    return Completions(images, rows, drawings)
