"""The post's recipe on TFP's PixelCNN, beside the run at hand: as large, for as many steps, on the same drawings.

    python -m tests.benchmarks.recipes

Run it at the root of a repository in which the pipeline has run. It trains `tfp.distributions.PixelCNN` as the post
does (the raw label as the condition, dropout 0.5, Adam at 0.001, nothing averaged), with the run's num_resnet,
num_hierarchies, num_filters, num_logistic_mix, steps and batch size, and lets the stages sample and evaluate measure
the outcome as they measured the run's. Minutes for `quick`: TFP's steps are slower. Prints both runs' figures, a line
each, and then as one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from stages import params, train
from stages.outputs import dataset, model
from stages.params import Params
from tests.settings import write

FOUND = Path("reports/metrics.json")
OF_THE_POST = {"conditioning": "label", "position": "none", "dropout_p": 0.5, "temperature": 1.0, "guidance": 1.0}
LEARNING_RATE = 0.001


def main() -> None:
    here = Path.cwd()
    settings = params.load()
    with tempfile.TemporaryDirectory() as temporary:
        there = Path(temporary)
        write(there, settings.model_dump() | OF_THE_POST)
        (there / "data/train").mkdir(parents=True)
        for folder in (here / "data").iterdir():
            if folder.name not in ("train", "sample", "evaluate"):
                (there / "data" / folder.name).symlink_to(folder)
        started = time.perf_counter()
        model.save(fit(settings), there / model.FOLDER)
        spent = time.perf_counter() - started
        for stage in ("sample", "evaluate"):
            subprocess.run([sys.executable, "-m", f"stages.{stage}"], cwd=there, check=True)
        theirs: dict[str, Any] = json.loads((there / FOUND).read_text())
    ours = json.loads((here / FOUND).read_text())
    print(f"\n{'':32}{'the post on TFP':>18}{'the run at hand':>18}")
    for name in ours:
        print(f"{name:32}{theirs[name]:>18}{ours[name]:>18}")
    print(json.dumps({"post": theirs | {"training_s": round(spent)}, "ours": ours}))


def fit(settings: Params) -> model.Model:
    """TFP's distribution, fitted by the post's recipe."""
    import tensorflow as tf
    import tf_keras
    from tensorflow_probability import distributions as tfd

    from stages.pixelcnn import PixelCNN

    data = dataset.load()
    training = data.where(~data.heldout)
    order = train.BatchOrder(
        len(training.labels), settings.batch_size, settings.epochs, settings.seed, settings.max_steps
    )
    tf.random.set_seed(settings.seed)
    dist = tfd.PixelCNN(
        image_shape=(28, 28, 1),
        conditional_shape=(),
        num_resnet=settings.num_resnet,
        num_hierarchies=settings.num_hierarchies,
        num_filters=settings.num_filters,
        num_logistic_mix=settings.num_logistic_mix,
        dropout_p=0.5,
    )
    adam = tf_keras.optimizers.Adam(LEARNING_RATE)

    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(dist.log_prob(images, conditional_input=labels, training=True))
        variables = dist.trainable_variables
        adam.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss / (784 * np.log(2))

    compiled = tf.function(step)

    for number in range(order.steps):
        batch = order.batch(number)
        bits = compiled(training.images[batch].astype(np.float32), training.labels[batch].astype(np.float32))
        if number % 50 == 0:
            print(f"step {number} of {order.steps}: {bits.numpy():.3f} bits per dimension", flush=True)
    ours = PixelCNN.from_tfp(dist)
    weights = {name: value.numpy() for name, value in ours.network.parameters.items()}
    return model.Model(ours.config, data.classes(settings.classes), "label", weights)


if __name__ == "__main__":
    main()
