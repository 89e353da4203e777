"""Samples from the network: pixel after pixel, each drawn given those before it, every feature computed once.

A drawing is a function of the weights, its condition and its noise, and the noise one of a seed and the drawing's key:
the same drawing comes out in any batch, order or process. On a CPU that is so to the bit, with any number of cores. On
a GPU it is so up to float rounding (which differs between batches of different sizes, and turns about one pixel in
10,000 by one grey level; what follows such a pixel may then differ).
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

__all__ = ["Noise", "batch_capacity", "noise", "resample_teacher_forced", "sample", "sample_reference"]

# Drawings that one core draws at a time: fewer, and it would mostly wait for Python; more, and memory has no bound.
MIN_TILE, MAX_TILE = 16, 128
MAX_GPU_BATCH = 512
Progress = Callable[[int], object]


@dataclasses.dataclass(frozen=True)
class _Task:
    """What to draw, checked; every array begins with the axis of the drawings."""

    config: Config
    noise: Noise
    condition: Floats | None
    reference: Floats | None  # None where nothing is to be led away from it
    guidance: float
    temperature: float
    given: Floats | None  # (drawings, height, width, channels), low to high
    known: NDArray[np.bool_] | None  # (drawings, height, width)
    quantised: bool

    def __len__(self) -> int:
        return len(self.noise.logistic)

    def part(self, which: slice) -> _Task:
        """Some of the drawings."""
        own = ("condition", "reference", "given", "known")
        parts: dict[str, Any] = {name: None if (x := getattr(self, name)) is None else x[which] for name in own}
        return dataclasses.replace(self, noise=Noise(*(x[which] for x in self.noise)), **parts)

    @property
    def copies(self) -> int:
        """How often the network runs for a drawing."""
        return 1 if self.reference is None else 2

    @property
    def conditions(self) -> Floats | None:
        """Of all copies of all drawings."""
        both = [x for x in (self.condition, self.reference) if x is not None]
        return np.concatenate(both) if both else None

    def lead(self, outputs: Floats) -> Floats:
        """From the outputs for all copies, along the first axis, to those that the drawings are drawn from."""
        if self.reference is None:
            return outputs
        own, reference = np.split(outputs, 2)
        return reference + np.float32(self.guidance) * (own - reference)


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
) -> NDArray[np.int32]:
    """Draws images, on a GPU by a program compiled for it, on a CPU by NumPy on all cores.

    Args:
      config: the architecture.
      weights: plain kernels and biases, from `network.kernels`.
      noise: of as many drawings as are wanted, from `noise`.
      condition: (drawings, *conditional_shape); None where the network has no condition.
      temperature: how freely a pixel is drawn: 1 follows the model. Its component is the argmax of logits + temperature
        times Gumbel noise, its value loc + temperature * scale * logistic noise; at 0 the likeliest component's loc.
      guidance: how far a drawing is led from what it would be under the condition `reference` to what it is under its
        own: 1 follows the model, more exaggerates what sets its condition apart, at twice the time. Classifier-free
        guidance (Ho and Salimans 2022, arXiv 2207.12598) on the last layer's outputs.
      reference: shaped as `condition`; read only where `guidance` is not 1.
      given: (drawings, height, width, channels), or without the first axis: images to complete.
      known: (height, width) or (drawings, height, width), true where the pixel of `given` stays.
      quantised: the network sees each pixel rounded to an integer, as in training. False feeds the continuous value
        back and rounds in the end, as `tfp.distributions.PixelCNN.sample` does.
      progress: called with 1 for every row of a drawing that is done, or a larger number for as many rows.

    Returns:
      (drawings, height, width, channels), integers from low to high.

    Raises:
      ValueError: shapes do not fit, a condition is missing or not wanted, or a given pixel is out of range.
    """
    task = _task(config, noise, condition, temperature, guidance, reference, given, known, quantised)
    draw = _on_gpu if _has_gpu() else _on_cpu
    return np.rint(draw(task, weights, progress)).astype(np.int32)


def batch_capacity() -> int:
    """How many drawings are drawn at a time here: more take longer by as many times."""
    return MAX_GPU_BATCH if _has_gpu() else usable_cores() * MAX_TILE


def _has_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


def _on_gpu(task: _Task, weights: network.Parameters, progress: Progress | None) -> Floats:
    """Images before the last rounding, by the compiled program."""
    images = np.empty(task.noise.logistic.shape, np.float32)
    count = -(-len(task) // MAX_GPU_BATCH)
    size = -(-len(task) // max(count, 1))
    done = 0
    for batch in range(count):
        # The program is compiled for one size; the last batch may begin with drawings that are there already.
        end = min((batch + 1) * size, len(task))
        part = task.part(slice(end - size, end))
        warmth = np.float32(task.temperature)
        gumbel, logistic = (np.moveaxis(x, 0, 2) * warmth for x in part.noise)
        known, given = np.zeros((*logistic.shape[:3], 1), np.bool_), np.zeros_like(logistic)
        if part.known is not None and part.given is not None:
            known, given = np.moveaxis(part.known, 0, 2)[..., np.newaxis], np.moveaxis(part.given, 0, 2)
        condition = None if (all_of_them := part.conditions) is None else all_of_them.reshape(part.copies * size, -1)
        scaled = to_scale(task.config, given)
        drawn = sampler_gpu.sample(
            task.config, weights, gumbel, logistic, condition, task.guidance, known, scaled, task.quantised
        )
        images[end - size : end] = np.moveaxis(drawn, 2, 0)
        if progress is not None:
            progress((end - done) * task.config.image_shape[0])
        done = end
    return images


def _on_cpu(task: _Task, weights: network.Parameters, progress: Progress | None) -> Floats:
    """Images before the last rounding, by NumPy."""
    matrices = sampler_cpu.Matrices(task.config, weights)
    images = np.empty(task.noise.logistic.shape, np.float32)

    stopped, one_at_a_time = threading.Event(), threading.Lock()

    def row_done(drawings: int) -> None:
        if stopped.is_set():
            raise CancelledError
        if progress is not None:
            with one_at_a_time:
                progress(drawings)

    def fill(which: slice) -> None:
        images[which] = _by_pixels(matrices, task.part(which), row_done)

    # Each core draws its own images: small products gain little from a second core, and elementwise steps nothing.
    with _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(usable_cores()) as pool:
        try:
            for _ in pool.map(fill, _parts(len(task), usable_cores())):
                pass
        except BaseException:
            stopped.set()  # an interrupt ends all of them with the row that they are at
            raise
    return images


def _parts(size: int, cores: int) -> list[slice]:
    """Cuts a number of drawings into batches, one for each core at a time, as even as can be."""
    count = min(cores, max(1, size // MIN_TILE)) if size <= cores * MAX_TILE else -(-size // (cores * MAX_TILE)) * cores
    bounds = [size * i // count for i in range(count + 1)]
    return [slice(begin, end) for begin, end in itertools.pairwise(bounds)]


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _by_pixels(matrices: sampler_cpu.Matrices, task: _Task, row_done: Progress) -> Floats:
    """One batch of images, before the last rounding."""
    height, width, _ = task.config.image_shape
    batch = sampler_cpu.Batch(task.config, matrices, task.conditions, task.copies * len(task))
    place = _Place(task)
    images = np.empty((height, width, task.config.num_channels, len(task)), np.float32)
    for row in range(height):
        batch.begin_row(row)
        for column in range(width):
            pixel = place(row, column, task.lead(batch.outputs(column).T).T)
            batch.put(column, np.tile(pixel.scaled, task.copies))
            images[row, column] = pixel.value
        row_done(len(task))
    return images.transpose(3, 0, 1, 2)


class _Place:
    """The pixels at one place of all drawings: drawn, or given."""

    def __init__(self, task: _Task) -> None:
        self.draw = PixelSampler(task.config, len(task), quantised=task.quantised)
        warmth = np.float32(task.temperature)
        self.gumbel, self.logistic = (_drawings_last(x) * warmth for x in task.noise)
        self.known, self.given = task.known, task.given
        if task.known is not None and task.given is not None:
            self.known, self.given = _drawings_last(task.known[:, :, :, np.newaxis]), _drawings_last(task.given)

    def __call__(self, row: int, column: int, outputs: Floats) -> Pixels:
        """From the network's outputs there, (num_outputs, drawings)."""
        drawn = self.draw(outputs, self.gumbel[row, column], self.logistic[row, column])
        if self.known is None or self.given is None:
            return drawn
        known, given = self.known[row, column], self.given[row, column]
        scaled = to_scale(self.draw.config, given)
        return Pixels(np.where(known, given, drawn.value), np.where(known, scaled, drawn.scaled))


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
    """What `sample` draws, by the whole network for every pixel: slow, and plainly right."""
    task = _task(config, noise, condition, temperature, guidance, reference, given, known, quantised)
    height, width, _ = config.image_shape
    images = np.zeros((len(task), *config.image_shape), np.float32)
    scaled = np.zeros_like(images)
    place = _Place(task)
    for row in range(height):
        for column in range(width):
            pixel = place(row, column, _pixels_last(_outputs(task, weights, scaled)[:, row, column]))
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
    """Every pixel of finished images drawn again from those before it, by the network once, before rounding.

    What `sample` drew from the same noise differs from it by half a grey level and the float rounding of two ways to
    compute the same.

    Args:
      config, weights, noise, condition, temperature, guidance, reference: as in `sample`.
      images: (drawings, height, width, channels), low to high.
    """
    images = np.asarray(images, np.float32)
    task = _task(config, noise, condition, temperature, guidance, reference, None, None, True)
    scaled = to_scale(config, images)
    outputs = _outputs(task, weights, scaled)
    warmth = np.float32(temperature)
    gumbel, logistic = (_pixels_last(x) * warmth for x in task.noise)
    draw = PixelSampler(config, gumbel.shape[-1])
    return draw(_pixels_last(outputs), gumbel, logistic, _pixels_last(scaled)).value.T.reshape(images.shape)


def _outputs(task: _Task, weights: network.Parameters, scaled: Floats) -> Floats:
    """The outputs to draw all pixels from, by the network once: (drawings, height, width, num_outputs)."""
    copies = np.tile(scaled, (task.copies, 1, 1, 1))
    return task.lead(_network(task.config)(weights, copies, task.conditions).numpy())


@functools.cache
def _network(config: Config) -> Callable[..., tf.Tensor]:
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
        raise ValueError(f"guidance is {guidance}, and there is no reference to lead a condition away from.")
    if (condition is None) != (config.conditional_shape is None):
        found = "missing" if condition is None else "given"
        raise ValueError(f"condition is {found}, and conditional_shape is {config.conditional_shape}.")
    if (given is None) != (known is None):
        raise ValueError("given and known belong together: images, and which of their pixels stay.")
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
    """The value as floats of a shape; what lacks the axis of the drawings is repeated along it."""
    array = np.asarray(value, np.float32)
    if array.shape not in (shape, shape[1:]):
        raise ValueError(f"{name} of shape {array.shape} must be {shape}, or {shape[1:]} for all drawings alike.")
    return np.broadcast_to(array, shape)
