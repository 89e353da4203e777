"""The judge, a small classifier of real drawings, and its files: data/judge/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common import device
from stages.common.classes import Class
from stages.common.errors import StageError
from stages.quickdraw import IMAGE_SHAPE

FOLDER = Path("data/judge")
WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
DROPOUT = 0.4


@dataclass(frozen=True)
class Predictions:
    """What the judge says of N drawings.

    Attributes:
      probabilities: (N, classes), in the order of the judge's classes.
      features: (N, 128), penultimate-layer features.
    """

    probabilities: npt.NDArray[np.float64]
    features: npt.NDArray[np.float64]


class Judge:
    """The classifier: three convolutions, global max pooling, and a dense layer."""

    def __init__(self, classes: Sequence[Class]) -> None:
        from tf_keras import Model, layers

        self.classes = tuple(classes)
        drawing = layers.Input(IMAGE_SHAPE)
        seen = layers.Rescaling(1 / 255)(drawing)
        for width, last in ((32, False), (64, False), (128, True)):
            seen = layers.Conv2D(width, 3, padding="same", activation="relu")(seen)
            seen = (layers.GlobalMaxPooling2D() if last else layers.MaxPooling2D())(seen)
        logits = layers.Dense(len(self.classes))(layers.Dropout(DROPOUT)(seen))
        self.network = Model(drawing, [logits, seen])

    def predict(self, images: npt.NDArray[np.uint8]) -> Predictions:
        """Class probabilities and features of drawings, (N, 28, 28, 1) uint8."""
        from scipy.special import softmax

        logits, seen = self.network.predict(images, batch_size=256, verbose=0)
        return Predictions(softmax(logits.astype(np.float64), axis=1), seen.astype(np.float64))


def save(judge: Judge, folder: Path) -> None:
    """Write the judge into a folder."""
    from safetensors.numpy import save_file

    save_file({f"{place:02}": value for place, value in enumerate(judge.network.get_weights())}, folder / WEIGHTS)
    described = {"classes": [asdict(known) for known in judge.classes]}
    (folder / CONFIG).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def load(folder: Path = FOLDER) -> Judge:
    """The judge in a folder. Raises `StageError` for one that is not there, or cannot be read."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).exists():
            raise StageError(f"{folder / name} is not there: run the stage judge first")
    from safetensors import SafetensorError
    from safetensors.numpy import load as arrays_from

    try:
        described: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        classes = [Class(int(known["label"]), str(known["name"])) for known in described["classes"]]
        weights = arrays_from((folder / WEIGHTS).read_bytes())
        with device.capture_stderr():
            judge = Judge(classes)
        judge.network.set_weights([weights[name] for name in sorted(weights)])
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise StageError(f"{folder} holds no judge ({reason}): run the stage judge again") from None
    return judge
