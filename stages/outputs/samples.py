"""The generated drawings that sample writes: data/sample/samples.npy, (classes, samples, 28, 28, 1) uint8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.common import tables
from stages.common.errors import StageError
from stages.quickdraw import IMAGE_SHAPE

FOLDER = Path("data/sample")
IMAGES = "samples.npy"


def read(num_classes: int, per_class: int) -> npt.NDArray[np.uint8]:
    """Open all generated drawings without reading them into memory.

    Args:
      num_classes: the number of classes that the file must have.
      per_class: the minimum number of drawings of each class.

    Returns:
      (classes, samples, 28, 28, 1) uint8.

    Raises:
      StageError: the file is missing or cannot be used.
    """
    path = FOLDER / IMAGES
    if not path.exists():
        raise StageError(f"{path} is missing: run the stage sample first")
    try:
        samples = tables.open_memmap(path)
    except ValueError as error:
        raise StageError(f"{path} cannot be used ({error}): run the stage sample again") from None
    expected = (num_classes, per_class, *IMAGE_SHAPE)
    if samples.ndim != 5 or samples[:, :per_class].shape != expected:
        raise StageError(
            f"{path} cannot be used (it has the shape {samples.shape}; expected: {expected}, or more drawings): "
            "run the stage sample again"
        )
    return samples
