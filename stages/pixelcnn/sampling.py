"""Sampling of drawings pixel by pixel, each given the pixels before it; every feature is computed once.

A drawing is a function of the weights, its condition and its noise, and the noise is a function of a seed and the
drawing's key. So a drawing is the same in any batch, order or process. On a CPU this holds to the bit, with any number
of cores. On a GPU it holds up to float rounding, which differs between batch sizes and changes about one pixel in
10,000 by one grey level; the pixels after such a pixel may then differ.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from stages.common.cores import usable_cores
from stages.pixelcnn import network, sampler_cpu, sampler_gpu
from stages.pixelcnn.network import Config
from stages.pixelcnn.noise import Floats, Noise, Pixels, PixelSampler, noise, to_scale

__all__ = ["Noise", "batch_capacity", "fast_batch", "noise", "resample_teacher_forced", "sample", "sample_reference"]

# Drawings that one core samples at a time. With fewer it mostly waits for Python; the maximum bounds the memory.
MIN_CPU_BATCH, MAX_CPU_BATCH = 16, 128
FEW_FEATURES = 4000  # of a drawing's row; with fewer, twice to four times as many drawings are faster
MAX_GPU_BATCH = 512
Progress = Callable[[int], object]
RowDone = Callable[[slice, int, NDArray[np.int32]], object]
_ReportRow = Callable[[slice, int, Floats], object]  # pixels before the final rounding


@dataclasses.dataclass(frozen=True)
class _Task:
    """The validated arguments of `sample`; the first axis of every array is the drawings."""

    config: Config
    noise: Noise
    condition: Floats | None
    reference: Floats | None  # None without guidance
    guidance: float
    temperature: float
    given: Floats | None  # (drawings, height, width, channels), low to high
    known: NDArray[np.bool_] | None  # (drawings, height, width)
    quantised: bool

    def __len__(self) -> int:
        return len(self.noise.logistic)

    def part(self, drawings: slice) -> _Task:
        """The task for a slice of the drawings."""
        names = ("condition", "reference", "given", "known")
        arrays: dict[str, Any] = {name: None if (x := getattr(self, name)) is None else x[drawings] for name in names}
        return dataclasses.replace(self, noise=Noise(*(x[drawings] for x in self.noise)), **arrays)

    def padded(self) -> _Task:
        """The task in the network's padded shape, in which the padding is known."""
        if not any(self.config.padding):
            return self
        rows, columns = self.config.padding
        shape = (len(self), *self.config.image_shape)
        known = np.zeros(shape[:3], np.bool_) if self.known is None else self.known
        given = np.zeros(shape, np.float32) if self.given is None else self.given

        def pad(array: NDArray[Any], value: float) -> NDArray[Any]:
            widths = [(0, 0), (0, rows), (0, columns), (0, 0)]
            return np.pad(array, widths[: array.ndim], constant_values=value)

        return dataclasses.replace(
            self,
            config=dataclasses.replace(self.config, image_shape=self.config.padded_shape),
            noise=Noise(*(pad(x, 0) for x in self.noise)),
            given=pad(given, self.config.low),
            known=pad(known, True),
        )

    @property
    def copies(self) -> int:
        """How many times the network runs per drawing: twice with guidance."""
        return 1 if self.reference is None else 2

    @property
    def conditions(self) -> Floats | None:
        """The conditions of all copies of all drawings."""
        both = [x for x in (self.condition, self.reference) if x is not None]
        return np.concatenate(both) if both else None

    def apply_guidance(self, outputs: Floats) -> Floats:
        """The outputs to sample from, given the outputs of all copies along the first axis."""
        if self.reference is None:
            return outputs
        conditional, reference = np.split(outputs, 2)
        return reference + np.float32(self.guidance) * (conditional - reference)


