"""Train the judge: a small classifier of real drawings, which says of a drawing what class it shows.

It never sees a generated drawing while it learns, nor a held-out one.

reads    data/filter/
writes   data/judge/weights.safetensors   its weights
         data/judge/config.json           its classes: label, name
command  python -m stages.judge
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stages import command
from stages.common import device, files
from stages.common.classes import Class, class_indices
from stages.common.progress import progress
from stages.outputs import dataset
from stages.outputs.classifier import FOLDER, Judge, save
from stages.outputs.dataset import Drawings
from stages.params import Params

BATCH_SIZE = 64
LEARNING_RATE = 2e-3  # at the start; it falls to nothing along a cosine
MAX_SHIFT = 2  # pixels at the most that a drawing is moved by, so that the judge heeds shapes and not places


def main(settings: Params) -> None:
    """Run the stage."""
    data = dataset.load()
    classes = data.classes(settings.classes)
    device.configure(settings.device, settings.deterministic)
    with files.atomic_folder(FOLDER) as folder:
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
    images, targets = np.asarray(data.images), class_indices(data.labels, classes)
    waiting = np.zeros(0, np.int64)
    with progress("judge", steps * BATCH_SIZE, "drawings") as add:
        for _ in range(steps):
            while len(waiting) < BATCH_SIZE:
                waiting = np.concatenate([waiting, random.permutation(len(images))])
            chosen, waiting = waiting[:BATCH_SIZE], waiting[BATCH_SIZE:]
            moved = shift_images(images[chosen], random.integers(-MAX_SHIFT, MAX_SHIFT + 1, (BATCH_SIZE, 2)))
            step(tf.constant(moved, tf.float32), tf.constant(targets[chosen]))
            add(BATCH_SIZE)
    return judge


def shift_images(images: npt.NDArray[np.uint8], by: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Drawings (N, 28, 28, 1) moved down and to the right by (N, 2) pixels, paper coming in from the other side."""
    most = int(np.abs(by).max(initial=0))
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    rows = np.arange(images.shape[1]) + most - by[:, :1]
    columns = np.arange(images.shape[2]) + most - by[:, 1:]
    return padded[np.arange(len(images))[:, np.newaxis, np.newaxis], rows[:, :, np.newaxis], columns[:, np.newaxis]]


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="num_drawings"))
