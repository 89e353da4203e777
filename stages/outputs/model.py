"""The trained model, and its files in data/train/, which train writes and sample and evaluate read.

weights.safetensors   the weights to sample with and to evaluate, float32
config.json           the architecture, the classes and how they are encoded; the two files rebuild the model
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.common import device
from stages.common.classes import Class as Class
from stages.common.errors import StageError

if TYPE_CHECKING:
    from stages.pixelcnn.network import Config

FOLDER = Path("data/train")
WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
FORMAT = 1  # of config.json; a file without a number is older, and lacks `one_hot_scale`

# Length of a class's one-hot vector. The class is worth about 10 of a drawing's 1,300 bits, and Adam's steps for the
# weights of the class are as long as for all others, so the network learns the class sooner from a longer vector. The
# label accuracy was 42%, 51% and 56% for lengths 1, 3 and 10, after equal training for minutes.
ONE_HOT_SCALE = 5.0


@dataclasses.dataclass(frozen=True)
class Model:
    """A network, its classes and its class input.

    Attributes:
      config: the architecture.
      classes: in the order of the setting `classes`.
      conditioning: "one_hot", a vector over the classes, or "label", the raw label number.
      weights: the network's weights by name, as listed by `stages.pixelcnn.network.shapes`.
      one_hot_scale: the length of a class's one-hot vector.
    """

    config: Config
    classes: Sequence[Class]
    conditioning: str
    weights: Mapping[str, npt.NDArray[np.float32]]
    one_hot_scale: float = ONE_HOT_SCALE

    def condition(self, labels: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the network's conditional input for drawings with these labels, (N,): (N,) or (N, classes)."""
        return encode_labels(labels, self.classes, self.conditioning, self.one_hot_scale)

    def guidance_reference(self) -> npt.NDArray[np.float32]:
        """Return the conditional input from which guidance extrapolates: the mean of those of all classes.

        The model was never trained on it, but its output there lies between those of the classes, and guidance needs
        no more.
        """
        return np.asarray(self.condition([entry.label for entry in self.classes]).mean(axis=0))


def encode_labels(
    labels: npt.ArrayLike, classes: Sequence[Class], conditioning: str, one_hot_scale: float = ONE_HOT_SCALE
) -> npt.NDArray[np.float32]:
    """Encode labels as the network's conditional input.

    Args:
      labels: (N,).
      classes: the classes of the model.
      conditioning: "one_hot" or "label".
      one_hot_scale: the length of a class's one-hot vector.

    Returns:
      For "label", (N,) raw label numbers; for "one_hot", (N, classes) with `one_hot_scale` at the class.
    """
    condition = np.asarray(labels)
    if conditioning == "one_hot":
        condition = one_hot_scale * (condition[:, np.newaxis] == np.array([entry.label for entry in classes]))
    return np.asarray(condition, np.float32)


def conditional_shape(classes: Sequence[Class], conditioning: str) -> tuple[int, ...]:
    """Return the shape of one drawing's conditional input."""
    return () if conditioning == "label" else (len(classes),)


def save(model: Model, folder: Path) -> None:
    """Write the weights and the configuration into a folder."""
    from stages.pixelcnn import weights

    weights.save(folder / WEIGHTS, model.weights)
    config = {
        "format": FORMAT,
        "classes": [dataclasses.asdict(entry) for entry in model.classes],
        "conditioning": model.conditioning,
        "one_hot_scale": model.one_hot_scale,
        "network": dataclasses.asdict(model.config),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path = FOLDER) -> Model:
    """Read the model from a folder. Raises `StageError` if a file is missing or cannot be used."""
    path = folder / CONFIG
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise StageError(f"{path} is missing: run the stage train first") from None

    with device.capture_stderr():  # this imports TensorFlow, so it comes after the check for a missing file
        from stages.pixelcnn import weights

    try:
        values: dict[str, Any] = json.loads(text)
        if (number := values.get("format", 0)) not in range(FORMAT + 1):
            raise ValueError(f"its format is {number!r}, and this version reads up to {FORMAT}")
        config = weights.config_from(values["network"])
        classes = tuple(Class(int(entry["label"]), str(entry["name"])) for entry in values["classes"])
        conditioning = str(values["conditioning"])
        one_hot_scale = float(values.get("one_hot_scale", ONE_HOT_SCALE))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StageError(f"{path} cannot be used ({error}): run the stage train again") from None
    try:
        return Model(config, classes, conditioning, weights.load(folder / WEIGHTS, config), one_hot_scale)
    except FileNotFoundError:
        raise StageError(f"{folder / WEIGHTS} is missing: run the stage train first") from None
    except ValueError as error:
        raise StageError(f"{folder / WEIGHTS} cannot be used ({error}): run the stage train again") from None