def sample(
    config: Config,
    weights: network.Parameters,
    noise: Noise,
    condition: ArrayLike | None = None,
    *,
    temperature: float = 1.0,
    guidance: float = 1.0,
    reference: ArrayLike | None = None,
    given: ArrayLike | None = None,
    known: ArrayLike | None = None,
    quantised: bool = True,
    progress: Progress | None = None,
    row_done: RowDone | None = None,
    max_batch: int | None = None,
) -> NDArray[np.int32]:
    """Sample drawings: with a compiled program on a GPU, with NumPy and all cores on a CPU.

    Args:
      config: the architecture.
      weights: plain kernels and biases, from `network.kernels`.
      noise: from `noise`, for the number of drawings to sample.
      condition: (drawings, *conditional_shape), or without the first axis; None if the network has no condition.
      temperature: sampling temperature: 1 is the model's distribution, lower is less diverse. A pixel's component is
        the argmax of logits + temperature * Gumbel noise, its value loc + temperature * scale * logistic noise; at 0 it
        is the loc of the likeliest component.
      guidance: classifier-free guidance scale (Ho and Salimans 2022, arXiv 2207.12598), applied to the last layer's
        outputs: 0 samples under `reference`, 1 is off, higher exaggerates the condition. Doubles the sampling time
        unless it is 1.
      reference: the condition that guidance extrapolates from, shaped as `condition`; used only if `guidance` is not 1.
      given: (drawings, height, width, channels), or without the first axis: images to complete.
      known: (drawings, height, width), or without the first axis: true for the pixels of `given` to keep.
      quantised: whether the network sees each pixel rounded to an integer, as in training. False feeds back the
        continuous value and rounds at the end, as `tfp.distributions.PixelCNN.sample` does.
      progress: called with the number of rows of drawings that have been finished since the last call.
      row_done: called after each row of some drawings, with the drawings, the row's number and its pixels, (drawings,
        width, channels). A GPU samples all rows before the first call. An exception in it ends the sampling.
      max_batch: how many drawings a core samples at a time, which bounds the memory; None for `MAX_CPU_BATCH`.

    Returns:
      (drawings, height, width, channels), integers from low to high.

    Raises:
      ValueError: a shape is wrong, a condition is missing or unexpected, or a pixel of `given` is out of range.
    """
    task = _task(config, noise, condition, temperature, guidance, reference, given, known, quantised)
    if not len(task):
        return np.empty(noise.logistic.shape, np.int32)
    height, width, _ = config.image_shape

    def report_row(drawings: slice, row: int, pixels: Floats) -> None:
        if row >= height:  # of the padding
            return
        if progress is not None:
            progress(len(pixels))
        if row_done is not None:
            row_done(drawings, row, np.rint(pixels[:, :width]).astype(np.int32))

    if _has_gpu():
        images = _sample_on_gpu(task.padded(), weights, report_row)
    else:
        images = _sample_on_cpu(task.padded(), weights, report_row, max_batch or MAX_CPU_BATCH)
    return np.rint(images[:, :height, :width]).astype(np.int32)


def batch_capacity(max_batch: int | None = None) -> int:
    """How many drawings this machine samples at a time; the time for more grows in proportion.

    Args:
      max_batch: as in `sample`.
    """
    return MAX_GPU_BATCH if _has_gpu() else usable_cores() * (max_batch or MAX_CPU_BATCH)


