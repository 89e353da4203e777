"""Train the judge, a classifier of real drawings.

It is not trained on generated or held-out drawings.

reads    data/filter/
writes   data/judge/weights.safetensors   the weights
         data/judge/config.json           the classes: label, name
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
LEARNING_RATE = 2e-3  # initial; it falls to 0 along a cosine
MAX_SHIFT = 1 / 14  # of the shorter side; random shifts teach the judge to ignore the position of a drawing


def main(settings: Params) -> None:
    """Run the stage."""
    data = dataset.load()
    classes = data.classes(settings.classes)
    device.configure(settings.device, settings.deterministic)
    with files.atomic_folder(FOLDER) as folder:
        judge = train(data.where(~data.heldout), classes, settings.judge_steps, settings.judge_seed)
        save(judge, folder)


def train(data: Drawings, classes: Sequence[Class], steps: int, seed: int) -> Judge:
    """Train a judge on drawings, each shifted at random every time it is used.

    Args:
      data: the training drawings.
      classes: the classes to predict.
      steps: training steps, of `BATCH_SIZE` drawings each.
      seed: the random seed of weights, dropout, shuffling and shifts.
    """
    import tensorflow as tf
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    judge = Judge(classes, data.image_shape)
    max_shift = max(round(min(data.image_shape[:2]) * MAX_SHIFT), 1)
    optimizer = tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps))

    @tf.function(autograph=False)
    def step(images: tf.Tensor, targets: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits, _ = judge.network(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
        weights = judge.network.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    random = np.random.default_rng(seed)
    targets = class_indices(data.labels, classes)
    queue = np.zeros(0, np.int64)  # indices of the next drawings
    with progress("judge", steps * BATCH_SIZE, "drawings") as add:
        for _ in range(steps):
            while len(queue) < BATCH_SIZE:
                queue = np.concatenate([queue, random.permutation(len(targets))])
            batch, queue = queue[:BATCH_SIZE], queue[BATCH_SIZE:]
            shifted = shift_images(data.images[batch], random.integers(-max_shift, max_shift + 1, (BATCH_SIZE, 2)))
            step(tf.constant(shifted, tf.float32), tf.constant(targets[batch]))
            add(BATCH_SIZE)
    return judge


def shift_images(images: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Shift drawings, and fill the uncovered pixels with paper.

    Args:
      images: (N, height, width, channels).
      offsets: (N, 2), pixels down and to the right.

    Returns:
      As `images`.
    """
    margin = int(np.abs(offsets).max(initial=0))
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    rows = np.arange(images.shape[1]) + margin - offsets[:, :1]
    columns = np.arange(images.shape[2]) + margin - offsets[:, 1:]
    return padded[np.arange(len(images))[:, np.newaxis, np.newaxis], rows[:, :, np.newaxis], columns[:, np.newaxis]]


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="num_drawings"))
