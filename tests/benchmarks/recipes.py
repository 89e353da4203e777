"""The post's recipe on TFP's PixelCNN compared with a run: with the same size, number of steps and drawings.

    python -m tests.benchmarks.recipes

Run it in the root of a repository in which the pipeline has run. It trains `tfp.distributions.PixelCNN` as in the post
(the raw label as the condition, dropout 0.5, Adam at 0.001, no averaging), with the run's num_resnet, num_hierarchies,
num_filters, num_logistic_mix, steps and batch size. The stages sample and evaluate then compute the metrics in the same
way as for the run. It takes minutes for `quick`, because TFP's steps are slower. Prints the metrics of both, one per
line, and then as one line of JSON.
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

METRICS = Path("reports/metrics.json")
POST_SETTINGS = {"conditioning": "label", "position": "none", "dropout_p": 0.5, "temperature": 1.0, "guidance": 1.0}
LEARNING_RATE = 0.001


def main() -> None:
    root = Path.cwd()
    settings = params.load()
    with tempfile.TemporaryDirectory() as temporary:
        post_root = Path(temporary)
        write(post_root, settings.model_dump() | POST_SETTINGS)
        (post_root / "data/train").mkdir(parents=True)
        for folder in (root / "data").iterdir():
            if folder.name not in ("train", "sample", "evaluate"):
                (post_root / "data" / folder.name).symlink_to(folder)
        started = time.perf_counter()
        model.save(fit(settings), post_root / model.FOLDER)
        seconds = time.perf_counter() - started
        for stage in ("sample", "evaluate"):
            subprocess.run([sys.executable, "-m", f"stages.{stage}"], cwd=post_root, check=True)
        post_metrics: dict[str, Any] = json.loads((post_root / METRICS).read_text())
    run_metrics = json.loads((root / METRICS).read_text())
    print(f"\n{'':32}{'the post on TFP':>18}{'the run':>18}")
    for name in run_metrics:
        print(f"{name:32}{post_metrics[name]:>18}{run_metrics[name]:>18}")
    print(json.dumps({"post": post_metrics | {"training_s": round(seconds)}, "ours": run_metrics}))


def fit(settings: Params) -> model.Model:
    """TFP's distribution, trained with the post's recipe."""
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
    converted = PixelCNN.from_tfp(dist)
    weights = {name: value.numpy() for name, value in converted.network.parameters.items()}
    return model.Model(converted.config, data.classes(settings.classes), "label", weights)


if __name__ == "__main__":
    main()
