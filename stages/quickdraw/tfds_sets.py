"""Any dataset of images with one label each that TensorFlow Datasets has prepared on this machine, such as MNIST.

It is read with TensorFlow Datasets, from the files of the prepared dataset alone: no code of a dataset runs, and
nothing is downloaded. Its drawings are in the order in which they are stored: first those of the split `train`, by row,
and then those of the split `test`. So the first N are those of `tfds.load(…, split="train[:N]")`, which interleaves the
files of a dataset that is stored in several.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.common import device
from stages.common.errors import StageError, one_line
from stages.quickdraw import npy_header
from stages.quickdraw.labels import TFDS, check_name, numbered
from stages.quickdraw.mirrors import Pixels, check_rows
from stages.quickdraw.npy_header import ImageShape

if TYPE_CHECKING:
    import pandas as pd

BATCH = 1024  # drawings that are read at a time


class TfdsSet:
    """A prepared dataset.

    Args:
      name: as in `tfds.load`: `mnist`, `emnist/letters`, `mnist:3.0.1`.
      data_dir: the data directory of TensorFlow Datasets.

    Raises:
      StageError: the dataset is not prepared, or its examples are not an image of one shape with one label.
    """

    def __init__(self, name: str, data_dir: Path) -> None:
        self.source = f"{TFDS}{name}"
        self._prepare = f"python -c \"import tensorflow_datasets as tfds; tfds.load('{name}')\""
        try:
            self._builder = _open(name, data_dir)
        except FileNotFoundError:
            raise StageError(
                f"source: {self.source} is not prepared in {data_dir}; prepare it: {self._prepare}"
            ) from None
        except Exception as error:  # TensorFlow Datasets reads damaged files with many libraries
            raise self._damaged(error) from None
        self._image, self._label, self._shape, names = self._features()
        self._names = class_names(names)
        self._known_labels: dict[str, npt.NDArray[np.int64]] = {}  # by split
        splits = self._builder.info.splits
        self._sizes = {split: int(splits[split].num_examples) for split in ("train", "test") if split in splits}
        if not self._sizes.get("train"):
            raise StageError(f"source: {self.source} has no split train; its splits are: {', '.join(splits)}")

    def counts(self) -> dict[str, int]:
        """The number of drawings of each class in the split `train`, in the order of the labels."""
        counts = np.bincount(self._labels("train"), minlength=len(self._names))
        by_name = dict(zip(self._names, counts.tolist(), strict=True))
        return {name: by_name[name] for name in numbered(by_name)}

    def index(self, number: int) -> pd.DataFrame:
        """The first `number` drawings of the split `train`: position, label, name and row."""
        return self._list("train", 0, number)

    def test_index(self) -> pd.DataFrame:
        """All drawings of the split `test`, numbered after those of `train`. Raises `StageError` if it has none."""
        if not self._sizes.get("test"):
            raise StageError(f"holdout is test, but {self.source} has no split test; set holdout to a number")
        return self._list("test", self._sizes["train"], self._sizes["test"])

    def image_shape(self) -> ImageShape:
        """The height, width and channels of every drawing."""
        return self._shape

    def prepare(self, drawings: pd.DataFrame) -> None:
        """Do nothing: the drawings are on this machine."""

    def pixels(self, drawings: pd.DataFrame) -> Pixels:
        """The pixels `(len(drawings), values)` of drawings, found by `row`.

        Raises:
          StageError: a drawing cannot be read, or has another label.
        """
        rows, labels = drawings["row"].to_numpy(), drawings["label"].to_numpy()
        check_rows(f"source: {self.source}", rows, sum(self._sizes.values()))
        pixels = np.empty((len(rows), int(np.prod(self._shape))), np.uint8)
        actual = np.empty(len(rows), np.int64)
        start = 0
        for split, size in self._sizes.items():
            indices = np.flatnonzero((rows >= start) & (rows < start + size))
            indices = indices[np.argsort(rows[indices], kind="stable")]
            wanted = rows[indices] - start
            position = int(wanted.min(initial=size))
            for batch in self._read(split, position, int(wanted.max(initial=-1)) + 1):
                low, high = np.searchsorted(wanted, (position, position + len(batch[self._label])))
                chosen = wanted[low:high] - position
                pixels[indices[low:high]] = batch[self._image][chosen].reshape(len(chosen), -1)
                actual[indices[low:high]] = batch[self._label][chosen]
                position += len(batch[self._label])
            start += size
        if not np.array_equal(self._numbered(actual), labels):
            raise StageError(f"source: {self.source} has changed since extract ran: run the stage extract again")
        return pixels

    def _list(self, split: str, start: int, number: int) -> pd.DataFrame:
        import pandas as pd

        classes = self._labels(split)[:number]
        rows = np.arange(start, start + number)
        return pd.DataFrame(
            {
                "position": rows.astype(np.int64),
                "label": self._numbered(classes),
                "name": pd.Categorical.from_codes(classes, pd.Index(self._names)),
                "row": rows.astype(np.int32),
            }
        )

    def _numbered(self, classes: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]:
        """The labels of drawings in this project, from their labels in the dataset."""
        labels = numbered(self._names)
        return np.array([labels[name] for name in self._names], np.int16)[classes]

    def _labels(self, split: str) -> npt.NDArray[np.int64]:
        """The label of each drawing of a split in the dataset."""
        if split in self._known_labels:
            return self._known_labels[split]
        batches = [batch[self._label] for batch in self._read(split, 0, self._sizes[split], pixels=False)]
        labels = np.concatenate([*batches, np.empty(0, np.int64)]).astype(np.int64)
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(self._names):
            raise StageError(f"source: {self.source} has drawings without a label")
        self._known_labels[split] = labels
        return labels

    def _read(self, split: str, start: int, stop: int, pixels: bool = True) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """The drawings `start` to `stop` (exclusive) of a split in batches: their labels, and their images if asked."""
        if start >= stop:
            return
        device.configure("cpu")
        import tensorflow_datasets as tfds

        chosen = {self._label: True} | ({self._image: True} if pixels else {})
        batches: Iterator[dict[str, npt.NDArray[Any]]] = iter(())
        failure: Exception | None = None
        with device.capture_stderr():  # both libraries print warnings when reading starts
            try:
                dataset = self._builder.as_dataset(
                    split=f"{split}[{start}:{stop}]",
                    decoders=tfds.decode.PartialDecoding(chosen),
                    read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),  # in the stored order
                )
                batches = iter(tfds.as_numpy(dataset.batch(BATCH)))
                batches = itertools.chain([next(batches)], batches)
            except Exception as error:  # TensorFlow has an error of its own for each kind of damage
                failure = error
        try:
            if failure:
                raise failure
            yield from batches
        except Exception as error:
            raise self._damaged(error) from None

    def _features(self) -> tuple[str, str, ImageShape, Sequence[str]]:
        """The names of the image and of the label in an example, the shape of an image, and the names of the labels."""
        import tensorflow_datasets as tfds

        features = self._builder.info.features
        entries = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
        images = [key for key, feature in entries.items() if type(feature) is tfds.features.Image]
        labels = [key for key, feature in entries.items() if type(feature) is tfds.features.ClassLabel]
        if len(images) != 1 or len(labels) != 1:
            raise StageError(
                f"source: {self.source} is not a dataset of images with one label each: it has "
                f"{one_line(', '.join(entries) or type(features).__name__, 200)}"
            )
        stored, names = entries[images[0]], entries[labels[0]].names
        shape = None if None in stored.shape else npy_header.image_shape(stored.shape)
        if len(stored.shape) != 3 or shape is None or stored.np_dtype != np.uint8:
            raise StageError(
                f"source: {self.source} has images of the shape {stored.shape} and type {np.dtype(stored.np_dtype)}; "
                f"expected: uint8, 1 or 3 channels, and {npy_header.MIN_SIDE} to {npy_header.MAX_SIDE} pixels each way"
            )
        return images[0], labels[0], shape, names or [str(label) for label in range(entries[labels[0]].num_classes)]

    def _damaged(self, error: Exception) -> StageError:
        return StageError(
            f"source: {self.source} cannot be read ({one_line(error, 200)}); delete its folder, and prepare it again: "
            f"{self._prepare}"
        )


def class_names(names: Sequence[str]) -> list[str]:
    """Names of labels as names of classes: `T-shirt/top` as `T-shirt-top`; with its number if that is not enough."""
    classes: list[str] = []
    for number, name in enumerate(names):
        try:
            cleaned = check_name(re.sub(r'[/\\:*?"<>|]', "-", name).strip().lstrip("."))
        except ValueError:
            cleaned = f"class {number}"
        classes.append(cleaned if cleaned not in classes else f"{cleaned} {number}")
    return classes


def _open(name: str, data_dir: Path) -> Any:
    """The builder of a prepared dataset, from its files. Raises `FileNotFoundError` if it is not prepared."""
    with device.capture_stderr():
        from tensorflow_datasets.core.read_only_builder import builder_from_files
        from tensorflow_datasets.core.registered import DatasetNotFoundError
    try:
        return builder_from_files(name, data_dir=str(data_dir))
    except DatasetNotFoundError:
        raise FileNotFoundError(name) from None
