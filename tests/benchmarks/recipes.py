"""The post's recipe on TFP's PixelCNN compared with this project's: the same size, number of steps and drawings.

    python -m tests.benchmarks.recipes

Run it in the root of a repository in which the pipeline has run, for instance with the profile `quick`. It trains two
models, in turns, so that other load on the machine slows both: `tfp.distributions.PixelCNN` as in the post (the raw
label as the condition, dropout 0.5, Adam at 0.001, no averaging), and this project's network with the run's settings.
Both have the run's num_resnet, num_hierarchies, num_filters, num_logistic_mix, steps and batch size. The stages sample
and evaluate then compute the metrics of both in the same way. Prints, and then as one line of JSON:

- bits per dimension on some held-out drawings by step and by seconds of training, which include tracing;
- the seconds until this project's bits are those with which the post's recipe ends;
- the metrics at the end, on all held-out drawings and on generated ones.

With the profile quick, seed 0, and 48 generated drawings of each class, on two slow cores with other work beside:

              the post on TFP                      ours
step       seconds        bits       seconds        bits
  48         139.6       2.361          60.3       2.169
 185         241.9       2.145         125.2       1.865
 571         639.0       2.022         484.3       1.739
1403        2251.3       1.899         950.7       1.647
2200        2714.3       1.857        1243.0       1.596

Ours has the post's final 1.857 bits after 131 s, a 21st of the post's time. The other work slowed the later steps most:
with the steps of a quiet machine (0.48 and 0.33 s, after 31 and 13 s), it is a 14th. At the end, post and ours: label
accuracy 6% and 68%, class accuracy 8% and 83%, Fréchet distance 24.1 and 17.0, recall .45 and .65.

What the parts of the recipe give, with 32 channels, 1,600 steps and the guidance 3, for the seeds 0 and 1 (seed 0 on a
GPU, except for the noise of 0.06):

recipe                             held-out bits      class accuracy
Adam at 0.003                      1.716   1.707       49%   52%
Muon                               1.622   1.620       63%   68%
Muon and an input_noise of 0.06    1.624   1.630       67%   74%
Muon and an input_noise of 0.12    1.643   1.646       70%   80%

What changes little, with 32 channels and 1,200 steps: bits per dimension on some held-out drawings, seeds 0 and 1.

as in quick                                                      1.658   1.666
rates that rise during the first 100 steps                       1.658   1.656
rates that end at 0                                              1.655
2,400 steps of 4 drawings, rates divided by the square root of 2 1.654
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages import params, train
from stages.outputs import dataset, model
from stages.outputs.dataset import Drawings
from stages.params import Params
from tests.settings import write

METRICS = Path("reports/metrics.csv")
POST_SETTINGS = {"conditioning": "label", "position": "none", "dropout_p": 0.5, "temperature": 1.0, "guidance": 1.0}
LEARNING_RATE = 0.001
MEASUREMENTS = 25  # of the held-out bits, at steps that grow geometrically


class Training(ABC):
    """A training that can be continued by some steps.

    Attributes:
      settings: of the model.
      seconds: of all steps so far.
    """

    def __init__(self, settings: Params, data: Drawings) -> None:
        self.settings = settings
        self.seconds = 0.0
        self.training, heldout = data.where(~data.heldout), data.where(data.heldout)
        self.order = train.BatchOrder(
            len(self.training.labels), settings.batch_size, settings.epochs, settings.seed, settings.max_steps
        )
        self.classes = data.classes(settings.classes)
        chosen = train.evenly_spaced(len(heldout.labels), train.HELDOUT_DRAWINGS)
        self.heldout = heldout.where(np.isin(np.arange(len(heldout.labels)), chosen))
        self.done = 0

    def train(self, step: int) -> None:
        """Train up to a number of steps."""
        started = time.perf_counter()
        for number in range(self.done, step):
            batch = self.order.batch(number)
            self.step(number, self.training.images[batch], self.condition(self.training.labels[batch]))
        self.done = step
        self.seconds += time.perf_counter() - started

    def condition(self, labels: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        return model.encode_labels(labels, self.classes, self.settings.conditioning)

    @abstractmethod
    def step(self, number: int, images: npt.NDArray[np.uint8], condition: npt.NDArray[np.float32]) -> None:
        """Run one step."""

    @abstractmethod
    def model(self) -> model.Model:
        """The model as it is now."""

    @abstractmethod
    def heldout_bits(self) -> float:
        """Bits per dimension on some held-out drawings."""


class Ours(Training):
    """This project's network, trained as the stage train does."""

    def __init__(self, settings: Params, data: Drawings) -> None:
        super().__init__(settings, data)
        from stages.pixelcnn.training import Trainer

        config = train.network_config(settings, self.classes, data.image_shape)
        first = self.order.drawings(0, train.INITIAL_DRAWINGS)
        started = time.perf_counter()
        weights = train.initial_weights(
            config, settings.seed, self.training.images[first], self.condition(self.training.labels[first])
        )
        self.trainer = Trainer(config, train.training_config(settings, self.order.steps), weights)
        self.seconds += time.perf_counter() - started

    def step(self, number: int, images: npt.NDArray[np.uint8], condition: npt.NDArray[np.float32]) -> None:
        float(self.trainer.step(number, images, condition)[0])

    def model(self) -> model.Model:
        weights = {name: variable.numpy() for name, variable in self.trainer.averages.items()}
        return model.Model(self.trainer.config, self.classes, self.settings.conditioning, weights)

    def heldout_bits(self) -> float:
        bits = self.trainer.evaluate(self.heldout.images[:], self.condition(self.heldout.labels), self.order.batch_size)
        return float(bits.mean())


