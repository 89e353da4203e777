"""Rows of far-away files, kept on this machine for every run that comes after: one growing file a class.

A file is a line about itself, and then records of one size: a row's number, a checksum of number and pixels, and the
pixels. Records are only ever added, by the one process that holds the lock. So a kill at any moment leaves at most one
unfinished record at the end, and a power cut some that never reached the disk; neither has a checksum that fits, and
what has none that fits is not there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.common import files
from stages.common.errors import StageError
from stages.common.locks import file_lock
from stages.quickdraw.mirrors import Pixels, Rows
from stages.quickdraw.npy_header import PIXELS

RECORD = np.dtype([("row", "<u4"), ("checksum", "<u4"), ("pixels", "u1", (PIXELS,))])
RECORDS_PER_BLOCK = 4096  # records read or written at a time


def folder(address: str) -> Path:
    """The folder for the mirror at `address`."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", address.partition("://")[2]).strip("-")[:60]
    return files.cache_folder() / f"{words}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"


class RowFile:
    """The rows that are kept of one class's file, which has `size` bytes where it comes from."""

    def __init__(self, folder: Path, name: str, size: int) -> None:
        self.size = size
        self.path = folder / f"{name}-{size}.rows"
        self._about = {"format": 1, "class": name, "size": size}
        self._rows: Rows = np.empty(0, np.int32)  # ascending
        self._slots: npt.NDArray[np.int64] = np.empty(0, np.int64)  # the record of each
        self._version = ""
        self._inode = 0
        self._end = 0  # bytes: where the next record goes
        self.load()

    def load(self) -> None:
        """Look again at what is there."""
        rows, slots, place = [], [], 0
        self._version, self._end = "", 0
        try:
            with open(self.path, "rb") as file:
                self._inode = os.fstat(file.fileno()).st_ino
                self._version = self._read_about(file.read(RECORD.itemsize))
                self._end = RECORD.itemsize
                while content := file.read(RECORDS_PER_BLOCK * RECORD.itemsize):
                    records = np.frombuffer(content, RECORD, len(content) // RECORD.itemsize)
                    good = np.flatnonzero(_checksums(records) == records["checksum"])
                    rows.append(records["row"][good].astype(np.int32))
                    slots.append(good + place)
                    place += len(records)
        except (FileNotFoundError, ValueError):  # nothing yet, or cut off before it was anything
            pass
        self._end += place * RECORD.itemsize
        self._rows, first = np.unique(np.concatenate([*rows, np.empty(0, np.int32)]), return_index=True)
        self._slots = np.concatenate([*slots, np.empty(0, np.int64)])[first]

    def missing(self, rows: Rows) -> Rows:
        """Those of `rows` that are not there, each once, ascending."""
        return np.setdiff1d(rows, self._rows)

    def read(self, rows: Rows, out: Pixels) -> None:
        """Copy the pixels of `rows`, all of which must be there, to `out`."""
        if not len(rows):
            return
        places = np.minimum(np.searchsorted(self._rows, rows), max(len(self._rows) - 1, 0))
        if not len(self._rows) or not np.array_equal(self._rows[places], rows):
            raise KeyError(f"{self.path} lacks some of the rows")
        with open(self.path, "rb") as file:
            if os.fstat(file.fileno()).st_ino != self._inode:
                raise StageError(f"{self.path}: another run has found a changed file at the mirror; run again")
            records = np.memmap(file, RECORD, "r", RECORD.itemsize, (int(self._slots.max()) + 1,))
        out[:] = records.take(self._slots[places])["pixels"]

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold the right to add rows, which one process has at a time; wait for it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            waiting = False
            while True:
                try:
                    stack.enter_context(file_lock(self.path.with_suffix(".lock")))
                    break
                except BlockingIOError:
                    if not waiting:
                        print(f"waiting for another run that fetches {self._about['class']}", file=sys.stderr)
                    waiting = True
                    await asyncio.sleep(0.1)
                except OSError:  # a file system without locks; where two runs write at once, no checksum fits
                    break
            self.load()
            yield

    def is_of(self, version: str) -> bool:
        """Whether what is kept is of this `version` of the far-away file, as far as its server tells."""
        return not version or _digest(version) == self._version

    def begin(self, version: str) -> None:
        """Make ready to add rows of the far-away file in this `version` (whatever its server calls it), under the lock.

        Rows of another version are let go; so is an unfinished record at the end.
        """
        if self._end and self.is_of(version):
            os.truncate(self.path, self._end)
            return
        about = json.dumps(self._about | {"version": version and _digest(version)}).encode()
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(about.ljust(RECORD.itemsize - 1) + b"\n")
        fresh.replace(self.path)
        self.load()

    def add(self, rows: Rows, pixels: Pixels) -> None:
        """Add rows, under the lock. They are there for `read` after the next `load`."""
        with open(self.path, "r+b") as file:
            file.seek(self._end)
            for start in range(0, len(rows), RECORDS_PER_BLOCK):
                records = np.empty(len(rows[start : start + RECORDS_PER_BLOCK]), RECORD)
                records["row"] = rows[start : start + RECORDS_PER_BLOCK]
                records["pixels"] = pixels[start : start + RECORDS_PER_BLOCK]
                records["checksum"] = _checksums(records)
                file.write(records.data)
        self._end += len(rows) * RECORD.itemsize  # not where writing failed: the next try writes over it

    def _read_about(self, start: bytes) -> str:
        about = json.loads(start) if len(start) == RECORD.itemsize else None
        if not isinstance(about, dict) or {key: about.get(key) for key in self._about} != self._about:
            raise ValueError(f"{self.path} is about something else")
        return str(about.get("version"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _checksums(records: npt.NDArray[np.void]) -> npt.NDArray[np.uint32]:
    """CRC-32 of each record's row and pixels."""
    content = memoryview(records.tobytes())
    step, pixels = RECORD.itemsize, RECORD.itemsize - PIXELS
    sums = [
        zlib.crc32(content[at + pixels : at + step], zlib.crc32(content[at : at + 4]))
        for at in range(0, len(content), step)
    ]
    return np.array(sums, np.uint32)
