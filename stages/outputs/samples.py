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
    """All generated drawings, left on disk until they are used.

    Args:
      num_classes: how many classes there must be.
      per_class: how many drawings of each there must be at least.

    Raises:
      StageError: the file is missing or unreadable, or holds other numbers of drawings.
    """
    path = FOLDER / IMAGES
    if not path.exists():
        raise StageError(f"{path} is not there: run the stage sample first")
    try:
        samples = tables.open_memmap(path)
    except ValueError as error:
        raise StageError(f"{path} cannot be used ({error}): run the stage sample again") from None
    expected = (num_classes, per_class, *IMAGE_SHAPE)
    if samples.ndim != 5 or samples[:, :per_class].shape != expected:
        raise StageError(
            f"{path} cannot be used (its shape is {samples.shape}; expected: {expected} or more of each class): "
            "run the stage sample again"
        )
    return samples
