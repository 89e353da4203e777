"""Mirrors: places that hold one `<class>.npy` file per class, in the layout of the public bucket.

A mirror counts the drawings of each class, fetches those that are not on this machine, and returns their pixels. Each
kind of mirror implements this in four methods: `counts`, `image_shape`, `fetch` and `read_rows`.
"""

from __future__ import annotations

import functools
import math
import mmap
import os
import resource
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.common.errors import StageError, counted, list_names
from stages.quickdraw import IMAGE_SHAPE, digits, npy_header, selection
from stages.quickdraw.file_types import IMPORT
from stages.quickdraw.labels import decomposed, files_by_class, numbered
from stages.quickdraw.npy_header import ImageShape

if TYPE_CHECKING:
    import pandas as pd

Rows: TypeAlias = npt.NDArray[np.int32]
Pixels: TypeAlias = npt.NDArray[np.uint8]


class Mirror(ABC):
    """Drawings by class and row."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """The number of drawings of each class, in the order of the labels."""

    def index(self, number: int) -> pd.DataFrame:
        """The first `number` drawings, in the order of TensorFlow Datasets: position, label, name and row."""
        return selection.build_index(self.counts(), number)

    @abstractmethod
    def image_shape(self) -> ImageShape:
        """The height, width and channels of every drawing."""

    @abstractmethod
    def read_rows(self, name: str, rows: Rows, out: Pixels) -> None:
        """Copy rows of a class to `out`, `(len(rows), values)`, where `values` is the product of `image_shape`.

        Rows of a remote mirror must have been fetched before.
        """

    def fetch(self, requested: Mapping[str, Rows]) -> None:  # noqa: B027 — optional: a local mirror has nothing to do
        """Download the requested rows of each class into the cache on this machine, unless they are there."""

    def prepare(self, drawings: pd.DataFrame) -> None:
        """Fetch the drawings (`name` and `row`) that are not on this machine yet."""
        self.fetch({name: rows for name, rows, _ in _by_class(drawings)})

    def pixels(self, drawings: pd.DataFrame) -> Pixels:
        """The pixels `(len(drawings), values)` of drawings (`name` and `row`), in their order."""
        by_class = np.empty((len(drawings), math.prod(self.image_shape())), np.uint8)
        order = np.empty(len(drawings), np.intp)  # the index in `by_class` of each drawing
        done = 0
        for name, rows, indices in _by_class(drawings):
            self.read_rows(name, rows, by_class[done : done + len(rows)])
            order[indices] = np.arange(done, done + len(rows))
            done += len(rows)
        return by_class.take(order, axis=0)


class Folder(Mirror):
    """A folder on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._drawings: dict[str, Pixels] = {}

    def counts(self) -> dict[str, int]:
        """The number of drawings of each class, read from the header of each file."""
        counts = {name: header.rows for name, header in self._headers.items()}
        return {name: counts[name] for name in numbered(counts)}

    def image_shape(self) -> ImageShape:
        """The height, width and channels of every drawing, read from the header of each file."""
        return next(iter(self._headers.values())).image_shape

    @functools.cached_property
    def _headers(self) -> dict[str, npy_header.Header]:
        """The header of each class's file."""
        try:
            files = sorted(file for file in os.listdir(self.path) if not file.startswith("."))
            names = files_by_class(file[: -len(".npy")] for file in files if file.endswith(".npy"))
        except FileNotFoundError:
            raise StageError(f"source: the folder {self.path} does not exist") from None
        except NotADirectoryError:
            raise StageError(f"source: {self.path} is not a folder; set source to a folder or a URL") from None
        except ValueError as error:
            raise StageError(f"source: {error}") from None
        if not names:
            others = f", but {list_names(files, 5)}" if files else ""
            raise StageError(f"source: {self.path} holds no <class>.npy{others}; convert pictures: {IMPORT}")
        headers = {name: self._header(name) for name in names}
        try:
            npy_header.common_shape({str(self._file(name)): header.image_shape for name, header in headers.items()})
        except ValueError as error:
            raise StageError(f"source: {error}") from None
        return headers

    def read_rows(self, name: str, rows: Rows, out: Pixels) -> None:
        """Copy rows of a class to `out`, `(len(rows), values)`.

        The file stays mapped for the next call, because opening it takes longer than copying a hundred drawings.
        """
        if name not in self._drawings:
            if len(self._drawings) >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 > 0:
                self._drawings.clear()  # each keeps a file open, and some systems allow 256
            self._drawings[name] = self._map(name)
        drawings = self._drawings[name]
        check_rows(f"source: {self._file(name)}", rows, len(drawings))
        if drawings.shape[1] != out.shape[1]:
            raise StageError(f"source: {self._file(name)} has changed during the run: run the stage extract again")
        drawings.take(rows, axis=0, out=out, mode="clip")  # other modes copy through a buffer

    def _map(self, name: str) -> Pixels:
        header = self._header(name)
        if not header.rows:
            return np.empty((0, header.row_bytes), np.uint8)
        with open(self._file(name), "rb") as file:
            content = mmap.mmap(file.fileno(), header.size, access=mmap.ACCESS_READ)
        return np.frombuffer(content, np.uint8, offset=header.offset).reshape(header.rows, header.row_bytes)

    def _file(self, name: str) -> Path:
        path, other = (self.path / f"{stem}.npy" for stem in (name, decomposed(name)))
        return other if other.exists() and not path.exists() else path

    def _header(self, name: str) -> npy_header.Header:
        path = self._file(name)
        if path.exists() and not path.is_file():  # a folder, or a pipe, which would block
            raise StageError(f"source: {path} is not a file")
        try:
            with open(path, "rb") as file:
                return npy_header.parse(file.read(npy_header.MAX_HEADER_BYTES), os.fstat(file.fileno()).st_size)
        except FileNotFoundError:
            raise StageError(f"source: {path} does not exist") from None
        except ValueError as error:
            raise StageError(f"source: {path} {error}") from None


