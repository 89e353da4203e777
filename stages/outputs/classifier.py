"""The judge, a classifier of real drawings, and its files in data/judge/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common import device, files
from stages.common.classes import Class
from stages.common.errors import StageError

FOLDER = Path("data/judge")
WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
DROPOUT = 0.4


@dataclass(frozen=True)
class Predictions:
    """The judge's output for N drawings.

    Attributes:
      probabilities: (N, classes), in the order of the judge's classes.
      features: (N, 128), penultimate-layer features.
    """

    probabilities: npt.NDArray[np.float64]
    features: npt.NDArray[np.float64]


class Judge:
    """The classifier: three convolutions, global max pooling, and a dense layer.

    Args:
      classes: as below.
      image_shape: height, width and channels of a drawing.

    Attributes:
      classes: the classes that it predicts, in order.
      network: the Keras model, from images to (logits, features).
    """

    def __init__(self, classes: Sequence[Class], image_shape: tuple[int, int, int]) -> None:
        from tf_keras import Model, layers

        self.classes = tuple(classes)
        image = layers.Input(image_shape)
        features = layers.Rescaling(1 / 255)(image)
        for width, last in ((32, False), (64, False), (128, True)):
            features = layers.Conv2D(width, 3, padding="same", activation="relu")(features)
            features = (layers.GlobalMaxPooling2D() if last else layers.MaxPooling2D())(features)
        logits = layers.Dense(len(self.classes))(layers.Dropout(DROPOUT)(features))
        self.network = Model(image, [logits, features])

    def predict(self, images: npt.NDArray[np.uint8]) -> Predictions:
        """Predict the classes of drawings, (N, height, width, channels) uint8."""
        from scipy.special import softmax

        logits, features = self.network.predict(images, batch_size=256, verbose=0)
        return Predictions(softmax(logits.astype(np.float64), axis=1), features.astype(np.float64))


def save(judge: Judge, folder: Path) -> None:
    """Write the judge's weights and classes into a folder."""
    from safetensors.numpy import save_file

    save_file({f"{index:02}": value for index, value in enumerate(judge.network.get_weights())}, folder / WEIGHTS)
    config = {"classes": [asdict(entry) for entry in judge.classes]}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def fingerprint(folder: Path = FOLDER) -> str:
    """The first eight digits of the SHA-256 of the judge's weights, by which judges are told apart.

    The weights count, not the settings that they were learned with. Another device or number of threads rounds
    differently, and training amplifies that: after 600 steps on one thread in place of two, a judge recognised 72% in
    place of 76% of the same drawings, and a Fréchet distance changed by 2%. With another seed they were 75% and 12%.
    """
    return files.sha256(folder / WEIGHTS)[:8]


def load(image_shape: tuple[int, int, int], folder: Path = FOLDER) -> Judge:
    """Read the judge of drawings of a shape from a folder.

    Raises:
      StageError: a file is missing or cannot be used, or the judge is one of drawings with other channels.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).exists():
            raise StageError(f"{folder / name} is missing: run the stage judge first")
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_arrays

    try:
        config: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        classes = [Class(int(entry["label"]), str(entry["name"])) for entry in config["classes"]]
        weights = load_arrays((folder / WEIGHTS).read_bytes())
        with device.capture_stderr():
            judge = Judge(classes, image_shape)
        judge.network.set_weights([weights[name] for name in sorted(weights)])
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise StageError(f"{folder} cannot be used ({reason}): run the stage judge again") from None
    return judge
