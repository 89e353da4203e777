"""A mirror on another machine. Requested rows are fetched once and cached for all runs on this machine.

The rows of a class are fetched in one of two ways: by range requests of a row each, many at a time, or by reading
the whole file and saving the requested rows. Which is faster depends on how many rows are requested.
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
from stages.quickdraw import IMAGE_SHAPE, npy_header, row_cache
from stages.quickdraw.file_server import MAX_CONNECTIONS, AccessDenied, FileHead, FileServer
from stages.quickdraw.fsspec_store import FsspecStore
from stages.quickdraw.http import HttpServer
from stages.quickdraw.labels import BUCKET, PublishedFile, files_by_class, labels, numbered, published
from stages.quickdraw.mirrors import Mirror, Pixels, Rows, check_rows
from stages.quickdraw.npy_header import ImageShape
from stages.quickdraw.retry import Retrier, RetryableError, RetryPolicy, with_deadline

BUCKETS = (BUCKET, "gs://quickdraw_dataset/full/numpy_bitmap")

# The estimated costs of the two ways. A response takes about 50 ms, with MAX_CONNECTIONS requests in parallel; a whole
# file arrives at 160 Mbit/s. So ranges are faster for up to about 7,000 rows of a file of the bucket, a twentieth of
# it. Both numbers are guesses for a home or an office; on a faster line both ways take seconds.
REQUEST_SECONDS = 0.05 / MAX_CONNECTIONS
BYTES_PER_SECOND = 20e6
MERGE_GAP_ROWS = 2  # to read a gap of one row (784 bytes in the bucket) costs less than the headers of another request

MAX_ROWS_PER_REQUEST = 1024
CONCURRENT_CLASSES = 4
SAVE_EVERY_SECONDS = 1.0  # at most this much work is lost if the run is killed
PROGRESS_BYTES = 1 << 20  # a stream that breaks after this many bytes made progress, and is not a failed attempt


class Remote(Mirror):
    """The mirror at a URL.

    Args:
      address: `https://…`, `gs://…` or any other URL that fsspec reads; the files are `<address>/<class>.npy`.
      retry_policy: the limits on retries and waits; default: `RetryPolicy()`.
      published_files: the size and the checksum of each file, if they are known in advance; default: those of the
        public bucket for its address, else None. With them the drawings are counted without a request, and a file that
        differs is refused.
    """

    def __init__(
        self,
        address: str,
        retry_policy: RetryPolicy | None = None,
        published_files: Mapping[str, PublishedFile] | None = None,
    ) -> None:
        self.address = address.rstrip("/")
        self.retry_policy = retry_policy or RetryPolicy()
        if published_files is None and self.address in BUCKETS:
            published_files = published()
        self.published_files = published_files
        self._row_files: dict[str, row_cache.RowFile] = {}
        self._cache_folder = row_cache.folder(without_secrets(self.address))
        self._first_shape: dict[str, ImageShape] = {}  # by URL, of the first file whose header was read

    def counts(self) -> dict[str, int]:
        """The number of drawings of each class: from the published sizes if known, else from each file's header."""
        if self.published_files is not None:
            counts = {name: file.rows for name, file in self.published_files.items()}
        else:
            counts = asyncio.run(self._fetch_counts())
        return {name: counts[name] for name in numbered(counts)}

    def image_shape(self) -> ImageShape:
        """The height, width and channels of every drawing: those of the bucket, or as in the headers of the files."""
        if self.published_files is not None:
            return IMAGE_SHAPE
        if not self._first_shape:
            self.counts()
        return next(iter(self._first_shape.values()))

    def fetch(self, requested: Mapping[str, Rows]) -> None:
        """Fetch the requested rows of each class that are not in the cache yet."""
        row_files = {name: self.row_file(name) for name in requested}
        if not all(row_file and not row_file.missing(requested[name]).size for name, row_file in row_files.items()):
            asyncio.run(self._fetch(requested))

    def read_rows(self, name: str, rows: Rows, out: Pixels) -> None:
        """Copy rows of a class, which `fetch` has fetched, from the cache to `out`, `(len(rows), values)`."""
        self._row_files[name].read(rows, out)

    def row_file(self, name: str, header: npy_header.Header | None = None) -> row_cache.RowFile | None:
        """The cached rows of a class; None if the size of the class's file is not known yet.

        Args:
          header: of the class's file, if it is neither published nor known from an earlier call.
        """
        if name not in self._row_files:
            if self.published_files is not None:
                size, row_bytes = self.published_files[name].size, row_cache.BUCKET_ROW_BYTES
            elif header is not None:
                size, row_bytes = header.size, header.row_bytes
            else:
                return None
            self._row_files[name] = row_cache.RowFile(self._cache_folder, name, size, row_bytes)
        return self._row_files[name]

    def parse_header(self, server: FileServer, name: str, head: FileHead) -> npy_header.Header:
        """The header of a class's file. Raises `StageError` if its drawings have another shape than those before."""
        url = server.display_url(name)
        try:
            header = npy_header.parse(head.content, head.size)
        except ValueError as error:
            raise StageError(f"{url} {error}") from None
        if self.published_files is not None:
            expected = {"the public bucket": IMAGE_SHAPE}
        else:
            expected = self._first_shape = self._first_shape or {url: header.image_shape}
        try:
            npy_header.common_shape(expected | {url: header.image_shape})
        except ValueError as error:
            raise StageError(str(error)) from None
        return header

    async def _fetch(self, requested: Mapping[str, Rows]) -> None:
        async with open_file_server(self.address, self.retry_policy) as server:
            await _Fetch(self, requested, server).run()

    async def _fetch_counts(self) -> dict[str, int]:
        retrier = Retrier(self.retry_policy)
        async with open_file_server(self.address, self.retry_policy) as server:
            all_files = server.display_url("*")
            reason = f"{all_files}: no such file"

            async def count_class(name: str) -> int | None:
                nonlocal reason
                try:
                    head = await retrier.call(partial(server.read_head, name))
                except AccessDenied as error:  # many stores answer this way for a file that does not exist
                    reason = str(error)
                    return None
                return None if head is None else self.parse_header(server, name, head).rows

            async def count_all() -> dict[str, int | None]:
                try:
                    names = list(files_by_class(await retrier.call(server.names))) or labels()
                except ValueError as error:
                    raise StageError(str(error)) from None
                return dict(zip(names, await asyncio.gather(*map(count_class, names)), strict=True))

            try:
                optional_counts = await with_deadline(all_files, count_all(), self.retry_policy)
            except StageError as error:
                raise StageError(f"source: {error}") from None
        counts = {name: count for name, count in optional_counts.items() if count is not None}
        if not counts:
            raise StageError(f"source: {reason}")
        return counts


