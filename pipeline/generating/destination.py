"""Where drawings are written: a folder, or any URL that fsspec can write, such as s3://bucket/drawings.

Both read and write whole files. Only a folder can also change a part of a file in place, which `is_in_place` says.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.generating.manifest import GenerateError
from stages.common import files
from stages.common.locks import file_lock
from stages.common.urls import without_secrets
from stages.quickdraw.file_server import describe_error


class Destination(ABC):
    """Files below a place. Their paths have slashes.

    Attributes:
      address: the place as the user names it, for a worker process to open it again.
      shown: the place without secrets, for people.
    """

    def __init__(self, address: str, shown: str) -> None:
        self.address, self.shown = address, shown

    @abstractmethod
    def names(self, folder: str = "") -> list[str]:
        """The names in a folder; empty if there is no such folder."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """The size of a file in bytes; None if it does not exist."""

    @abstractmethod
    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """The bytes `start` to `stop` of a file, fewer if it is shorter; None if it does not exist."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Write a file atomically."""

    @abstractmethod
    def stream(self, path: str, blocks: Iterable[bytes]) -> None:
        """Write a file block by block. Until it is complete, a former file of this name stays as it is."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file or a folder, if it exists."""


class Folder(Destination):
    """A folder on this machine, or on a disk that several machines share."""

    def __init__(self, address: str, path: Path) -> None:
        super().__init__(address, address)
        self.path = path
        if path.exists() and not path.is_dir():
            raise GenerateError(f"{path} is not a folder; choose a new one")

    def names(self, folder: str = "") -> list[str]:
        try:
            return sorted(os.listdir(self.path / folder))
        except FileNotFoundError:
            return []

    def size(self, path: str) -> int | None:
        try:
            return (self.path / path).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes | None:
        file = self.path / path
        if file.exists() and not file.is_file():  # a pipe would block
            raise GenerateError(f"{file} is not a file")
        try:
            with open(file, "rb") as opened:
                opened.seek(start)
                return opened.read(-1 if stop is None else stop - start)
        except FileNotFoundError:
            return None

    def write(self, path: str, content: bytes) -> None:
        self.stream(path, [content])

    def stream(self, path: str, blocks: Iterable[bytes]) -> None:
        with files.atomic_file(self.path / path) as temporary, open(temporary, "wb") as file:
            file.writelines(blocks)

    def delete(self, path: str) -> None:
        target = self.path / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def resize(self, path: str, size: int) -> None:
        """Create a file or change its size; what is added is zeros that take no place yet."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / path, "ab") as file:
            file.truncate(size)

    def write_at(self, path: str, position: int, content: bytes) -> None:
        """Replace bytes of a file, and wait until they are on the disk."""
        with open(self.path / path, "r+b") as file:
            file.seek(position)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing to the folder until the block ends. Raises `GenerateError` if one does."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / ".lock"
        lock = file_lock(path)
        try:
            lock.__enter__()
        except (BlockingIOError, FileNotFoundError):
            raise GenerateError(f"another process is generating drawings in {self.path}: wait until it ends") from None
        except OSError:  # the file system has no locks
            yield
            return
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()
            lock.__exit__(None, None, None)


class Store(Destination):
    """A place that fsspec can write."""

    def __init__(self, address: str) -> None:
        import fsspec

        super().__init__(address, without_secrets(address))
        try:
            self._files, root = fsspec.core.url_to_fs(address)
        except ImportError as error:
            scheme = address.partition("://")[0]
            raise GenerateError(f"{scheme}:// needs a package that is not installed: {describe_error(error)}") from None
        except ValueError as error:
            raise GenerateError(f"{self.shown}: {describe_error(error)}") from None
        self._root = root.rstrip("/")

    def names(self, folder: str = "") -> list[str]:
        try:
            with self._named_errors(folder):
                self._files.invalidate_cache()
                paths = self._files.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        # A store can list the folder itself, as an object whose name ends with a slash.
        return sorted(filter(None, (str(path).removeprefix(self._path(folder)).strip("/") for path in paths)))

    def size(self, path: str) -> int | None:
        try:
            with self._named_errors(path):
                self._files.invalidate_cache()
                return int(self._files.info(self._path(path))["size"])
        except FileNotFoundError:
            return None

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes | None:
        try:
            with self._named_errors(path):
                return bytes(self._files.cat_file(self._path(path), start=start, end=stop))
        except FileNotFoundError:
            return None

    def write(self, path: str, content: bytes) -> None:
        with self._named_errors(path):
            self._files.makedirs(self._path(path).rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(self._path(path), content)

    def stream(self, path: str, blocks: Iterable[bytes]) -> None:
        temporary = self._path(f"{path}.unfinished")
        with self._named_errors(path):
            with self._files.open(temporary, "wb") as file:
                for block in blocks:
                    file.write(block)
            self._files.mv(temporary, self._path(path))

    def delete(self, path: str) -> None:
        with suppress(FileNotFoundError), self._named_errors(path):
            if self._files.isdir(self._path(path)):
                self._files.rm(self._path(path), recursive=True)
            else:
                self._files.rm_file(self._path(path))

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")

    @contextmanager
    def _named_errors(self, path: str) -> Iterator[None]:
        """Raise the errors of the store as a `GenerateError` that names the file, except `FileNotFoundError`."""
        try:
            yield
        except (FileNotFoundError, GenerateError):
            raise
        except Exception as error:  # each package that writes a kind of store has its own error classes
            raise GenerateError(f"{self.shown}/{path}: {describe_error(error)}") from None


def open_destination(address: str) -> Destination:
    """The place that an address names: a folder, or a URL of any scheme that fsspec supports."""
    if address.startswith("file://"):
        return Folder(address, Path(unquote(urlsplit(address).path)))
    return Store(address) if "://" in address else Folder(address, Path(address))