def fast_batch(config: Config) -> int:
    """A `max_batch` that is as fast as any: of a network with few features, more drawings share the work of Python."""
    features = config.image_shape[1] * config.num_filters * len(config.blocks)
    return MAX_CPU_BATCH * min(max(FEW_FEATURES // features, 1), 4)


def _has_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


def _sample_on_gpu(task: _Task, weights: network.Parameters, report_row: _ReportRow) -> Floats:
    """Sample drawings with the compiled program: (drawings, height, width, channels), from low to high, not rounded."""
    images = np.empty(task.noise.logistic.shape, np.float32)
    count = -(-len(task) // MAX_GPU_BATCH)
    size = -(-len(task) // max(count, 1))
    done = 0
    for batch in range(count):
        # The program is compiled for one batch size, so the last batch may repeat some drawings of the one before.
        end = min((batch + 1) * size, len(task))
        part = task.part(slice(end - size, end))
        temperature = np.float32(task.temperature)
        gumbel, logistic = (np.moveaxis(x, 0, 2) * temperature for x in part.noise)
        known, given = np.zeros((*logistic.shape[:3], 1), np.bool_), np.zeros_like(logistic)
        if part.known is not None and part.given is not None:
            known, given = np.moveaxis(part.known, 0, 2)[..., np.newaxis], np.moveaxis(part.given, 0, 2)
        condition = None if (conditions := part.conditions) is None else conditions.reshape(part.copies * size, -1)
        scaled = to_scale(task.config, given)
        generated = sampler_gpu.sample(
            task.config, weights, gumbel, logistic, condition, task.guidance, known, scaled, task.quantised
        )
        images[end - size : end] = np.moveaxis(generated, 2, 0)
        for row in range(task.config.image_shape[0]):
            report_row(slice(done, end), row, images[done:end, row])
        done = end
    return images


def _sample_on_cpu(task: _Task, weights: network.Parameters, report_row: _ReportRow, max_batch: int) -> Floats:
    """Drawings before the final rounding, by NumPy."""
    matrices = sampler_cpu.Matrices(task.config, weights)
    images = np.empty(task.noise.logistic.shape, np.float32)

    stopped, report_lock = threading.Event(), threading.Lock()

    def sample_batch(drawings: slice) -> None:
        def row_done(row: int, pixels: Floats) -> None:
            if stopped.is_set():
                raise CancelledError
            with report_lock:
                report_row(drawings, row, pixels)

        images[drawings] = _sample_batch(matrices, task.part(drawings), row_done)

    # Each core samples its own drawings: small products gain little from a second core, elementwise operations nothing.
    with _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(usable_cores()) as pool:
        try:
            for _ in pool.map(sample_batch, _batches(len(task), usable_cores(), max_batch)):
                pass
        except BaseException:
            stopped.set()  # the other threads stop at the end of their current row
            raise
    return images


def _batches(size: int, cores: int, max_batch: int) -> list[slice]:
    """Split a number of drawings into batches for the cores; their sizes differ by at most 1."""
    capacity = cores * max_batch
    count = min(cores, max(1, size // MIN_CPU_BATCH)) if size <= capacity else -(-size // capacity) * cores
    bounds = [size * i // count for i in range(count + 1)]
    return [slice(begin, end) for begin, end in itertools.pairwise(bounds)]


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _sample_batch(matrices: sampler_cpu.Matrices, task: _Task, row_done: Callable[[int, Floats], object]) -> Floats:
    """One batch of drawings, before the final rounding. `row_done` is called with each row and its pixels."""
    height, width, _ = task.config.image_shape
    batch = sampler_cpu.Batch(task.config, matrices, task.conditions, task.copies * len(task))
    sampler = _TaskSampler(task)
    images = np.empty((height, width, task.config.num_channels, len(task)), np.float32)
    for row in range(height):
        batch.begin_row(row)
        for column in range(width):
            pixel = sampler(row, column, task.apply_guidance(batch.outputs(column).T).T)
            batch.put(column, np.tile(pixel.scaled, task.copies))
            images[row, column] = pixel.value
        row_done(row, images[row].transpose(2, 0, 1))
    return images.transpose(3, 0, 1, 2)


class _TaskSampler:
    """The pixels at one position of all drawings: sampled, or known."""

    def __init__(self, task: _Task) -> None:
        self.sample = PixelSampler(task.config, len(task), quantised=task.quantised)
        temperature = np.float32(task.temperature)
        self.gumbel, self.logistic = (_drawings_last(x) * temperature for x in task.noise)
        self.known, self.given = task.known, task.given
        if task.known is not None and task.given is not None:
            self.known, self.given = _drawings_last(task.known[:, :, :, np.newaxis]), _drawings_last(task.given)

    def __call__(self, row: int, column: int, outputs: Floats) -> Pixels:
        """The pixels, given the network's outputs at this position, (num_outputs, drawings)."""
        sampled = self.sample(outputs, self.gumbel[row, column], self.logistic[row, column])
        if self.known is None or self.given is None:
            return sampled
        known, given = self.known[row, column], self.given[row, column]
        scaled = to_scale(self.sample.config, given)
        return Pixels(np.where(known, given, sampled.value), np.where(known, scaled, sampled.scaled))


def _drawings_last(x: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.moveaxis(x, 0, -1))


def sample_reference(
    config: Config,
    weights: network.Parameters,
    noise: Noise,
    condition: ArrayLike | None = None,
    *,
    temperature: float = 1.0,
    guidance: float = 1.0,
    reference: ArrayLike | None = None,
    given: ArrayLike | None = None,
    known: ArrayLike | None = None,
    quantised: bool = True,
) -> NDArray[np.int32]:
    """Sample the same drawings as `sample`, by running the whole network for every pixel: slow but simple.

    Args, Returns, Raises: as in `sample`.
    """
    task = _task(config, noise, condition, temperature, guidance, reference, given, known, quantised)
    height, width, _ = config.image_shape
    images = np.zeros((len(task), *config.image_shape), np.float32)
    scaled = np.zeros_like(images)
    sampler = _TaskSampler(task)
    for row in range(height):
        for column in range(width):
            pixel = sampler(row, column, _pixels_last(_outputs(task, weights, scaled)[:, row, column]))
            images[:, row, column], scaled[:, row, column] = pixel.value.T, pixel.scaled.T
    return np.rint(images).astype(np.int32)


def resample_teacher_forced(
    config: Config,
    weights: network.Parameters,
    noise: Noise,
    images: ArrayLike,
    condition: ArrayLike | None = None,
    *,
    temperature: float = 1.0,
    guidance: float = 1.0,
    reference: ArrayLike | None = None,
) -> Floats:
    """Sample every pixel of given images again, given the image's pixels before it, in one run of the network.

    If `sample` made `images` from the same other arguments, the result differs from them only by their rounding, at
    most half a grey level, and by float errors.

    Args:
      config, weights, noise, condition, temperature, guidance, reference: as in `sample`.
      images: (drawings, height, width, channels), from low to high.

    Returns:
      (drawings, height, width, channels), from low to high, before rounding.
    """
    images = np.asarray(images, np.float32)
    task = _task(config, noise, condition, temperature, guidance, reference, None, None, True)
    scaled = to_scale(config, images)
    outputs = _outputs(task, weights, scaled)
    gumbel, logistic = (_pixels_last(x) * np.float32(temperature) for x in task.noise)
    sampler = PixelSampler(config, gumbel.shape[-1])
    return sampler(_pixels_last(outputs), gumbel, logistic, _pixels_last(scaled)).value.T.reshape(images.shape)


def _outputs(task: _Task, weights: network.Parameters, scaled: Floats) -> Floats:
    """The outputs to sample all pixels from, in one run of the network: (drawings, height, width, num_outputs)."""
    copies = np.tile(scaled, (task.copies, 1, 1, 1))
    return task.apply_guidance(_traced_network(task.config)(weights, copies, task.conditions).numpy())


@functools.cache
def _traced_network(config: Config) -> Callable[..., tf.Tensor]:
    return tf.function(functools.partial(network.outputs, config), autograph=False)


def _pixels_last(x: Floats) -> Floats:
    return np.ascontiguousarray(x.reshape(-1, x.shape[-1]).T)


def _task(
    config: Config,
    noise: Noise,
    condition: ArrayLike | None,
    temperature: float,
    guidance: float,
    reference: ArrayLike | None,
    given: ArrayLike | None,
    known: ArrayLike | None,
    quantised: bool,
) -> _Task:
    size = len(noise.logistic)
    if temperature < 0:
        raise ValueError(f"temperature {temperature} must be at least 0.")
    if guidance == 1:
        reference = None
    elif reference is None or config.conditional_shape is None:
        raise ValueError(f"guidance {guidance} needs a condition and a reference.")
    if (condition is None) != (config.conditional_shape is None):
        status = "missing" if condition is None else "given"
        raise ValueError(f"condition is {status}, but conditional_shape is {config.conditional_shape}.")
    if (given is None) != (known is None):
        raise ValueError("given and known must be passed together: images, and which of their pixels to keep.")
    if given is not None and not config.low <= np.min(given) <= np.max(given) <= config.high:
        raise ValueError(f"given: pixels must be from low={config.low} to high={config.high}.")
    return _Task(
        config,
        noise,
        None if condition is None else _shaped("condition", condition, (size, *(config.conditional_shape or ()))),
        None if reference is None else _shaped("reference", reference, (size, *(config.conditional_shape or ()))),
        guidance,
        temperature,
        None if given is None else _shaped("given", given, (size, *config.image_shape)),
        None if known is None else _shaped("known", known, (size, *config.image_shape[:2])) != 0,
        quantised,
    )


def _shaped(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """The value as floats of a shape; if it lacks the axis of the drawings, it is repeated along it."""
    array = np.asarray(value, np.float32)
    if array.shape not in (shape, shape[1:]):
        raise ValueError(f"{name} has shape {array.shape}; expected: {shape}, or {shape[1:]} for all drawings.")
    return np.broadcast_to(array, shape)