class _Fetch:
    """One call of `Remote.fetch`."""

    def __init__(self, mirror: Remote, requested: Mapping[str, Rows], server: FileServer) -> None:
        self.mirror = mirror
        self.requested = requested
        self.server = server
        self.retrier = Retrier(mirror.retry_policy)
        self.strategy = fetch_strategy()
        self.report: Callable[[int], object] = int
        self.warned = False

    async def run(self) -> None:
        """Fetch everything. Raises `StageError` that says how many drawings were cached."""
        total = sum(map(len, self.requested.values()))
        with progress("fetching drawings", total, "drawings") as self.report:
            try:
                await with_deadline(self.server.display_url("<class>"), self._fetch_all(), self.mirror.retry_policy)
                return
            except StageError as error:
                message = str(error)
            except OSError as error:
                if error.filename is not None:
                    raise
                # The error of a full disk names no file.
                raise OSError(error.errno, error.strerror, str(files.cache_folder())) from None
        cached = f"{self._count_cached():,} of {total:,} drawings are cached in {files.cache_folder()}"
        raise StageError(f"source: {message}; {cached}; run the same command again to continue")

    def _count_cached(self) -> int:
        cached = 0
        for name, rows in self.requested.items():
            if row_file := self.mirror.row_file(name):
                row_file.load()
                cached += len(rows) - len(row_file.missing(rows))
        return cached

    async def _fetch_all(self) -> None:
        slots = asyncio.Semaphore(CONCURRENT_CLASSES)

        async def fetch_in_slot(name: str, rows: Rows) -> None:
            async with slots:
                await self._fetch_class(name, rows)

        tasks = [asyncio.create_task(fetch_in_slot(name, rows)) for name, rows in self.requested.items()]
        try:
            await asyncio.gather(*tasks)
        finally:  # if one task fails, the others save what they have before this ends
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch_class(self, name: str, requested: Rows) -> None:
        head = None
        row_file = self.mirror.row_file(name)
        if row_file is None:
            head = await self._read_head(name)
            row_file = self.mirror.row_file(name, self.mirror.parse_header(self.server, name, head))
            assert row_file is not None
        cached = len(requested) - len(row_file.missing(requested))
        self.report(cached)
        if cached == len(requested) and (head is None or row_file.is_version(self._version(head))):
            return
        async with row_file.locked():
            head = head or await self._read_head(name)
            if head.size != row_file.size:
                sizes = f"{head.size:,} bytes, expected {row_file.size:,}"
                raise StageError(f"{self.server.display_url(name)} has {sizes}: it has changed")
            header = self.mirror.parse_header(self.server, name, head)
            check_rows(self.server.display_url(name), requested, header.rows)
            row_file.prepare_append(self._version(head))
            missing = row_file.missing(requested)
            self.report(len(requested) - len(missing) - cached)  # rows that another run has fetched in the meantime
            if missing.size:
                spans = _spans(missing)
                if self._prefers_whole_file(name, head, len(spans)):
                    await self._fetch_by_stream(name, row_file, missing, head, header)
                else:
                    await self._fetch_by_ranges(name, row_file, spans, head, header)
                row_file.load()
        if row_file.missing(requested).size:
            raise StageError(
                f"{row_file.path} does not contain all rows that were written to it: the disk is failing, or another "
                "program changed the file"
            )

    async def _read_head(self, name: str) -> FileHead:
        head = await self.retrier.call(partial(self.server.read_head, name))
        if head is None:
            raise StageError(f"{self.server.display_url(name)} does not exist on the server")
        return head

    def _version(self, head: FileHead) -> str:
        """The version that the server reports, or the URL's query if it reports none.

        The name of the cache's folder leaves the query out, because it may be a signature that differs every time.
        """
        return head.version or f"?{urlsplit(self.mirror.address).query}"

    def _prefers_whole_file(self, name: str, head: FileHead, ranges: int) -> bool:
        """Whether to read the whole file instead of this number of ranges."""
        if self.strategy == "ranges" and not head.accepts_ranges:
            raise StageError(
                f"{self.server.display_url(name)}: the server does not support range requests, which "
                "QUICKDRAW_FETCH=ranges needs"
            )
        if self.strategy:
            return self.strategy == "files"
        if not head.accepts_ranges and not self.warned:
            self.warned = True
            size = f"{head.size * len(self.requested) / 1e6:,.0f} MB"
            print(f"the source does not support range requests, so whole files are read: about {size}", file=sys.stderr)
        return not head.accepts_ranges or head.size / BYTES_PER_SECOND < ranges * REQUEST_SECONDS

    async def _fetch_by_ranges(
        self,
        name: str,
        row_file: row_cache.RowFile,
        spans: list[Rows],
        head: FileHead,
        header: npy_header.Header,
    ) -> None:
        """Fetch rows by range requests, and save them as they arrive."""
        remaining = iter(spans)  # shared by the workers
        with self._buffered(row_file) as save_rows:

            async def work() -> None:
                for rows in remaining:
                    first, last = int(rows[0]), int(rows[-1])
                    start, stop = (header.offset + row * header.row_bytes for row in (first, last + 1))
                    content = await self.retrier.call(partial(self.server.read, name, start, stop, head))
                    save_rows(rows, np.frombuffer(content, np.uint8).reshape(-1, header.row_bytes)[rows - first])

            tasks = [asyncio.create_task(work()) for _ in range(min(MAX_CONNECTIONS, len(spans)))]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def _buffered(self, row_file: row_cache.RowFile) -> Iterator[Callable[[Rows, Pixels], None]]:
        """A function that adds rows to the file, about once every `SAVE_EVERY_SECONDS`.

        The rest is added when the block ends, even if it raises.
        """
        row_buffer: list[Rows] = []
        pixel_buffer: list[Pixels] = []
        last_flush = monotonic()

        def flush() -> None:
            nonlocal last_flush
            if row_buffer:
                row_file.add(np.concatenate(row_buffer), np.concatenate(pixel_buffer))
                self.report(sum(map(len, row_buffer)))
                row_buffer.clear()
                pixel_buffer.clear()
            last_flush = monotonic()

        def save_rows(rows: Rows, pixels: Pixels) -> None:
            row_buffer.append(rows)
            pixel_buffer.append(pixels)
            if monotonic() - last_flush > SAVE_EVERY_SECONDS:
                flush()

        try:
            yield save_rows
        finally:
            flush()

    async def _fetch_by_stream(
        self, name: str, row_file: row_cache.RowFile, missing: Rows, head: FileHead, header: npy_header.Header
    ) -> None:
        """Read the whole file, and add the missing rows once all of it has arrived and its checksum is right."""
        digest = hashlib.sha256()
        position = 0
        with tempfile.TemporaryFile(dir=row_file.path.parent) as selected:
            selector = _RowSelector(missing, header, selected.write)

            async def resume() -> None:
                nonlocal position
                start = position
                try:
                    async with aclosing(self.server.stream(name, position, head)) as blocks:
                        async for block in blocks:
                            digest.update(block)
                            selector.feed(block)
                            position += len(block)
                except RetryableError:
                    if position - start < PROGRESS_BYTES:
                        raise

            while position < head.size:
                await self.retrier.call(resume)
            published_files = self.mirror.published_files
            if published_files is not None and digest.hexdigest() != (sha256 := published_files[name].sha256):
                raise StageError(
                    f"{self.server.display_url(name)} has the SHA-256 {digest.hexdigest()}, expected {sha256}: "
                    "none of its rows are cached"
                )
            selected.seek(0)
            for start in range(0, len(missing), row_cache.RECORDS_PER_BLOCK):
                rows = missing[start : start + row_cache.RECORDS_PER_BLOCK]
                content = selected.read(len(rows) * header.row_bytes)
                row_file.add(rows, np.frombuffer(content, np.uint8).reshape(-1, header.row_bytes))
                self.report(len(rows))


