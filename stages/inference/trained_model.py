"""The model of a finished run, for use from Python: sample, complete, measure and classify drawings.

`pipeline.load_model` returns the model of a run or an experiment, and `load` the one in a folder:

    model = pipeline.load_model()
    bees = model.sample("bee", 8)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages import params
from stages.common.errors import UserError, did_you_mean, list_names
from stages.outputs import model, samples
from stages.outputs.samples import Settings

if TYPE_CHECKING:
    from stages.pixelcnn.distribution import PixelCNN
    from stages.pixelcnn.likelihood import PixelBits

Images = npt.NDArray[np.uint8]
RowDone = Callable[[slice, int, Images], object]


class ArgumentError(UserError, ValueError):
    """An argument of the model cannot be used. The message names it, its value and what is expected."""


def load(folder: str | Path = ".") -> TrainedModel:
    """The model in a folder: the root of a checkout with a run, or what `python -m pipeline export` has written.

    Raises:
      StageError: a file is missing or cannot be used.
    """
    root = Path(folder)
    exported = (root / model.CONFIG).exists() and not (root / model.FOLDER).exists()
    trained = model.load(root if exported else root / model.FOLDER)
    settings = (root if exported else root / samples.FOLDER) / samples.SETTINGS
    if settings.exists():
        return TrainedModel(trained, samples.read_settings(settings))
    # Before this file existed, a run's settings were in params.yaml only.
    values = params.read(root / "params.yaml") if (root / "params.yaml").exists() else {}
    return TrainedModel(trained, Settings(**{key: values[key] for key in vars(Settings()) if key in values}))


class TrainedModel:
    """A trained model with the names of its classes.

    Args:
      trained: the network, its classes and its weights.
      settings: the seed, temperature and guidance that the methods use if they are not given others.

    Attributes:
      classes: the names of the classes.
      image_shape: height, width and channels of a drawing.
      settings: as above.
    """

    def __init__(self, trained: model.Model, settings: Settings) -> None:
        self._model = trained
        self.settings = settings
        self.classes = tuple(entry.name for entry in trained.classes)
        self.image_shape = trained.config.image_shape

    def __repr__(self) -> str:
        return f"TrainedModel({len(self.classes)} classes, {'×'.join(map(str, self.image_shape))}, {self.settings})"

    @functools.cached_property
    def digest(self) -> str:
        """A SHA-256 of all of the model that its drawings depend on, besides the settings."""
        trained = self._model
        described = {
            "classes": [dataclasses.asdict(entry) for entry in trained.classes],
            "conditioning": trained.conditioning,
            "one_hot_scale": trained.one_hot_scale,
            "network": dataclasses.asdict(trained.config),
        }
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        for name, array in sorted(trained.weights.items()):
            digest.update(name.encode() + np.ascontiguousarray(array, np.float32).tobytes())
        return digest.hexdigest()

    @property
    def batch_capacity(self) -> int:
        """How many drawings this process samples at a time; the time for more grows in proportion."""
        from stages.pixelcnn import sampling

        return sampling.batch_capacity(sampling.fast_batch(self._model.config))

    @functools.cached_property
    def distribution(self) -> PixelCNN:
        """The model as a distribution of TensorFlow Probability; its conditional input is `condition(name)`."""
        from stages.pixelcnn import PixelCNN

        return PixelCNN.from_parameters(self._model.config, self._model.weights)

    def condition(self, name: str) -> npt.NDArray[np.float32]:
        """The network's conditional input for a class: (classes,), or () for a model of raw label numbers."""
        return np.asarray(self._model.condition([self._label(name)])[0])

    def sample(
        self,
        name: str,
        number: int = 1,
        *,
        first: int = 0,
        seed: int | None = None,
        temperature: float | None = None,
        guidance: float | None = None,
    ) -> Images:
        """Drawings of a class. With the default settings these are the drawings of the run itself.

        Args:
          name: the class.
          number: how many drawings.
          first: the number of the first drawing within its class.
          seed: the random seed; a drawing depends only on the seed, its class and its number.
          temperature: 1 is the model's distribution, lower is less diverse.
          guidance: the classifier-free guidance scale; 1 is off.

        Returns:
          (number, height, width, channels) uint8.

        Raises:
          ArgumentError: an argument is out of its range.
        """
        return self._sample(name, number, first, seed, temperature, guidance)

    def complete(
        self,
        images: npt.ArrayLike,
        name: str,
        number: int = 1,
        *,
        rows: int | None = None,
        known: npt.ArrayLike | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        guidance: float | None = None,
        row_done: RowDone | None = None,
    ) -> Images:
        """Completions of drawings: a part of each is kept, and the model draws the others, row by row.

        The model draws a pixel given those above and to the left of it, so it cannot foresee known pixels below.

        Args:
          images: (N, height, width, channels) integers from 0 to 255; the last axis can be left out for one channel.
          name: the class.
          number: how many completions of each drawing.
          rows: how many of the upper rows are kept.
          known: in place of `rows`: (height, width), or (N, height, width), true for the pixels that are kept.
          seed, temperature, guidance: as in `sample`. Without a kept pixel, the completions are the samples.
          row_done: called after each row of some completions, with the completions (a slice of all N * number), the
            row's number and its pixels, (completions, width, channels). An exception in it ends the sampling.

        Returns:
          (N, number, height, width, channels) uint8.

        Raises:
          ArgumentError: an argument is out of its range or has another shape.
        """
        given = self._images(images)
        height, width, _ = self.image_shape
        if (rows is None) == (known is None):
            raise ArgumentError("give either rows, the number of upper rows to keep, or known, a mask")
        if rows is not None:
            if not 0 <= rows <= height:
                raise ArgumentError(f"rows is {rows}; expected: a whole number from 0 to {height}")
            known = np.arange(height)[:, np.newaxis] < np.full(width, rows)
        mask = np.asarray(known, bool)
        if mask.shape not in ((height, width), (len(given), height, width)):
            raise ArgumentError(
                f"known has the shape {mask.shape}; expected: {(height, width)}, or {(len(given), height, width)}"
            )
        mask = np.broadcast_to(mask, (len(given), height, width))
        completed = [
            self._sample(
                name,
                number,
                0,
                seed,
                temperature,
                guidance,
                image,
                kept,
                row_done and _shifted(row_done, index * number),
            )
            for index, (image, kept) in enumerate(zip(given, mask, strict=True))
        ]
        return np.reshape(completed, (len(given), number, *self.image_shape)).astype(np.uint8)

    def bits_by_pixel(self, images: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
        """-log2 of the probability of each pixel of drawings, given their class and the pixels before it.

        Args:
          images: (N, height, width, channels) integers from 0 to 255; the last axis can be left out for one channel.
          name: the class.

        Returns:
          (N, height, width), summed over the channels.
        """
        checked = self._images(images)
        return self._pixel_bits(checked, self._model.condition(np.full(len(checked), self._label(name))))

    def bits_per_dim(self, images: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
        """The bits of each drawing, given its class, divided by its number of values: (N,).

        The arguments are those of `bits_by_pixel`.
        """
        return np.asarray(self.bits_by_pixel(images, name).sum(axis=(1, 2)) / np.prod(self.image_shape))

    def classify(self, images: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The probability of each class, by Bayes' rule from the likelihoods; each class is as likely as any other.

        Args:
          images: (N, height, width, channels) integers from 0 to 255; the last axis can be left out for one channel.

        Returns:
          (N, classes), in the order of `classes`.
        """
        return class_probabilities(self.bits_by_class(images).sum(axis=(2, 3)))

    def bits_by_class(self, images: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The bits of each pixel as `bits_by_pixel`, given each class in turn: (N, classes, height, width).

        A pixel's bits depend on no later pixel, so the upper rows can be measured before the lower ones are drawn.
        """
        checked = self._images(images)
        labels = [entry.label for entry in self._model.classes]
        condition = self._model.condition(np.tile(labels, len(checked)))
        by_pixel = self._pixel_bits(np.repeat(checked, len(labels), axis=0), condition)
        return by_pixel.reshape(len(checked), len(labels), *self.image_shape[:2])

    @functools.cached_property
    def _kernels(self) -> Any:
        from stages.pixelcnn import network

        return network.kernels(self._model.config, self._model.weights)

    @functools.cached_property
    def _pixel_bits(self) -> PixelBits:
        from stages.pixelcnn.likelihood import PixelBits

        # One image is measured under every class at once, without padding if there are at least 16 classes.
        return PixelBits(self._model.config, self._kernels, min(max(len(self.classes), 16), PixelBits.BATCH_SIZE))

    def _label(self, name: str) -> int:
        for entry in self._model.classes:
            if entry.name == name:
                return entry.label
        suggestion = did_you_mean(str(name), self.classes) or f" Its classes are {list_names(self.classes)}."
        raise ArgumentError(f"{name!r} is not a class of the model.{suggestion}")

    def _images(self, images: npt.ArrayLike) -> Images:
        """The images as an array of uint8 with all axes."""
        array = np.asarray(images)
        if array.ndim == 3 and self.image_shape[2] == 1:
            array = array[..., np.newaxis]
        if array.ndim != 4 or array.shape[1:] != self.image_shape:
            raise ArgumentError(f"images has the shape {np.shape(images)}; expected: {('N', *self.image_shape)}")
        low, high = self._model.config.low, self._model.config.high
        if array.size and not (np.all(array >= low) and np.all(array <= high) and np.all(array == np.rint(array))):
            raise ArgumentError(f"images: expected: whole numbers from {low} to {high}")
        return array.astype(np.uint8)

    def _sample(
        self,
        name: str,
        number: int,
        first: int,
        seed: int | None,
        temperature: float | None,
        guidance: float | None,
        given: Images | None = None,
        known: npt.NDArray[np.bool_] | None = None,
        row_done: RowDone | None = None,
    ) -> Images:
        from stages.pixelcnn import sampling

        label = self._label(name)
        chosen = Settings(
            self.settings.seed if seed is None else seed,
            self.settings.temperature if temperature is None else temperature,
            self.settings.guidance if guidance is None else guidance,
        )
        for argument, value in {"number": number, "first": first, **vars(chosen)}.items():
            if not value >= 0:
                raise ArgumentError(f"{argument} is {value}; expected: at least 0")
        keys = np.array([(label, index) for index in range(first, first + number)], np.int64).reshape(number, 2)
        condition = self._model.condition(np.full(number, label))
        drawings = sampling.sample(
            self._model.config,
            self._kernels,
            sampling.noise(self._model.config, chosen.seed, keys),
            condition,
            temperature=chosen.temperature,
            guidance=chosen.guidance,
            reference=self._model.guidance_reference(),
            given=given,
            known=known,
            row_done=row_done and (lambda part, row, pixels: row_done(part, row, pixels.astype(np.uint8))),
            max_batch=sampling.fast_batch(self._model.config),
        )
        return drawings.astype(np.uint8)


def _shifted(row_done: RowDone, start: int) -> RowDone:
    """`row_done` for completions that begin at `start` among all."""
    return lambda part, row, pixels: row_done(slice(part.start + start, part.stop + start), row, pixels)


def class_probabilities(bits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The probability of each class, by Bayes' rule from the bits of a drawing, or of a part of it, given each class.

    Each class is as likely as any other.

    Args:
      bits: (…, classes).

    Returns:
      The same shape.
    """
    array = np.asarray(bits, np.float64)
    likelihoods = np.exp2(array.min(axis=-1, keepdims=True) - array)
    return np.asarray(likelihoods / likelihoods.sum(axis=-1, keepdims=True))
