"""Train the PixelCNN on the drawings that are not held out.

reads    data/filter/
writes   data/train/weights.safetensors   the weights; with `ema_decay`, their moving average over the steps
         data/train/config.json           the architecture and the classes; the two files rebuild the distribution
         data/train/loss.csv              bits per dimension by step: step, drawings, split, bits_per_dim
         data/train/film.safetensors      a drawing of each class, from the same noise, after several steps
         $QUICKDRAW_LOGDIR                if set, TensorBoard's event files
caches   checkpoints, until the stage ends: a killed stage that is run again resumes, and writes the same bytes
hosts    several, if `TF_CONFIG` lists them: each runs this command, and the first of them, the chief, writes
command  python -m stages.train
"""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages import command
from stages.common import device, files
from stages.common.checkpoints import Checkpoint, Checkpoints, run_key
from stages.common.errors import DivergedError, SettingsError, counted
from stages.common.hosts import ALONE, Hosts, connect
from stages.common.progress import progress
from stages.outputs import dataset, losses, model
from stages.outputs.dataset import Drawings
from stages.outputs.log import Log
from stages.outputs.losses import Loss
from stages.params import Params

if TYPE_CHECKING:
    from stages.pixelcnn.network import Config
    from stages.pixelcnn.training import Trainer, TrainingConfig

# Number of recorded losses per run, on training and on held-out drawings. Measuring takes a few percent of the time of
# even a short run.
REPORTS = 100
HELDOUT_REPORTS = 10
HELDOUT_DRAWINGS = 200  # drawings per held-out loss
INITIAL_DRAWINGS = 128  # the first drawings of the run, for data-dependent initialisation
# The film has a frame at the start and at each held-out loss, but takes at most this share of the training's time. On a
# CPU, sampling a drawing takes as long as training on FILM_DRAWING_COST drawings (about 2.2 with the network of the
# profile quick). On a GPU, a frame takes as long as FILM_GPU_STEPS steps, and before the first one, compilation as
# long as FILM_GPU_COMPILATION_STEPS (measured with the full network on an H200: a second, and 40 seconds).
FILM_SHARE = 0.05
FILM_DRAWING_COST = 2
FILM_GPU_STEPS = 32
FILM_GPU_COMPILATION_STEPS = 1300


