"""Train the judge: a small classifier of real drawings, which says of a drawing what class it shows.

It never sees a generated drawing while it learns, nor a held-out one.

reads    data/filter/
writes   data/judge/weights.safetensors   its weights
         data/judge/config.json           its classes: label, name
command  python -m stages.judge
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages import command, device, drawings, files
from stages.classes import Class
from stages.drawings import Drawings
from stages.errors import StageError
from stages.params import Params
from stages.progress import progress

FOLDER = Path("data/judge")
WEIGHTS = "weights.safetensors"
CONFIG = "config.json"

BATCH = 64
LEARNING_RATE = 2e-3  # at the start; it falls to nothing along a cosine
DROPOUT = 0.4
SHIFT = 2  # pixels at the most that a drawing is moved by, so that the judge heeds shapes and not places


@dataclass(frozen=True)
class Opinions:
    """What the judge says of N drawings.

    Attributes:
      probabilities: (N, classes), in the order of the judge's classes.
      features: (N, 128), what it sees before it decides.
    """

    probabilities: npt.NDArray[np.float64]
    features: npt.NDArray[np.float64]


class Judge:
    """The classifier: three convolutions, the most of each over the drawing, and a dense layer."""

    def __init__(self, classes: Sequence[Class]) -> None:
        from tf_keras import Model, layers

        self.classes = tuple(classes)
        drawing = layers.Input((28, 28, 1))
        seen = layers.Rescaling(1 / 255)(drawing)
        for width, last in ((32, False), (64, False), (128, True)):
            seen = layers.Conv2D(width, 3, padding="same", activation="relu")(seen)
            seen = (layers.GlobalMaxPooling2D() if last else layers.MaxPooling2D())(seen)
        logits = layers.Dense(len(self.classes))(layers.Dropout(DROPOUT)(seen))
        self.network = Model(drawing, [logits, seen])

    def look(self, images: npt.NDArray[np.uint8]) -> Opinions:
        """Its opinion of drawings (N, 28, 28, 1) uint8."""
        from scipy.special import softmax

        logits, seen = self.network.predict(images, batch_size=256, verbose=0)
        return Opinions(softmax(logits.astype(np.float64), axis=1), seen.astype(np.float64))


def main(settings: Params) -> None:
    """Run the stage."""
    data = drawings.load()
    classes = data.classes(settings.classes)
    device.use(settings.device, settings.deterministic)
    with files.folder(FOLDER) as folder:
        judge = train(data.where(~data.heldout), classes, settings.judge_steps, settings.judge_seed)
        save(judge, folder)


def train(data: Drawings, classes: Sequence[Class], steps: int, seed: int) -> Judge:
    """A judge that has learnt from drawings, each moved a little every time that it is shown."""
    import tensorflow as tf
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    judge = Judge(classes)
    optimizer = tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps))

    @tf.function(autograph=False)
    def step(images: tf.Tensor, targets: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits, _ = judge.network(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
        weights = judge.network.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    random = np.random.default_rng(seed)
    images, targets = np.asarray(data.images), places(data.labels, classes)
    waiting = np.zeros(0, np.int64)
    with progress("judge", steps * BATCH, "drawings") as add:
        for _ in range(steps):
            while len(waiting) < BATCH:
                waiting = np.concatenate([waiting, random.permutation(len(images))])
            chosen, waiting = waiting[:BATCH], waiting[BATCH:]
            moved = shift(images[chosen], random.integers(-SHIFT, SHIFT + 1, (BATCH, 2)))
            step(tf.constant(moved, tf.float32), tf.constant(targets[chosen]))
            add(BATCH)
    return judge


def shift(images: npt.NDArray[np.uint8], by: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Drawings (N, 28, 28, 1) moved down and to the right by (N, 2) pixels, paper coming in from the other side."""
    most = int(np.abs(by).max(initial=0))
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    rows = np.arange(images.shape[1]) + most - by[:, :1]
    columns = np.arange(images.shape[2]) + most - by[:, 1:]
    return padded[np.arange(len(images))[:, np.newaxis, np.newaxis], rows[:, :, np.newaxis], columns[:, np.newaxis]]


def places(labels: npt.NDArray[np.int16], classes: Sequence[Class]) -> npt.NDArray[np.int64]:
    """The place of each label among the classes."""
    known = np.array([entry.label for entry in classes])
    order = np.argsort(known)
    return np.asarray(order[np.searchsorted(known, labels, sorter=order)])


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
        with device.quiet():
            judge = Judge(classes)
        judge.network.set_weights([weights[name] for name in sorted(weights)])
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise StageError(f"{folder} holds no judge ({reason}): run the stage judge again") from None
    return judge


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="num_drawings"))
