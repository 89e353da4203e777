"""A mirror on another machine: the rows that are wanted are fetched once, and kept for all runs of this machine.

There are two ways to the rows of a class. One asks for each of them, 784 bytes at a time and many at once; the other
reads the whole file and keeps those that are wanted. Which one costs less depends on how many are wanted.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import partial
from time import monotonic
from urllib.parse import urlsplit

import numpy as np

from stages.common import files
from stages.common.errors import StageError
from stages.common.progress import progress
from stages.common.urls import without_secrets
from stages.quickdraw import npy_header, row_cache
from stages.quickdraw.file_server import CONNECTIONS, AccessDenied, FileHead, FileServer
from stages.quickdraw.fsspec_store import FsspecStore
from stages.quickdraw.http import HttpServer
from stages.quickdraw.labels import BUCKET, PublishedFile, check_name, labels, numbered, published
from stages.quickdraw.mirrors import Mirror, Pixels, Rows, check_rows
from stages.quickdraw.retry import Retrier, RetryableError, RetryPolicy, with_deadline

BUCKETS = (BUCKET, "gs://quickdraw_dataset/full/numpy_bitmap")
BUCKET_HEADER = 80  # bytes of each of its files; every file that is opened shows whether that holds

# What the two ways cost. A request's answer is some 50 ms away, and CONNECTIONS of them are under way at once; a whole
# file comes through a line of 160 Mbit/s. So ranges are worth it for up to some 7,000 rows of a file of the
# bucket's, a twentieth of it. Both numbers are guesses at a home or an office; on a faster line both ways take seconds.
REQUEST_SECONDS = 0.05 / CONNECTIONS
BYTES_PER_SECOND = 20e6
MERGE_GAP_ROWS = 2  # a gap of one row, 784 bytes, costs less than the headers of another request and its answer

MAX_ROWS_PER_REQUEST = 1024  # of a request
CONCURRENT_CLASSES = 4
SAVE_EVERY_SECONDS = 1.0  # seconds of work that a kill may cost
PROGRESS_BYTES = 1 << 20  # bytes of a stream after which a broken connection counts as progress


class Remote(Mirror):
    """The mirror at a URL.

    Args:
      address: `https://…`, `gs://…` or whatever fsspec reads; `<address>/<class>.npy` are the files.
      patience: the bounds on waiting and trying again.
      known: the size and the checksum of each file, where they are known without asking; such a mirror is not asked
        what it holds, and a file that turns out to be another one is refused.
    """

    def __init__(
        self, address: str, patience: RetryPolicy | None = None, known: Mapping[str, PublishedFile] | None = None
    ) -> None:
        self.address = address.rstrip("/")
        self.patience = patience or RetryPolicy()
        self.known = known if known is not None else published() if self.address in BUCKETS else None
        self._files: dict[str, row_cache.RowFile] = {}
        self._folder = row_cache.folder(without_secrets(self.address))

    def counts(self) -> dict[str, int]:
        """As published, else as told by the beginning of each file."""
        if self.known is not None:
            counts = {name: (file.size - BUCKET_HEADER) // npy_header.PIXELS for name, file in self.known.items()}
        else:
            counts = asyncio.run(self._ask_counts())
        return {name: counts[name] for name in numbered(counts)}

    def fetch(self, wanted: Mapping[str, Rows]) -> None:
        """Bring rows of classes to this machine's cache, those that are not there."""
        kept = {name: self.kept(name) for name in wanted}
        if not all(keep and not keep.missing(wanted[name]).size for name, keep in kept.items()):
            asyncio.run(self._fetch(wanted))

    def gather(self, name: str, rows: Rows, out: Pixels) -> None:
        """From the cache; `fetch` has brought them."""
        self._files[name].read(rows, out)

    def kept(self, name: str, size: int | None = None) -> row_cache.RowFile | None:
        """The kept rows of a class, whose file has `size` bytes; None where that is not known yet."""
        if name not in self._files:
            if self.known is not None:
                size = self.known[name].size
            if size is None:
                return None
            self._files[name] = row_cache.RowFile(self._folder, name, size)
        return self._files[name]

    async def _fetch(self, wanted: Mapping[str, Rows]) -> None:
        async with open_file_server(self.address, self.patience) as origin:
            await _Fetch(self, wanted, origin).run()

    async def _ask_counts(self) -> dict[str, int]:
        retrying = Retrier(self.patience)
        async with open_file_server(self.address, self.patience) as origin:
            everything = origin.shown("*")
            why = f"{everything}: there is no such file"

            async def rows(name: str) -> int | None:
                nonlocal why
                try:
                    start = await retrying.get(partial(origin.start, name))
                except AccessDenied as error:  # as many stores answer for a file that is not there
                    why = str(error)
                    return None
                return None if start is None else _header(origin, name, start).rows

            async def all_rows() -> dict[str, int | None]:
                try:
                    names = list(map(check_name, await retrying.get(origin.names))) or labels()
                except ValueError as error:
                    raise StageError(str(error)) from None
                return dict(zip(names, await asyncio.gather(*map(rows, names)), strict=True))

            try:
                found = await with_deadline(everything, all_rows(), self.patience)
            except StageError as error:
                raise StageError(f"mirror: {error}") from None
        counts = {name: count for name, count in found.items() if count is not None}
        if not counts:
            raise StageError(f"mirror: {why}")
        return counts