class Doodles(Mirror):
    """The stand-in drawings that the project generates itself."""

    def counts(self) -> dict[str, int]:
        """The number of drawings of each class, which is the same for all."""
        from stages.quickdraw import doodles

        return dict.fromkeys(numbered(doodles.CLASSES), doodles.ROWS_PER_CLASS)

    def image_shape(self) -> ImageShape:
        """28×28 pixels, grey."""
        return IMAGE_SHAPE

    def read_rows(self, name: str, rows: Rows, out: Pixels) -> None:
        """Generate rows of a class in `out`, `(len(rows), 784)`."""
        from stages.quickdraw import doodles

        check_rows(f"source: the class {name!r} of the doodles", rows, doodles.ROWS_PER_CLASS)
        out[:] = doodles.draw(name, rows)


class Digits(Mirror):
    """The handwritten digits that scikit-learn ships."""

    def counts(self) -> dict[str, int]:
        """The number of drawings of each digit."""
        return {name: len(rows) for name, rows in digits.drawings().items()}

    def image_shape(self) -> ImageShape:
        """8×8 pixels, grey."""
        return digits.IMAGE_SHAPE

    def read_rows(self, name: str, rows: Rows, out: Pixels) -> None:
        """Copy rows of a digit to `out`, `(len(rows), 64)`."""
        drawings = digits.drawings()[name]
        check_rows(f"source: the class {name!r} of the digits", rows, len(drawings))
        out[:] = drawings[rows]


def check_rows(what: str, rows: Rows, count: int) -> None:
    """Check that rows are within a file or class of `count` drawings. NumPy would read a wrong row instead.

    Args:
      what: the file or class, with which the message begins.

    Raises:
      StageError: a row is negative, or `count` or more.
    """
    for row in (int(rows.max(initial=0)), int(rows.min(initial=0))):
        if len(rows) and not 0 <= row < count:
            raise StageError(
                f"{what} holds {counted(count, 'drawing')}, and row {row} was requested: the file has changed since "
                "extract ran, or the index is damaged; run the stage extract again"
            )


def _by_class(drawings: pd.DataFrame) -> Iterator[tuple[str, Rows, npt.NDArray[np.intp]]]:
    """For each class its name, the rows of its drawings, and the indices of these drawings in `drawings`."""
    names = list(drawings["name"].cat.categories)
    codes, rows = drawings["name"].cat.codes.to_numpy(), drawings["row"].to_numpy(np.int32)
    order = np.argsort(codes, kind="stable")
    present, starts = np.unique(codes[order], return_index=True)
    for code, indices in zip(present, np.split(order, starts[1:]), strict=True):
        yield names[code], rows[indices], indices
