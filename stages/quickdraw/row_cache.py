"""A cache of the rows of remote files on this machine: one append-only file per class.

A file consists of a header line and records of a fixed size: the row number, a checksum of row number and pixels, and
the pixels. Records are only appended, by one process at a time, which holds the lock. So a kill leaves at most one
incomplete record at the end, and a power cut may leave records that never reached the disk. Neither has a matching
checksum, and records without one are ignored.
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

BUCKET_ROW_BYTES = 784
HEADER_BYTES = 792  # the longest name of a class leaves some unused
RECORDS_PER_BLOCK = 4096  # records read or written at a time


def folder(address: str) -> Path:
    """The cache folder for the mirror at `address`."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", address.partition("://")[2]).strip("-")[:60]
    return files.cache_folder() / f"{words}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"


class RowFile:
    """The cached rows of one class.

    Args:
      folder: the mirror's cache folder.
      name: of the class.
      size: of the class's file at the mirror, in bytes.
      row_bytes: of a row. A file of the same size with other rows has another cache.
    """

    def __init__(self, folder: Path, name: str, size: int, row_bytes: int) -> None:
        self.size = size
        others = f"-{row_bytes}" * (row_bytes != BUCKET_ROW_BYTES)
        self.path = folder / f"{name}-{size}{others}.rows"
        self._class = name
        self._header = {"format": 1, "class": name, "size": size}
        if others:
            self._header["row_bytes"] = row_bytes
        self._record = np.dtype([("row", "<u4"), ("checksum", "<u4"), ("pixels", "u1", (row_bytes,))])
        self._rows: Rows = np.empty(0, np.int32)  # ascending
        self._record_indices: npt.NDArray[np.int64] = np.empty(0, np.int64)  # of each row
        self._version = ""
        self._inode = 0
        self._end = 0  # the offset of the next record, in bytes
        self.load()

    def load(self) -> None:
        """Read which rows the file holds; none if it does not exist."""
        rows, record_indices, record_count = [], [], 0
        self._version, self._end = "", 0
        try:
            with open(self.path, "rb") as file:
                self._inode = os.fstat(file.fileno()).st_ino
                self._version = self._read_header(file.read(HEADER_BYTES))
                self._end = HEADER_BYTES
                size = self._record.itemsize
                while content := file.read(RECORDS_PER_BLOCK * size):
                    records = np.frombuffer(content, self._record, len(content) // size)
                    valid = np.flatnonzero(_checksums(records) == records["checksum"])
                    rows.append(records["row"][valid].astype(np.int32))
                    record_indices.append(valid + record_count)
                    record_count += len(records)
        except (FileNotFoundError, ValueError):  # no file, or no valid header
            pass
        self._end += record_count * self._record.itemsize
        self._rows, first = np.unique(np.concatenate([*rows, np.empty(0, np.int32)]), return_index=True)
        self._record_indices = np.concatenate([*record_indices, np.empty(0, np.int64)])[first]

    def missing(self, rows: Rows) -> Rows:
        """The rows among `rows` that are not cached, each once, ascending."""
        return np.setdiff1d(rows, self._rows)

    def read(self, rows: Rows, out: Pixels) -> None:
        """Copy the pixels of `rows` to `out`, `(len(rows), row_bytes)`.

        Raises:
          KeyError: some of the rows are not cached.
          StageError: another run has replaced the file.
        """
        if not len(rows):
            return
        indices = np.minimum(np.searchsorted(self._rows, rows), max(len(self._rows) - 1, 0))
        if not len(self._rows) or not np.array_equal(self._rows[indices], rows):
            raise KeyError(f"{self.path} lacks some of the rows")
        with open(self.path, "rb") as file:
            if os.fstat(file.fileno()).st_ino != self._inode:
                raise StageError(
                    f"{self.path}: another run has replaced it, because the file at the source changed; run again"
                )
            records = np.memmap(file, self._record, "r", HEADER_BYTES, (int(self._record_indices.max()) + 1,))
        out[:] = records.take(self._record_indices[indices])["pixels"]

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold the lock for adding rows. Wait while another process holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            waiting = False
            while True:
                try:
                    stack.enter_context(file_lock(self.path.with_suffix(".lock")))
                    break
                except BlockingIOError:
                    if not waiting:
                        print(f"waiting for another run that fetches {self._class}", file=sys.stderr)
                    waiting = True
                    await asyncio.sleep(0.1)
                except OSError:  # a file system without locks; if two runs write at once, the checksums do not match
                    break
            self.load()
            yield

    def is_version(self, version: str) -> bool:
        """Whether the cached rows are of this version of the remote file. True for "", an unknown version."""
        return not version or _digest(version) == self._version

    def prepare_append(self, version: str) -> None:
        """Make the file ready for `add`. The caller holds the lock.

        Rows of another version are discarded, and so is an incomplete record at the end.

        Args:
          version: of the remote file, in any form; "" if it is unknown.
        """
        if self._end and self.is_version(version):
            os.truncate(self.path, self._end)
            return
        header = json.dumps(self._header | {"version": version and _digest(version)}).encode()
        new_file = self.path.with_suffix(".new")
        new_file.write_bytes(header.ljust(HEADER_BYTES - 1) + b"\n")
        new_file.replace(self.path)
        self.load()

    def add(self, rows: Rows, pixels: Pixels) -> None:
        """Append rows. The caller holds the lock. `read` finds the rows after the next `load`."""
        with open(self.path, "r+b") as file:
            file.seek(self._end)
            for start in range(0, len(rows), RECORDS_PER_BLOCK):
                records = np.empty(len(rows[start : start + RECORDS_PER_BLOCK]), self._record)
                records["row"] = rows[start : start + RECORDS_PER_BLOCK]
                records["pixels"] = pixels[start : start + RECORDS_PER_BLOCK]
                records["checksum"] = _checksums(records)
                file.write(records.data)
        # Not reached if writing fails, so the next attempt overwrites what it wrote.
        self._end += len(rows) * self._record.itemsize

    def _read_header(self, content: bytes) -> str:
        """The version in a header. Raises `ValueError` for the header of another class, size or format."""
        header = json.loads(content) if len(content) == HEADER_BYTES else None
        if not isinstance(header, dict) or {key: header.get(key) for key in self._header} != self._header:
            raise ValueError(f"{self.path} has another header")
        return str(header.get("version"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _checksums(records: npt.NDArray[np.void]) -> npt.NDArray[np.uint32]:
    """CRC-32 of each record's row and pixels."""
    content = memoryview(records.tobytes())
    size, pixels = records.dtype.itemsize, 8
    sums = [
        zlib.crc32(content[start + pixels : start + size], zlib.crc32(content[start : start + 4]))
        for start in range(0, len(content), size)
    ]
    return np.array(sums, np.uint32)
