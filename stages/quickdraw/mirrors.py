"""Where drawings are: a mirror holds one `<class>.npy` a class, in the layout of the public bucket.

A mirror says how many drawings it holds of each class, fetches those that are not on this machine, and hands out
pixels. What a kind of mirror has to know for that is in three methods.
"""

from __future__ import annotations

import mmap
import os
import resource
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.common.errors import StageError
from stages.quickdraw import npy_header
from stages.quickdraw.labels import check_name, numbered

if TYPE_CHECKING:
    import pandas as pd

Rows: TypeAlias = npt.NDArray[np.int32]
Pixels: TypeAlias = npt.NDArray[np.uint8]


class Mirror(ABC):
    """Drawings by class and row."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """How many drawings there are of each class, in the order of the labels."""

    @abstractmethod
    def gather(self, name: str, rows: Rows, out: Pixels) -> None:
        """Copy some rows of a class to `out`, `(len(rows), 784)`; where they are far away, `fetch` has come first."""

    def fetch(self, wanted: Mapping[str, Rows]) -> None:  # noqa: B027 — a mirror on this machine has nothing to fetch
        """Bring rows of classes to this machine, those that are not there yet."""

    def prepare(self, drawings: pd.DataFrame) -> None:
        """Bring drawings (by `name` and `row`) to this machine."""
        self.fetch({name: rows for name, rows, _ in _by_class(drawings)})

    def pixels(self, drawings: pd.DataFrame) -> Pixels:
        """The pixels `(len(drawings), 784)` of drawings (by `name` and `row`), in their order."""
        by_class = np.empty((len(drawings), npy_header.PIXELS), np.uint8)
        place = np.empty(len(drawings), np.intp)
        done = 0
        for name, rows, places in _by_class(drawings):
            self.gather(name, rows, by_class[done : done + len(rows)])
            place[places] = np.arange(done, done + len(rows))
            done += len(rows)
        return by_class.take(place, axis=0)


class Folder(Mirror):
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._drawings: dict[str, Pixels] = {}

    def counts(self) -> dict[str, int]:
        """As told by the header of each file."""
        try:
            files = [entry.name for entry in os.scandir(self.path) if entry.name.endswith(".npy")]
            names = [check_name(file[: -len(".npy")]) for file in files]
        except FileNotFoundError:
            raise StageError(f"mirror: there is no folder {self.path}") from None
        except NotADirectoryError:
            raise StageError(f"mirror: {self.path} is not a folder") from None
        except ValueError as error:
            raise StageError(f"mirror: {error}") from None
        if not names:
            raise StageError(f"mirror: {self.path} holds no <class>.npy")
        counts = {name: self._header(name).rows for name in names}
        return {name: counts[name] for name in numbered(counts)}

    def gather(self, name: str, rows: Rows, out: Pixels) -> None:
        """Straight from the file, which stays mapped: opening it takes longer than copying a hundred drawings."""
        if name not in self._drawings:
            if len(self._drawings) >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 > 0:
                self._drawings.clear()  # each has a file open, and some systems permit 256
            self._drawings[name] = self._map(name)
        drawings = self._drawings[name]
        check_rows(f"mirror: {self._file(name)}", rows, len(drawings))
        drawings.take(rows, axis=0, out=out, mode="clip")  # the other modes go through a buffer

    def _map(self, name: str) -> Pixels:
        header = self._header(name)
        if not header.rows:
            return np.empty((0, npy_header.PIXELS), np.uint8)
        with open(self._file(name), "rb") as file:
            content = mmap.mmap(file.fileno(), header.size, access=mmap.ACCESS_READ)
        return np.frombuffer(content, np.uint8, offset=header.offset).reshape(header.rows, npy_header.PIXELS)

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.npy"

    def _header(self, name: str) -> npy_header.Header:
        path = self._file(name)
        if path.exists() and not path.is_file():  # a folder, or a pipe that would never answer
            raise StageError(f"mirror: {path} is not a file")
        try:
            with open(path, "rb") as file:
                return npy_header.parse(file.read(npy_header.MAX_HEADER_BYTES), os.fstat(file.fileno()).st_size)
        except FileNotFoundError:
            raise StageError(f"mirror: {path} is not there") from None
        except ValueError as error:
            raise StageError(f"mirror: {path} {error}") from None


class Doodles(Mirror):
    """The stand-ins that this project draws itself."""

    def counts(self) -> dict[str, int]:
        """The same of every class."""
        from stages.quickdraw import doodles

        return dict.fromkeys(numbered(doodles.CLASSES), doodles.ROWS_PER_CLASS)

    def gather(self, name: str, rows: Rows, out: Pixels) -> None:
        """Drawn anew each time."""
        from stages.quickdraw import doodles

        check_rows(f"mirror: doodles, {name!r},", rows, doodles.ROWS_PER_CLASS)
        out[:] = doodles.draw(name, rows)


def check_rows(what: str, rows: Rows, there: int) -> None:
    """Raise `StageError` where one of the rows of a class is not there: NumPy would take another in its place."""
    for row in (int(rows.max(initial=0)), int(rows.min(initial=0))):
        if len(rows) and not 0 <= row < there:
            raise StageError(
                f"{what} holds {there:,} drawings, and row {row} is wanted: it has changed since extract ran, "
                "or the index is damaged; run the stage extract again"
            )


def _by_class(drawings: pd.DataFrame) -> Iterator[tuple[str, Rows, npt.NDArray[np.intp]]]:
    """Each class with its rows, in order, and where in `drawings` they stand."""
    names = list(drawings["name"].cat.categories)
    codes, rows = drawings["name"].cat.codes.to_numpy(), drawings["row"].to_numpy(np.int32)
    order = np.argsort(codes, kind="stable")
    present, starts = np.unique(codes[order], return_index=True)
    for code, places in zip(present, np.split(order, starts[1:]), strict=True):
        yield names[code], rows[places], places
