"""What sample writes.

data/sample/samples.npy    the generated drawings, (classes, samples, height, width, channels) uint8
data/sample/settings.json  the settings that determine them together with the model
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.common import tables
from stages.common.errors import StageError

FOLDER = Path("data/sample")
IMAGES = "samples.npy"
SETTINGS = "settings.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How drawings are sampled: the settings of these names in params.yaml."""

    seed: int = 0
    temperature: float = 1.0
    guidance: float = 1.0


def write_settings(path: Path, settings: Settings) -> None:
    """Write the settings of a run's drawings."""
    path.write_text(json.dumps(dataclasses.asdict(settings), indent=2) + "\n", encoding="utf-8")


def read_settings(path: Path) -> Settings:
    """Read the settings of a run's drawings. Raises `StageError` if the file is missing or cannot be used."""
    try:
        values = json.loads(path.read_bytes())
        return Settings(int(values["seed"]), float(values["temperature"]), float(values["guidance"]))
    except FileNotFoundError:
        raise StageError(f"{path} is missing: run the stage sample first") from None
    except (KeyError, TypeError, ValueError) as error:
        raise StageError(f"{path} cannot be used ({error}): run the stage sample again") from None


def read(num_classes: int, per_class: int) -> npt.NDArray[np.uint8]:
    """Open all generated drawings without reading them into memory.

    Args:
      num_classes: the number of classes that the file must have.
      per_class: the minimum number of drawings of each class.

    Returns:
      (classes, samples, height, width, channels) uint8.

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
    if samples.ndim != 5 or len(samples) != num_classes or samples.shape[1] < per_class:
        raise StageError(
            f"{path} cannot be used (it has the shape {samples.shape}; expected: ({num_classes}, {per_class} "
            "or more, height, width, channels)): run the stage sample again"
        )
    return samples
