"""Fit the PixelCNN to the drawings of the chosen classes that are not held out.

reads    data/filter/
writes   data/train/weights.safetensors   the weights, averaged over the last steps where `ema_decay` says so
         data/train/config.json           the architecture and the classes; the two files rebuild the distribution
         data/train/loss.csv              bits per dimension by step: step, drawings, split, bits_per_dim
keeps    checkpoints in the user's cache, until it ends: killed and run again, it goes on, and ends with the same bytes
command  python -m stages.train
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages import command
from stages.common import checkpoints, device, files
from stages.common.checkpoints import Checkpoint, Checkpoints
from stages.common.errors import StageError
from stages.common.progress import progress
from stages.outputs import dataset, model
from stages.outputs.dataset import Drawings
from stages.outputs.losses import FILE, Loss, write
from stages.params import Params
from stages.quickdraw import IMAGE_SHAPE

if TYPE_CHECKING:
    from stages.pixelcnn.network import Config
    from stages.pixelcnn.training import OptimizerConfig, Trainer

# The loss is written down this often in a run, and measured on held-out drawings this often, on so many of them: a few
# percent of the time of even a short run.
REPORTS = 100
HELDOUT_REPORTS = 10
HELDOUT_DRAWINGS = 200
# Data-dependent initialisation takes the first drawings of the run, this many.
INITIAL_DRAWINGS = 128
SPLITS = ("train", "heldout")


def main(settings: Params) -> None:
    """Run the stage."""
    data = dataset.load()
    classes = data.classes(settings.classes)
    rows = np.flatnonzero(~data.heldout)
    gpus = device.configure(settings.device, settings.deterministic)

    from stages.pixelcnn.training import Trainer

    config = network_config(settings, classes)
    order = BatchOrder(len(rows), settings.batch_size, settings.epochs, settings.seed, settings.max_steps)
    first = rows[order.drawings(0, INITIAL_DRAWINGS)]

    def condition(labels: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        return model.encode_labels(labels, classes, settings.conditioning)

    trainer = Trainer(
        config,
        optimizer_config(settings, order.steps),
        initial_weights(config, settings.seed, data.images[first], condition(data.labels[first])),
        device.strategy(gpus, settings.batch_size),
        jit_compile=bool(gpus),
    )
    described = config, trainer.recipe, order, classes, settings.conditioning, gpus, settings.deterministic
    name = checkpoints.run_key(described, (data.images, data.labels, data.heldout), ("numpy", "tensorflow"))
    kept = Checkpoints(name)
    with files.atomic_folder(model.FOLDER) as folder:  # already here, for where it cannot be written it is told at once
        losses = fit(trainer, order, data, condition, kept)
        weights = {name: variable.numpy() for name, variable in trainer.averages.items()}
        model.save(model.Model(config, classes, settings.conditioning, weights), folder)
        write(folder / FILE, losses)
    kept.clear()


def network_config(settings: Params, classes: Sequence[model.Class]) -> Config:
    """The network that the settings describe."""
    from stages.pixelcnn.network import Config

    return Config(
        image_shape=IMAGE_SHAPE,
        conditional_shape=model.conditional_shape(classes, settings.conditioning),
        num_resnet=settings.num_resnet,
        num_hierarchies=settings.num_hierarchies,
        num_filters=settings.num_filters,
        num_logistic_mix=settings.num_logistic_mix,
        dropout_p=settings.dropout_p,
        position=settings.position,
    )


def optimizer_config(settings: Params, steps: int) -> OptimizerConfig:
    """How the settings have the weights fitted."""
    import tensorflow as tf

    from stages.pixelcnn.training import OptimizerConfig

    return OptimizerConfig(
        steps=steps,
        learning_rate=settings.learning_rate,
        learning_rate_decay=settings.learning_rate_decay,
        ema_decay=settings.ema_decay,
        clip_norm=settings.clip_norm,
        dtype=tf.as_dtype(settings.precision),
        seed=settings.seed,
    )


def initial_weights(
    config: Config, seed: int, images: npt.NDArray[np.uint8], condition: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """Random weights, scaled by what a few drawings make of them."""
    import tensorflow as tf

    from stages.pixelcnn import network
    from stages.pixelcnn.likelihood import scale_pixels

    scaled = scale_pixels(config, tf.cast(images, tf.float32))
    return network.data_dependent_initialisation(config, network.initialise(config, seed), scaled, condition)


@dataclass(frozen=True)
class BatchOrder:
    """In which order training takes the drawings: epoch after epoch, each shuffled by the seed and its own number.

    Batches are cut from the epochs laid end to end, so that all are full; what is left at the very end is left out.
    """

    number: int
    batch_size: int
    epochs: int
    seed: int
    max_steps: int = 0  # 0 is no limit

    @property
    def steps(self) -> int:
        """How many full batches training takes."""
        there = self.number * self.epochs // self.batch_size
        return min(there, self.max_steps) if self.max_steps else there

    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """The positions of a step's drawings."""
        return self.drawings(step * self.batch_size, self.batch_size)

    def drawings(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """The positions of the drawings from the `start`th on."""
        found: list[npt.NDArray[np.int64]] = []
        while count > 0:
            epoch, place = divmod(start, self.number)
            part = _shuffle(self.number, epoch, self.seed)[place : place + count]
            found.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(found)


@functools.lru_cache(maxsize=2)
def _shuffle(number: int, epoch: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(number)


def fit(
    trainer: Trainer,
    order: BatchOrder,
    data: Drawings,
    condition: Callable[[npt.NDArray[np.int16]], npt.NDArray[np.float32]],
    kept: Checkpoints | None = None,
) -> list[Loss]:
    """Take every step of the order, from the last checkpoint on; the losses worth writing down.

    Args:
      order: of the drawings that are not held out.
      data: these, and those held out, as filter wrote them.

    Raises:
      StageError: a loss, or the norm of a gradient, is not finite.
    """
    if not order.steps:
        raise StageError(
            f"batch_size is {order.batch_size}, and there are only {order.number} drawings to train on in "
            f"{order.epochs} epochs; lower it, or raise num_drawings"
        )
    rows, training, heldout = np.flatnonzero(~data.heldout), data.where(~data.heldout), data.where(data.heldout)
    # Spread over the held-out drawings, whatever order they are in.
    subset = heldout.where(
        np.isin(np.arange(len(heldout.labels)), evenly_spaced(len(heldout.labels), HELDOUT_DRAWINGS))
    )
    reports = set(evenly_spaced(order.steps, REPORTS) + 1)
    heldout_reports = set(evenly_spaced(order.steps, HELDOUT_REPORTS) + 1)
    losses: list[Loss] = []
    pending: list[float] = []  # since the last report
    start, saved = 0, None

    def measure(step: int) -> None:
        bits = trainer.evaluate(subset.images, condition(subset.labels), order.batch_size)
        losses.append(Loss(step, step * order.batch_size, "heldout", float(bits.mean())))

    if kept and (last := kept.newest()):
        start = saved = last.step
        trainer.restore(last.arrays)
        losses, pending = _losses(last.arrays["losses"]), last.arrays["pending"].tolist()
        print(f"train: goes on after step {start} of {order.steps}", file=sys.stderr, flush=True)
    else:
        measure(0)
    with progress("train", order.steps * order.batch_size, "drawings", start * order.batch_size) as add:
        for step in range(start, order.steps):
            chosen = order.batch(step)
            loss, norm = trainer.step(step, training.images[chosen], condition(training.labels[chosen]))
            done, how = step + 1, ""
            pending.append(float(loss))
            # A gradient that is not finite leaves weights that are none, which no checkpoint may hold.
            for what, value in (("loss", pending[-1]), ("gradient's norm", float(norm))):
                if math.isfinite(value):
                    continue
                raise StageError(
                    f"training: the {what} of step {done} of {order.steps} is {value}, on the rows (from 0) "
                    f"{' '.join(map(str, rows[chosen]))} of {dataset.FOLDER / dataset.TABLE}; the last checkpoint "
                    f"{'is that of step ' + str(saved) if saved else 'is still to come'}. Lower learning_rate, set "
                    "clip_norm to 1, or take fewer num_logistic_mix"
                )
            if done in reports:
                bits = float(np.mean(pending))
                pending.clear()
                how = f"{bits:.3f} bits/dim"
                losses.append(Loss(done, done * order.batch_size, "train", bits))
            if done in heldout_reports:
                measure(done)
            if kept and kept.due():
                arrays = {"losses": _rows(losses), "pending": np.array(pending)}
                if kept.save(Checkpoint(done, trainer.state() | arrays)):
                    saved = done
            add(order.batch_size, how)
    return losses


def _rows(losses: Sequence[Loss]) -> npt.NDArray[np.float64]:
    return np.array([(*row[:2], SPLITS.index(row.split), row.bits_per_dim) for row in losses])


def _losses(rows: npt.NDArray[np.float64]) -> list[Loss]:
    return [Loss(int(step), int(drawings), SPLITS[int(split)], bits) for step, drawings, split, bits in rows.tolist()]


def evenly_spaced(number: int, count: int) -> npt.NDArray[np.int64]:
    """At most `count` whole numbers from 0 to number - 1, evenly spread, the last among them."""
    return np.unique(np.linspace(number - 1, 0, min(number, count), endpoint=number <= count).astype(np.int64))


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="batch_size, num_filters or num_resnet"))