class _Fetch:
    """One call of `Remote.fetch`."""

    def __init__(self, mirror: Remote, wanted: Mapping[str, Rows], origin: FileServer) -> None:
        self.mirror = mirror
        self.wanted = wanted
        self.origin = origin
        self.retrying = Retrier(mirror.patience)
        self.way = fetch_strategy()
        self.report: Callable[[int], object] = int
        self.warned = False

    async def run(self) -> None:
        """Bring everything, or raise `StageError` and say what has come."""
        total = sum(map(len, self.wanted.values()))
        with progress("fetching drawings", total, "drawings") as self.report:
            try:
                await with_deadline(self.origin.shown("<class>"), self._all(), self.mirror.patience)
                return
            except StageError as error:
                what = str(error)
            except OSError as error:
                if error.filename is not None:
                    raise
                raise OSError(
                    error.errno, error.strerror, str(files.cache_folder())
                ) from None  # a full disk names no file
        kept = f"{self._kept():,} of {total:,} drawings are kept in {files.cache_folder()}"
        raise StageError(f"mirror: {what}; {kept}; running again goes on from there")

    def _kept(self) -> int:
        kept = 0
        for name, rows in self.wanted.items():
            if keep := self.mirror.kept(name):
                keep.load()
                kept += len(rows) - len(keep.missing(rows))
        return kept

    async def _all(self) -> None:
        at_once = asyncio.Semaphore(CONCURRENT_CLASSES)

        async def one(name: str, rows: Rows) -> None:
            async with at_once:
                await self._class(name, rows)

        tasks = [asyncio.create_task(one(name, rows)) for name, rows in self.wanted.items()]
        try:
            await asyncio.gather(*tasks)
        finally:  # where one fails, what the others have is written down before this ends
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _class(self, name: str, wanted: Rows) -> None:
        start = None
        keep = self.mirror.kept(name)
        if keep is None:
            start = await self._start(name)
            keep = self.mirror.kept(name, start.size)
            assert keep is not None
        here = len(wanted) - len(keep.missing(wanted))
        self.report(here)
        if here == len(wanted) and (start is None or keep.is_of(self._version(start))):
            return
        async with keep.locked():
            start = start or await self._start(name)
            if start.size != keep.size:
                was = f"{keep.size:,} were expected"
                raise StageError(f"{self.origin.shown(name)} has {start.size:,} bytes, and {was}: it has changed")
            header = _header(self.origin, name, start)
            check_rows(self.origin.shown(name), wanted, header.rows)
            keep.begin(self._version(start))
            missing = keep.missing(wanted)
            self.report(len(wanted) - len(missing) - here)  # more where another run has brought some meanwhile
            if missing.size:
                spans = _spans(missing)
                if self._whole(name, start, len(spans)):
                    await self._stream(name, keep, missing, start, header)
                else:
                    await self._ranges(name, keep, spans, start, header)
                keep.load()
        if keep.missing(wanted).size:
            raise StageError(
                f"{keep.path} does not hold what was written to it: the disk is failing, or something cut it"
            )

    async def _start(self, name: str) -> FileHead:
        start = await self.retrying.get(partial(self.origin.start, name))
        if start is None:
            raise StageError(f"{self.origin.shown(name)} is not there")
        return start

    def _version(self, start: FileHead) -> str:
        """What tells a file from another of its size: where the server says nothing, the query that it was asked with.

        The cache's folder is named without the query, which may be a signature, and another one every time.
        """
        return start.version or f"?{urlsplit(self.mirror.address).query}"

    def _whole(self, name: str, start: FileHead, ranges: int) -> bool:
        """Whether to read the whole file rather than so many ranges of it."""
        if self.way == "ranges" and not start.ranges:
            raise StageError(
                f"{self.origin.shown(name)}: the server gives no ranges, and QUICKDRAW_FETCH=ranges wants them"
            )
        if self.way:
            return self.way == "files"
        if not start.ranges and not self.warned:
            self.warned = True
            size = f"{start.size * len(self.wanted) / 1e6:,.0f} MB"
            print(f"the mirror gives no ranges of its files, so they are read whole: about {size}", file=sys.stderr)
        return not start.ranges or start.size / BYTES_PER_SECOND < ranges * REQUEST_SECONDS

    async def _ranges(
        self, name: str, keep: row_cache.RowFile, spans: list[Rows], start: FileHead, header: npy_header.Header
    ) -> None:
        """Fetch rows by ranges, and write them down as they come."""
        waiting = iter(spans)
        with self._writing(keep) as write:

            async def ask() -> None:
                for rows in waiting:
                    first, last = int(rows[0]), int(rows[-1])
                    at, end = (header.offset + row * npy_header.PIXELS for row in (first, last + 1))
                    content = await self.retrying.get(partial(self.origin.read, name, at, end, start))
                    write(rows, np.frombuffer(content, np.uint8).reshape(-1, npy_header.PIXELS)[rows - first])

            tasks = [asyncio.create_task(ask()) for _ in range(min(CONNECTIONS, len(spans)))]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def _writing(self, keep: row_cache.RowFile) -> Iterator[Callable[[Rows, Pixels], None]]:
        """Gather rows for a moment before they are added to the file; add the rest when the block ends, however."""
        rows: list[Rows] = []
        pixels: list[Pixels] = []
        saved = monotonic()

        def save() -> None:
            nonlocal saved
            if rows:
                keep.add(np.concatenate(rows), np.concatenate(pixels))
                self.report(sum(map(len, rows)))
                rows.clear()
                pixels.clear()
            saved = monotonic()

        def write(more: Rows, of_them: Pixels) -> None:
            rows.append(more)
            pixels.append(of_them)
            if monotonic() - saved > SAVE_EVERY_SECONDS:
                save()

        try:
            yield write
        finally:
            save()

    async def _stream(
        self, name: str, keep: row_cache.RowFile, missing: Rows, start: FileHead, header: npy_header.Header
    ) -> None:
        """Read the whole file; add its rows when all of it has come, and is what was published."""
        digest = hashlib.sha256()
        position = 0
        with tempfile.TemporaryFile(dir=keep.path.parent) as chosen:
            picker = _Picker(missing, header, chosen.write)

            async def go_on() -> None:
                nonlocal position
                before = position
                try:
                    async with aclosing(self.origin.stream(name, position, start)) as blocks:
                        async for block in blocks:
                            digest.update(block)
                            picker.take(block)
                            position += len(block)
                except RetryableError:
                    if position - before < PROGRESS_BYTES:
                        raise

            while position < start.size:
                await self.retrying.get(go_on)
            known = self.mirror.known
            if known is not None and digest.hexdigest() != known[name].sha256:
                raise StageError(
                    f"{self.origin.shown(name)} has the sha256 {digest.hexdigest()}, and {known[name].sha256} was "
                    "expected: nothing of it is kept"
                )
            chosen.seek(0)
            for at in range(0, len(missing), row_cache.RECORDS_PER_BLOCK):
                rows = missing[at : at + row_cache.RECORDS_PER_BLOCK]
                content = chosen.read(len(rows) * npy_header.PIXELS)
                keep.add(rows, np.frombuffer(content, np.uint8).reshape(-1, npy_header.PIXELS))
                self.report(len(rows))


