"""Atomic outputs: each is written to a temporary path beside its target, flushed to the disk, then renamed."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from stages.common.locks import file_lock

TEMPORARY_PREFIX = ".writing-"  # of the names of temporary folders
HASHED_ROWS = 4096  # of an array that may be larger than memory, at a time


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path, and rename it to `path` when the block ends.

    If the block raises, the temporary file is deleted, and `path` is unchanged. The temporary file has the same name as
    `path`, is on the same disk, and its folder is created if it is missing. A disk error without a file name is raised
    as an `OSError` that names `path`.
    """
    target = Path(path)
    with _errors_name_target(target), _temporary_beside(target) as temporary:
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder atomically: yield an empty temporary folder, which replaces `path` when the block ends.

    If the block raises, the temporary folder is deleted, and `path` is unchanged. Errors are those of `atomic_file`.
    """
    target = Path(path)
    with _errors_name_target(target), _temporary_beside(target) as temporary:
        temporary.mkdir()
        yield temporary
        for written in (temporary, *temporary.rglob("*")):
            _flush(written)
        # The old folder is renamed, not deleted, so that a kill never leaves part of it.
        old = temporary.with_name(f"{target.name}.old")
        if target.exists():
            target.rename(old)
        try:
            temporary.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        _flush(target.parent)


def repository_root() -> Path:
    """Return the root of the repository, where relative paths in the settings start. DVC sets it for its workspaces."""
    return Path(os.environ.get("DVC_ROOT", "."))


def cache_folder() -> Path:
    """Return the folder that all runs of this user share: `$QUICKDRAW_CACHE`, or a folder in the user's cache."""
    if configured := os.environ.get("QUICKDRAW_CACHE"):
        return Path(configured)
    from platformdirs import user_cache_path

    return user_cache_path("quickdraw-pixelcnn")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_array(digest: "hashlib._Hash", array: Any) -> None:
    """Add the bytes of an array, or of images that are read when they are indexed, block by block to a digest."""
    for start in range(0, len(array), HASHED_ROWS):
        digest.update(array[start : start + HASHED_ROWS].tobytes())


@contextmanager
def temporary_folder(parent: Path, prefix: str, stale: str) -> Iterator[Path]:
    """Create a folder in `parent`, and delete it when the block ends.

    The folder is locked while the block runs. Folders without a lock, left by killed processes, are deleted
    first.

    Args:
      parent: created if it is missing.
      prefix: of the folder's name.
      stale: the glob pattern of the folders to delete if they are not locked.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.glob(stale):
        with suppress(OSError), lock(folder):
            shutil.rmtree(folder)
    with ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                stack.enter_context(lock(folder))
            except (FileNotFoundError, BlockingIOError):  # another process deletes it, as it was not locked yet
                continue
            except OSError:  # the file system has no locks, so no process deletes stale folders
                pass
            break
        yield folder


@contextmanager
def _temporary_beside(target: Path) -> Iterator[Path]:
    """Yield a path with the name of `target`, in a temporary folder beside it."""
    with temporary_folder(target.parent, TEMPORARY_PREFIX, f"{TEMPORARY_PREFIX}*") as folder:
        yield folder / target.name


def lock(folder: Path, *, shared: bool = False) -> AbstractContextManager[None]:
    """Hold an exclusive or shared lock on a folder until the block or the process ends. Raises as `file_lock` does."""
    return file_lock(folder / ".lock", shared=shared)


def _flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _errors_name_target(target: Path) -> Iterator[None]:
    """Raise disk errors as an `OSError` that names the target, instead of no file or a temporary one."""
    try:
        yield
    except Exception as error:
        # Libraries in Rust give the number only in the message: "… No space left on device (os error 28)".
        match = None if isinstance(error, OSError) else re.search(r"\(os error (\d+)\)", str(error))
        number = int(match[1]) if match else getattr(error, "errno", None)
        filename = getattr(error, "filename", None)
        parts = Path(os.fsdecode(filename)).parts if isinstance(filename, str | bytes | Path) else ()
        temporary = [index for index, part in enumerate(parts) if part.startswith(TEMPORARY_PREFIX)]
        if number is None or (parts and not temporary):
            raise
        path = target.joinpath(*parts[temporary[0] + 2 :]) if temporary else target
        raise OSError(number, os.strerror(number), str(path)) from error
