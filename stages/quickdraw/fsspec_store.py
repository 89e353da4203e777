"""TODO"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from stages.common.errors import StageError
from stages.quickdraw import npy_header
from stages.quickdraw.file_server import BLOCK, CONNECTIONS, FileHead, FileServer, describe_error
from stages.quickdraw.retry import RetryableError, RetryPolicy

T = TypeVar("T")


class FsspecStore(FileServer):
    """Whatever else fsspec can read: gs://, s3://."""

    def __init__(self, address: str, patience: RetryPolicy) -> None:
        super().__init__(address, patience)
        import fsspec

        scheme = address.partition("://")[0]
        try:
            self._files, self._path = fsspec.core.url_to_fs(self.address)
        except ImportError as error:
            raise StageError(f"mirror: {scheme}:// needs a package that is not installed: {error}") from None
        except ValueError as error:
            raise StageError(f"mirror: {self.address}: {error}") from None
        self._threads = ThreadPoolExecutor(CONNECTIONS, "fetching")

    async def __aexit__(self, *error: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def shown(self, name: str) -> str:
        """As it is."""
        return f"{self.address}/{name}.npy"

    async def names(self) -> list[str]:
        """As the store lists them."""
        listed = await self._call(self.address, lambda: self._files.ls(self._path, detail=False))
        files = [str(path).rpartition("/")[2] for path in listed or ()]
        return sorted(file[: -len(".npy")] for file in files if file.endswith(".npy"))

    async def start(self, name: str) -> FileHead | None:
        """By the store's account of the file."""
        path, what = self._file(name), self.shown(name)
        info = await self._call(what, lambda: self._files.info(path))
        if info is None:
            return None
        size = int(info["size"])
        version = next(
            (str(info[key]) for key in ("etag", "ETag", "generation", "md5Hash", "updated") if info.get(key)), ""
        )
        content = await self._range(what, path, 0, min(size, npy_header.MAX_HEADER_BYTES))
        return FileHead(size, version, True, content)

    async def read(self, name: str, start: int, stop: int, of: FileHead) -> bytes:
        """One range."""
        return await self._range(self.shown(name), self._file(name), start, stop)

    async def stream(self, name: str, start: int, of: FileHead) -> AsyncGenerator[bytes, None]:
        """As ranges of many bytes."""
        for position in range(start, of.size, 16 * BLOCK):
            yield await self._range(self.shown(name), self._file(name), position, min(position + 16 * BLOCK, of.size))

    def _file(self, name: str) -> str:
        return f"{self._path}/{name}.npy"

    async def _range(self, what: str, path: str, start: int, stop: int) -> bytes:
        if start == stop:
            return b""
        content = await self._call(what, lambda: bytes(self._files.cat_file(path, start=start, end=stop)))
        if content is None:
            raise StageError(f"{what} is not there any more")
        if len(content) != stop - start:
            raise RetryableError(f"{what}: {len(content)} bytes came, and {stop - start} were asked for")
        return content

    async def _call(self, what: str, function: Callable[[], T]) -> T | None:
        """What `function` returns, called in a thread; None for a file that is not there."""
        try:
            return await asyncio.wait_for(
                asyncio.get_running_loop().run_in_executor(self._threads, function), self.patience.request
            )
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise StageError(f"{what}: {describe_error(error)}") from None
        except asyncio.TimeoutError:
            raise RetryableError(f"{what}: no answer in time") from None
        except Exception as error:  # the errors of whatever package reads this kind of store
            raise RetryableError(f"{what}: {describe_error(error)}") from None