class _RowSelector:
    """Selects rows from a file that arrives in blocks.

    Args:
      rows: to select, ascending.
      header: of the file.
      write: called with the pixels of selected rows, in order.
    """

    def __init__(self, rows: Rows, header: npy_header.Header, write: Callable[[bytes], object]) -> None:
        self._rows = rows
        self._bytes_to_skip = header.offset
        self._row_bytes = header.row_bytes
        self._next_row = 0
        self._partial_row = b""
        self._write = write

    def feed(self, block: bytes) -> None:
        """Take the next bytes of the file."""
        skipped = min(self._bytes_to_skip, len(block))
        self._bytes_to_skip -= skipped
        content = self._partial_row + block[skipped:]
        count = len(content) // self._row_bytes
        self._partial_row = content[count * self._row_bytes :]
        in_block = slice(*np.searchsorted(self._rows, (self._next_row, self._next_row + count)))
        selected = self._rows[in_block] - self._next_row
        if len(selected):
            pixels = np.frombuffer(content, np.uint8, count * self._row_bytes).reshape(count, -1)
            self._write(pixels[selected].tobytes())
        self._next_row += count


def _spans(rows: Rows) -> list[Rows]:
    """Split ascending rows into the groups of one request each: near rows, at most `MAX_ROWS_PER_REQUEST` of them."""
    ends = np.flatnonzero(np.diff(rows) > MERGE_GAP_ROWS) + 1
    return [
        span[start : start + MAX_ROWS_PER_REQUEST]
        for span in np.split(rows, ends)
        for start in range(0, len(span), MAX_ROWS_PER_REQUEST)
    ]


def fetch_strategy() -> str:
    """How `$QUICKDRAW_FETCH` says to fetch: `ranges`, `files`, or "" for the faster of the two."""
    strategy = os.environ.get("QUICKDRAW_FETCH", "")
    if strategy not in ("", "auto", "ranges", "files"):
        raise StageError(f"QUICKDRAW_FETCH is {strategy!r}; expected: ranges, files or auto")
    return strategy if strategy != "auto" else ""


def open_file_server(address: str, retry_policy: RetryPolicy) -> FileServer:
    """Create the file server for a URL, by its scheme: HTTP, or whatever fsspec supports. Nothing is requested yet."""
    return (HttpServer if urlsplit(address).scheme in ("http", "https") else FsspecStore)(address, retry_policy)
