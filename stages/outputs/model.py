"""A trained model on the disk: what train leaves, and sample and evaluate read.

data/train/weights.safetensors   the weights to sample from and to evaluate, float32
data/train/config.json           the architecture, the classes and how they condition it; with it the weights suffice
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

# The length of a class's one-hot vector. The class is worth some 10 bits of a drawing's 1,300, and a step of Adam is as
# long for the weights that see it as for any other: a longer vector has it learned sooner. With 1, 3 and 10, trained
# alike for minutes, the label likeliest for a held-out drawing was its own for 42%, 51% and 56%.
ONE_HOT_SCALE = 5.0


@dataclasses.dataclass(frozen=True)
class Model:
    """A network, the classes it knows and how it is told of them.

    Attributes:
      config: the architecture.
      classes: in the order of the setting `classes`.
      conditioning: "one_hot", a vector over the classes, or "label", the raw label number.
      weights: of the network by name, as `stages.pixelcnn.network.shapes` lists them.
    """

    config: Config
    classes: Sequence[Class]
    conditioning: str
    weights: Mapping[str, npt.NDArray[np.float32]]

    def condition(self, labels: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """What the network is told of drawings with these labels; a leading axis for the drawings."""
        return encode_labels(labels, self.classes, self.conditioning)


def encode_labels(labels: npt.ArrayLike, classes: Sequence[Class], conditioning: str) -> npt.NDArray[np.float32]:
    """Labels as the network's conditional input: (n,) numbers as they are, or (n, classes) one-hot, of `ONE_HOT`."""
    numbers = np.asarray(labels)
    if conditioning == "one_hot":
        numbers = ONE_HOT_SCALE * (numbers[:, np.newaxis] == np.array([known.label for known in classes]))
    return np.asarray(numbers, np.float32)


def conditional_shape(classes: Sequence[Class], conditioning: str) -> tuple[int, ...]:
    """The shape of one drawing's condition."""
    return () if conditioning == "label" else (len(classes),)


def save(model: Model, folder: Path) -> None:
    """Write the weights and the configuration into a folder."""
    from stages.pixelcnn import weights

    weights.save(folder / WEIGHTS, model.weights)
    described = {
        "classes": [dataclasses.asdict(known) for known in model.classes],
        "conditioning": model.conditioning,
        "network": dataclasses.asdict(model.config),
    }
    (folder / CONFIG).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def load(folder: Path = FOLDER) -> Model:
    """The model in a folder. Raises `StageError` for one that is not there, or whose weights do not fit."""
    path = folder / CONFIG
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise StageError(f"{path} is not there: run the stage train first") from None

    with device.capture_stderr():  # TensorFlow comes with it, once there is something to read
        from stages.pixelcnn import weights

    try:
        described: dict[str, Any] = json.loads(text)
        config = weights.config_from(described["network"])
        classes = tuple(Class(int(known["label"]), str(known["name"])) for known in described["classes"])
        conditioning = str(described["conditioning"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StageError(f"{path} does not describe a model ({error}): run the stage train again") from None
    try:
        return Model(config, classes, conditioning, weights.load(folder / WEIGHTS, config))
    except FileNotFoundError:
        raise StageError(f"{folder / WEIGHTS} is not there: run the stage train first") from None
    except ValueError as error:
        raise StageError(f"{error}: run the stage train again") from None
