"""The interface to a server that holds one `<class>.npy` file per class, read by ranges or as a whole.

Every response is checked before it is used. A request returns its result, raises `RetryableError` if another attempt
may succeed, or raises `StageError`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import NamedTuple

from stages.common.errors import StageError, one_line
from stages.quickdraw.labels import decomposed
from stages.quickdraw.retry import RetryPolicy

MAX_CONNECTIONS = 64  # at a latency of 20 ms, 3,000 requests a second: nearly the most that one core can send
BLOCK_BYTES = 1 << 20  # the size of a block of a stream


class AccessDenied(StageError):
    """The server refuses the request. Some stores also answer this way for a file that does not exist."""


class FileHead(NamedTuple):
    """The first bytes of a file, and what its server reports about it.

    Attributes:
      size: of the whole file, in bytes.
      version: changes when the file changes; empty if the server reports none.
      accepts_ranges: whether the server can send a part of the file.
      content: the first `npy_header.MAX_HEADER_BYTES` bytes, or the whole file if it is shorter.
    """

    size: int
    version: str
    accepts_ranges: bool
    content: bytes


class FileServer(ABC):
    """The files at an address. An instance is used within `async with`."""

    def __init__(self, address: str, retry_policy: RetryPolicy) -> None:
        self.address = address.rstrip("/")
        self.retry_policy = retry_policy
        self._decomposed: set[str] = set()  # the classes whose files have the other form of Unicode

    async def __aenter__(self) -> FileServer:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    @abstractmethod
    def display_url(self, name: str) -> str:
        """The URL of a class's file without credentials, for messages."""

    @abstractmethod
    async def names(self) -> list[str]:
        """The names of the `.npy` files without the suffix; empty if the server lists no files."""

    async def read_head(self, name: str) -> FileHead | None:
        """The head of a class's file, or None if the file does not exist. Call this before `read` and `stream`."""
        if name not in self._decomposed and decomposed(name) != name:
            with suppress(AccessDenied):
                if head := await self._read_head(name):
                    return head
            self._decomposed.add(name)
        return await self._read_head(name)

    def file_name(self, name: str) -> str:
        """The name of a class's file."""
        return f"{decomposed(name) if name in self._decomposed else name}.npy"

    @abstractmethod
    async def _read_head(self, name: str) -> FileHead | None:
        """The head of the file `file_name(name)`, or None if it does not exist."""

    @abstractmethod
    async def read(self, name: str, start: int, stop: int, head: FileHead) -> bytes:
        """Read the bytes `start` to `stop` (exclusive) of a class's file.

        The result has exactly that length, and comes from the version of the file that `head` describes.
        """

    @abstractmethod
    def stream(self, name: str, start: int, head: FileHead) -> AsyncGenerator[bytes, None]:
        """Read a class's file from byte `start` to its end, in blocks."""


def describe_error(error: object) -> str:
    """The message of an error in one line, or the name of its type if it has none."""
    return one_line(error, 200) or type(error).__name__