def main(settings: Params) -> None:
    """Run the stage."""
    data = dataset.load()
    classes = data.classes(settings.classes)
    rows = np.flatnonzero(~data.heldout)
    gpus = device.configure(settings.device, settings.deterministic)
    hosts = connect(gpus, settings.batch_size)

    from stages.outputs import events
    from stages.pixelcnn.training import Trainer

    config = network_config(settings, classes, data.image_shape)
    order = BatchOrder(len(rows), settings.batch_size, settings.epochs, settings.seed, settings.max_steps)
    first = rows[order.drawings(0, INITIAL_DRAWINGS)]

    def condition(labels: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        return model.encode_labels(labels, classes, settings.conditioning)

    training = training_config(settings, order.steps)
    described = config, training, order, classes, settings.conditioning, gpus, settings.deterministic
    key = run_key(described, (data.images, data.labels, data.heldout), ("numpy", "tensorflow"))
    checkpoints = Checkpoints(key) if hosts.is_chief else None

    with hosts.reporting_lost(lambda: resumption(checkpoints)):
        hosts.check_same(key)
        trainer = Trainer(
            config,
            training,
            initial_weights(config, settings.seed, data.images[first], condition(data.labels[first])),
            hosts.strategy,
            jit_compile=bool(gpus),
        )

        def trained() -> model.Model:
            weights = {name: variable.numpy() for name, variable in trainer.averages.items()}
            return model.Model(config, classes, settings.conditioning, weights)

        if not checkpoints:  # the chief has them, and writes
            fit(trainer, order, data, condition, hosts=hosts)
            hosts.end()
            return
        with files.atomic_folder(model.FOLDER) as folder:  # before training, so that an unwritable folder fails at once
            print(f"train: the losses so far are in {folder / losses.FILE}", file=sys.stderr, flush=True)
            log = Log(
                folder,
                film_steps(order, len(classes), gpu=bool(gpus)),
                lambda: draw_each_class(trained(), settings.seed),
                events.open_log(key),
            )
            fit(trainer, order, data, condition, checkpoints, log, hosts)
            model.save(trained(), folder)
        checkpoints.clear()
        hosts.end()


def resumption(checkpoints: Checkpoints | None) -> str:
    """Return from where the same command goes on, on the chief with these checkpoints, or on another host."""
    if checkpoints is None:
        return "from the chief's last checkpoint"
    last = checkpoints.newest()
    return f"from step {last.step}" if last else "from the start"


def network_config(settings: Params, classes: Sequence[model.Class], image_shape: tuple[int, int, int]) -> Config:
    """Return the network configuration for these settings and classes, and drawings of this shape."""
    from stages.pixelcnn.network import Config

    return Config(
        image_shape=image_shape,
        conditional_shape=model.conditional_shape(classes, settings.conditioning),
        num_resnet=settings.num_resnet,
        num_hierarchies=settings.num_hierarchies,
        num_filters=settings.num_filters,
        num_logistic_mix=settings.num_logistic_mix,
        dropout_p=settings.dropout_p,
        position=settings.position,
    )


def training_config(settings: Params, steps: int) -> TrainingConfig:
    """Return how the weights are fitted with these settings in this number of training steps."""
    import tensorflow as tf

    from stages.pixelcnn.training import TrainingConfig

    return TrainingConfig(
        steps=steps,
        learning_rate=settings.learning_rate,
        muon_learning_rate=settings.muon_learning_rate if settings.optimizer == "muon" else None,
        learning_rate_decay=settings.learning_rate_decay,
        ema_decay=settings.ema_decay,
        clip_norm=settings.clip_norm,
        input_noise=settings.input_noise,
        dtype=tf.as_dtype(settings.dtype),
        seed=settings.seed,
    )


def initial_weights(
    config: Config, seed: int, images: npt.NDArray[np.uint8], condition: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """Initialise the weights at random, then scale them with a few drawings (data-dependent initialisation).

    Args:
      config: the network.
      seed: the random seed.
      images: (N, height, width, channels), the drawings to scale with.
      condition: (N, …), their conditions.

    Returns:
      The weights by name.
    """
    import tensorflow as tf

    from stages.pixelcnn import network
    from stages.pixelcnn.likelihood import scale_pixels

    scaled = scale_pixels(config, tf.cast(images, tf.float32))
    return network.data_dependent_initialisation(
        config, network.initialise(config, seed), scaled, condition, dropout_seed=tf.constant([seed, 0])
    )


@dataclass(frozen=True)
class BatchOrder:
    """The order of the training drawings: epoch by epoch, each shuffled with the seed and the epoch's number.

    A batch may extend over two epochs, so that all batches are full. The remainder of the last epoch is dropped.

    Attributes:
      num_drawings: the number of training drawings.
      batch_size: drawings per step.
      epochs: passes over the drawings.
      seed: the random seed.
      max_steps: the maximum number of steps; 0 is no limit.
    """

    num_drawings: int
    batch_size: int
    epochs: int
    seed: int
    max_steps: int = 0

    @property
    def steps(self) -> int:
        """The number of training steps."""
        full_batches = self.num_drawings * self.epochs // self.batch_size
        return min(full_batches, self.max_steps) if self.max_steps else full_batches

    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """Return the indices of the training drawings of a step."""
        return self.drawings(step * self.batch_size, self.batch_size)

    def drawings(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """Return the indices of `count` training drawings in this order, beginning with the `start`th."""
        parts: list[npt.NDArray[np.int64]] = []
        while count > 0:
            epoch, offset = divmod(start, self.num_drawings)
            part = _shuffle(self.num_drawings, epoch, self.seed)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts)


def film_steps(order: BatchOrder, num_classes: int, *, gpu: bool) -> list[int]:
    """Return the steps after which the film has a frame: the first, the last, and others evenly spaced between them.

    There are none if two frames would take more than FILM_SHARE of the training's time. The choice depends on the
    number of steps, not on a clock, so that a run gives the same film again.

    Args:
      order: the order of the training drawings.
      num_classes: drawings in a frame.
      gpu: whether a GPU trains and samples.
    """
    steps = [0, *(evenly_spaced(order.steps, HELDOUT_REPORTS) + 1).tolist()]
    if gpu:
        affordable = int((FILM_SHARE * order.steps - FILM_GPU_COMPILATION_STEPS) / FILM_GPU_STEPS)
    else:
        affordable = int(FILM_SHARE * order.steps * order.batch_size / (FILM_DRAWING_COST * num_classes))
    if affordable < 2:
        return []
    return [steps[index] for index in np.linspace(0, len(steps) - 1, min(affordable, len(steps))).round().astype(int)]


def draw_each_class(trained: model.Model, seed: int) -> npt.NDArray[np.uint8]:
    """Return a drawing of each class, (classes, height, width, channels), always from the same noise, unguided."""
    from stages.pixelcnn import network, sampling

    labels = np.array([entry.label for entry in trained.classes])
    keys = np.stack([labels, np.zeros_like(labels)], axis=1)
    drawings = sampling.sample(
        trained.config,
        network.kernels(trained.config, trained.weights),
        sampling.noise(trained.config, seed, keys),
        trained.condition(labels),
    )
    return drawings.astype(np.uint8)


@functools.lru_cache(maxsize=2)
def _shuffle(number: int, epoch: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(number)


def fit(
    trainer: Trainer,
    order: BatchOrder,
    data: Drawings,
    condition: Callable[[npt.NDArray[np.int16]], npt.NDArray[np.float32]],
    checkpoints: Checkpoints | None = None,
    log: Log | None = None,
    hosts: Hosts = ALONE,
) -> list[Loss]:
    """Train for all steps of the order, from the last checkpoint if one exists.

    Args:
      trainer: holds the weights, and is changed.
      order: the order of the training drawings.
      data: all drawings, training and held-out.
      condition: returns the network's conditions for labels.
      checkpoints: where to save the state; None saves none.
      log: records the losses and the film; None records only the losses.
      hosts: those that train together; only the chief measures held-out losses and has checkpoints.

    Returns:
      The recorded losses: at most `REPORTS` on training drawings, and `HELDOUT_REPORTS` + 1 on held-out drawings.

    Raises:
      DivergedError: a loss or a gradient norm is not finite.
      SettingsError: the drawings do not fill a batch.
    """
    if not order.steps:
        raise SettingsError(
            f"batch_size is {order.batch_size}, and {counted(order.num_drawings, 'training drawing')} in "
            f"{counted(order.epochs, 'epoch')} cannot fill a batch; lower batch_size, or raise num_drawings"
        )
    rows, training, heldout = np.flatnonzero(~data.heldout), data.where(~data.heldout), data.where(data.heldout)
    # Evenly spaced, so that the subset is representative even if the held-out drawings are sorted.
    subset = heldout.where(
        np.isin(np.arange(len(heldout.labels)), evenly_spaced(len(heldout.labels), HELDOUT_DRAWINGS))
    )
    reports = set(evenly_spaced(order.steps, REPORTS) + 1)
    heldout_reports = set(evenly_spaced(order.steps, HELDOUT_REPORTS) + 1)
    log = log or Log()
    pending: list[float] = []  # losses since the last report
    start, last_saved = 0, None

    def measure_heldout(step: int) -> None:
        if not hosts.is_chief:
            return
        bits = trainer.evaluate(subset.images[:], condition(subset.labels), order.batch_size)
        log.add(Loss(step, step * order.batch_size, "heldout", float(bits.mean())))
        log.draw_frame(step)

    if checkpoints and (last := checkpoints.newest()):
        start = last_saved = last.step
        trainer.restore(last.arrays)
        log.restore(last.arrays)
        pending = last.arrays["pending"].tolist()
    if start := int(hosts.from_chief({"step": np.array(start)})["step"]):
        if hosts.several:
            trainer.restore(hosts.from_chief(trainer.state()))
        print(f"train: resumes after step {start} of {order.steps}", file=sys.stderr, flush=True)
    else:
        measure_heldout(0)
    reported = start, time.monotonic()  # the step and the time of the last report
    with progress("train", order.steps * order.batch_size, "drawings", start * order.batch_size) as add:
        for step in range(start, order.steps):
            batch = order.batch(step)
            loss, norm = trainer.step(step, training.images[batch], condition(training.labels[batch]))
            done, status = step + 1, ""
            pending.append(float(loss))
            # The check comes before the checkpoint: a gradient that is not finite makes the weights useless.
            for quantity, value in (("loss", pending[-1]), ("gradient norm", float(norm))):
                if math.isfinite(value):
                    continue
                saved = f"the last checkpoint is of step {last_saved}" if last_saved else "no checkpoint exists yet"
                raise DivergedError(
                    f"training: the {quantity} of step {done} of {order.steps} is {value}, on the rows (from 0) "
                    f"{' '.join(map(str, rows[batch]))} of {dataset.FOLDER / dataset.TABLE}; "
                    f"{saved if hosts.is_chief else 'the chief has the checkpoints'}. "
                    "Lower learning_rate and muon_learning_rate, set clip_norm to 1, or lower num_logistic_mix"
                )
            if done in reports:
                bits = float(np.mean(pending))
                status = f"{bits:.3f} bits/dim"
                log.add(
                    Loss(done, done * order.batch_size, "train", bits),
                    gradient_norm=float(norm),
                    learning_rate=trainer.training.learning_rate * float(trainer.training.decay(step)),
                    drawings_per_second=(done - reported[0]) * order.batch_size / (time.monotonic() - reported[1]),
                )
                pending.clear()
                reported = done, time.monotonic()
            if done in heldout_reports:
                measure_heldout(done)
            if checkpoints and checkpoints.due():
                arrays = trainer.state() | log.state() | {"pending": np.array(pending)}
                if checkpoints.save(Checkpoint(done, arrays)):
                    last_saved = done
            add(order.batch_size, status)
    return log.losses


def evenly_spaced(number: int, count: int) -> npt.NDArray[np.int64]:
    """Return at most `count` integers from 0 to `number` - 1, evenly spaced, including `number` - 1."""
    return np.unique(np.linspace(number - 1, 0, min(number, count), endpoint=number <= count).astype(np.int64))


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="batch_size, num_filters or num_resnet"))