class Post(Training):
    """TFP's distribution, trained with the post's recipe."""

    def __init__(self, settings: Params, data: Drawings) -> None:
        super().__init__(settings, data)
        import tensorflow as tf
        import tf_keras
        from tensorflow_probability import distributions as tfd

        tf.random.set_seed(settings.seed)
        started = time.perf_counter()
        self.dist = dist = tfd.PixelCNN(
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
            return loss

        self.compiled = tf.function(step)
        self.seconds += time.perf_counter() - started

    def step(self, number: int, images: npt.NDArray[np.uint8], condition: npt.NDArray[np.float32]) -> None:
        float(self.compiled(images.astype(np.float32), condition))

    def model(self) -> model.Model:
        from stages.pixelcnn import PixelCNN

        converted = PixelCNN.from_tfp(self.dist)
        weights = {name: value.numpy() for name, value in converted.network.parameters.items()}
        return model.Model(converted.config, self.classes, "label", weights)

    def heldout_bits(self) -> float:
        from stages.pixelcnn import PixelCNN

        labels = self.condition(self.heldout.labels)
        log_prob = PixelCNN.from_tfp(self.dist).log_prob(self.heldout.images, conditional_input=labels)
        return float(-np.mean(log_prob) / (self.heldout.images[0].size * np.log(2.0)))


def main() -> None:
    settings, data = params.load(), dataset.load()
    post = Post(settings.model_copy(update=POST_SETTINGS), data)
    ours = Ours(settings, data)
    steps = np.unique(np.geomspace(10, ours.order.steps, MEASUREMENTS).astype(int))
    curves: dict[str, list[tuple[float, float]]] = {"post": [], "ours": []}
    print(f"{'':8}{'the post on TFP':>26}{'ours':>26}\n{'step':>8}" + f"{'seconds':>14}{'bits':>12}" * 2)
    for step in steps:
        for name, training in (("post", post), ("ours", ours)):
            training.train(int(step))
            curves[name].append((training.seconds, training.heldout_bits()))
        columns = "".join(f"{curve[-1][0]:>14.1f}{curve[-1][1]:>12.3f}" for curve in curves.values())
        print(f"{step:>8}{columns}", flush=True)
    end_seconds, end_bits = curves["post"][-1]
    seconds = seconds_until(curves["ours"], end_bits)
    if seconds is None:
        print(f"\nOurs does not reach the post's {end_bits:.3f} bits.")
    else:
        print(f"\nOurs has the post's final {end_bits:.3f} bits after {seconds:.1f} s;", end=" ")
        print(f"the post's recipe takes {end_seconds:.1f} s, {end_seconds / seconds:.1f} times as long.")
    metrics = {name: evaluate(training) for name, training in (("post", post), ("ours", ours))}
    print(f"\n{'':32}{'the post on TFP':>18}{'ours':>18}")
    for name in metrics["ours"]:
        print(f"{name:32}{metrics['post'][name]:>18}{metrics['ours'][name]:>18}")
    print(json.dumps({"steps": steps.tolist(), "curves": curves, "seconds_until": seconds, "metrics": metrics}))


def seconds_until(curve: list[tuple[float, float]], bits: float) -> float | None:
    """The seconds after which a curve of (seconds, bits) is at most `bits`, interpolated; None if it never is."""
    for (before, above), (after, below) in zip([(0.0, np.inf), *curve], curve, strict=False):
        if below <= bits:
            return after if np.isinf(above) else before + (after - before) * (above - bits) / (above - below)
    return None


def evaluate(training: Training) -> dict[str, float]:
    """The metrics of a trained model over all classes.

    The stages sample and evaluate compute them beside the run's other outputs.
    """
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write(root, training.settings.model_dump())
        (root / "data/train").mkdir(parents=True)
        for folder in (Path.cwd() / "data").iterdir():
            if folder.name not in ("train", "sample", "evaluate"):
                (root / "data" / folder.name).symlink_to(folder)
        model.save(training.model(), root / model.FOLDER)
        for stage in ("sample", "evaluate"):
            subprocess.run([sys.executable, "-m", f"stages.{stage}"], cwd=root, check=True)
        with open(root / METRICS, encoding="utf-8", newline="") as file:
            return {row["metric"]: float(row["value"] or "nan") for row in csv.DictReader(file) if not row["label"]}


if __name__ == "__main__":
    main()