class _Picker:
    """Picks rows out of the bytes of a file that pass by."""

    def __init__(self, rows: Rows, header: npy_header.Header, write: Callable[[bytes], object]) -> None:
        self._rows = rows  # ascending
        self._skip = header.offset
        self._next = 0  # the row that comes next
        self._rest = b""
        self._write = write

    def take(self, block: bytes) -> None:
        """The bytes after those of the last call."""
        skipped = min(self._skip, len(block))
        self._skip -= skipped
        content = self._rest + block[skipped:]
        whole = len(content) // npy_header.PIXELS
        self._rest = content[whole * npy_header.PIXELS :]
        chosen = self._rows[slice(*np.searchsorted(self._rows, (self._next, self._next + whole)))] - self._next
        if len(chosen):
            pixels = np.frombuffer(content, np.uint8, whole * npy_header.PIXELS).reshape(whole, npy_header.PIXELS)
            self._write(pixels[chosen].tobytes())
        self._next += whole


def _spans(rows: Rows) -> list[Rows]:
    """Ascending rows in the groups to ask for: near ones together, but no more than some."""
    apart = np.flatnonzero(np.diff(rows) > MERGE_GAP_ROWS) + 1
    return [
        span[start : start + MAX_ROWS_PER_REQUEST]
        for span in np.split(rows, apart)
        for start in range(0, len(span), MAX_ROWS_PER_REQUEST)
    ]


def _header(origin: FileServer, name: str, start: FileHead) -> npy_header.Header:
    try:
        return npy_header.parse(start.content, start.size)
    except ValueError as error:
        raise StageError(f"{origin.shown(name)} {error}") from None


def fetch_strategy() -> str:
    """Which way `$QUICKDRAW_FETCH` wants: `ranges`, `files`, or the one that costs less."""
    way = os.environ.get("QUICKDRAW_FETCH", "")
    if way not in ("", "auto", "ranges", "files"):
        raise StageError(f"QUICKDRAW_FETCH is {way!r}; permitted: ranges, files or auto")
    return way if way != "auto" else ""


def open_file_server(address: str, patience: RetryPolicy) -> FileServer:
    """The origin for a URL."""
    return (HttpServer if urlsplit(address).scheme in ("http", "https") else FsspecStore)(address, patience)
