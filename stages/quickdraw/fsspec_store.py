"""Files in a store that fsspec can read, such as gs:// or s3://.

fsspec is synchronous, so each call runs in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from stages.common.errors import StageError
from stages.quickdraw import npy_header
from stages.quickdraw.file_server import BLOCK_BYTES, MAX_CONNECTIONS, FileHead, FileServer, describe_error
from stages.quickdraw.retry import RetryableError, RetryPolicy

T = TypeVar("T")

VERSION_KEYS = ("etag", "ETag", "generation", "md5Hash", "updated")  # what the stores call a file's version


class FsspecStore(FileServer):
    """A store at a URL of any scheme that fsspec supports."""

    def __init__(self, address: str, retry_policy: RetryPolicy) -> None:
        super().__init__(address, retry_policy)
        import fsspec

        scheme = address.partition("://")[0]
        try:
            self._filesystem, self._path = fsspec.core.url_to_fs(self.address)
        except ImportError as error:
            raise StageError(f"source: {scheme}:// needs a package that is not installed: {error}") from None
        except ValueError as error:
            raise StageError(f"source: {self.address}: {error}") from None
        self._threads = ThreadPoolExecutor(MAX_CONNECTIONS, "fetching")

    async def __aexit__(self, *error: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def display_url(self, name: str) -> str:
        """The URL of a class's file, unchanged."""
        return f"{self.address}/{self.file_name(name)}"

    async def names(self) -> list[str]:
        """The names of the `.npy` files that the store lists, without the suffix."""
        paths = await self._call(self.address, lambda: self._filesystem.ls(self._path, detail=False))
        files = [str(path).rpartition("/")[2] for path in paths or ()]
        return sorted(file[: -len(".npy")] for file in files if file.endswith(".npy"))

    async def _read_head(self, name: str) -> FileHead | None:
        """The head of a class's file, with the size and the version that the store reports."""
        path, url = self._file(name), self.display_url(name)
        info = await self._call(url, lambda: self._filesystem.info(path))
        if info is None:
            return None
        size = int(info["size"])
        version = next((str(info[key]) for key in VERSION_KEYS if info.get(key)), "")
        content = await self._read_range(url, path, 0, min(size, npy_header.MAX_HEADER_BYTES))
        return FileHead(size, version, True, content)

    async def read(self, name: str, start: int, stop: int, head: FileHead) -> bytes:
        """Read the bytes `start` to `stop` (exclusive) of a class's file."""
        return await self._read_range(self.display_url(name), self._file(name), start, stop)

    async def stream(self, name: str, start: int, head: FileHead) -> AsyncGenerator[bytes, None]:
        """Read a class's file from byte `start` to its end, in ranges of 16 MiB."""
        step = 16 * BLOCK_BYTES
        for position in range(start, head.size, step):
            stop = min(position + step, head.size)
            yield await self._read_range(self.display_url(name), self._file(name), position, stop)

    def _file(self, name: str) -> str:
        return f"{self._path}/{self.file_name(name)}"

    async def _read_range(self, url: str, path: str, start: int, stop: int) -> bytes:
        if start == stop:
            return b""
        content = await self._call(url, lambda: bytes(self._filesystem.cat_file(path, start=start, end=stop)))
        if content is None:
            raise StageError(f"{url} no longer exists")
        if len(content) != stop - start:
            raise RetryableError(f"{url}: the store sent {len(content)} bytes, expected {stop - start}")
        return content

    async def _call(self, url: str, function: Callable[[], T]) -> T | None:
        """Call `function` in a thread and return its result, or None if the file does not exist."""
        try:
            return await asyncio.wait_for(
                asyncio.get_running_loop().run_in_executor(self._threads, function), self.retry_policy.request_timeout
            )
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise StageError(f"{url}: {describe_error(error)}") from None
        except asyncio.TimeoutError:
            raise RetryableError(f"{url}: timed out") from None
        except Exception as error:  # each package that reads a kind of store has its own error classes
            raise RetryableError(f"{url}: {describe_error(error)}") from None
