"""Files of another machine, read by ranges or as a whole, with every answer checked before it is believed.

An origin answers, raises `Unanswered` where another try may help, or raises `StageError`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from typing import NamedTuple

from stages.common.errors import StageError, one_line
from stages.quickdraw.retry import RetryPolicy

CONNECTIONS = 64  # at once: with answers 20 ms away, 3,000 a second, near what one core of this machine can ask
BLOCK = 1 << 20  # bytes of a stream at a time


class AccessDenied(StageError):
    """The server knows who asks, or that it does not know, and says no; some say so of what is not there."""


class FileHead(NamedTuple):
    """What a file's server says of it, and how the file begins."""

    size: int  # bytes
    version: str  # what changes when the file does; empty where the server does not say
    ranges: bool  # whether a part can be asked for
    content: bytes  # the first `npy.LONGEST_HEADER` bytes, or all of them


class FileServer(ABC):
    """Files at an address, in use within `async with`."""

    def __init__(self, address: str, patience: RetryPolicy) -> None:
        self.address = address.rstrip("/")
        self.patience = patience

    async def __aenter__(self) -> FileServer:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    @abstractmethod
    def shown(self, name: str) -> str:
        """The address of a class's file as a person may see it: without what lets one in."""

    @abstractmethod
    async def names(self) -> list[str]:
        """The names of the `.npy` files there, less the ending; none where the origin has no list."""

    @abstractmethod
    async def start(self, name: str) -> FileHead | None:
        """The beginning of a class's file, or None where there is no such file."""

    @abstractmethod
    async def read(self, name: str, start: int, stop: int, of: FileHead) -> bytes:
        """The bytes of a class's file from `start` to `stop`, in number and from the file that `of` began."""

    @abstractmethod
    def stream(self, name: str, start: int, of: FileHead) -> AsyncGenerator[bytes, None]:
        """The bytes of a class's file from `start` to its end, in blocks."""


def describe_error(error: object) -> str:
    """An error in one line."""
    return one_line(error, 200) or type(error).__name__
