"""How the model learned, which train writes: a drawing of each class, from the same noise, after several steps.

data/train/film.safetensors   steps, (frames,) int64, and drawings, (frames, classes, height, width, channels) uint8
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.errors import StageError

FILE = "film.safetensors"
ARRAYS = {"steps": (np.dtype(np.int64), 1), "drawings": (np.dtype(np.uint8), 5)}  # the type and the number of axes


class Film(NamedTuple):
    """The frames in order, none if they would have taken too much of the training's time.

    Attributes:
      steps: (frames,) int64, the number of training steps before each frame.
      drawings: (frames, classes, height, width, channels) uint8, classes in the order of the model.
    """

    steps: npt.NDArray[np.int64]
    drawings: npt.NDArray[np.uint8]


def write(path: Path, film: Film) -> None:
    """Write a film."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in film._asdict().items()}, path)


def read(path: Path) -> Film:
    """Read a film. Raises `StageError` if the file is missing or cannot be used."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(path.read_bytes())
        for name, (dtype, axes) in ARRAYS.items():
            if arrays[name].dtype != dtype or arrays[name].ndim != axes:
                raise ValueError(f"{name} is {arrays[name].dtype}, with {arrays[name].ndim} axes")
        if len(arrays["steps"]) != len(arrays["drawings"]):
            raise ValueError("it has another number of steps than of frames")
    except FileNotFoundError:
        raise StageError(f"{path} is missing: run the stage train first") from None
    except (KeyError, ValueError, SafetensorError) as error:
        raise StageError(f"{path} cannot be used ({error}): run the stage train again") from None
    return Film(arrays["steps"], arrays["drawings"])
