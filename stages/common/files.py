"""Output that is there in full or not at all: written beside its place, flushed to the disk, then renamed."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from stages.common.locks import file_lock

TEMPORARY_PREFIX = ".writing-"  # how the name of what is being written begins


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A file to write in place of `path`, on the same disk (its folder is made where missing) and of the same name.

    When the block ends well the file takes `path`'s place; when it raises, the file is removed and what was at `path`
    stays. An error that names no file (a full disk) is raised as an `OSError` that names `path`.
    """
    target = Path(path)
    with _naming_target(target), _temporary_beside(target) as temporary:
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to fill in place of the folder `path`, which it replaces, whole, when the block ends well."""
    target = Path(path)
    with _naming_target(target), _temporary_beside(target) as temporary:
        temporary.mkdir()
        yield temporary
        for written in (temporary, *temporary.rglob("*")):
            _flush(written)
        # Put aside, not deleted: a kill leaves all of it or nothing.
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
    """The folder that relative paths in the settings start at: the repository's, in a copy that DVC made of it too."""
    return Path(os.environ.get("DVC_ROOT", "."))


def cache_folder() -> Path:
    """Where lies what every run of this user shares: `$QUICKDRAW_CACHE`, or a folder of the user's cache."""
    if configured := os.environ.get("QUICKDRAW_CACHE"):
        return Path(configured)
    from platformdirs import user_cache_path

    return user_cache_path("quickdraw-pixelcnn")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def temporary_folder(parent: Path, prefix: str, stale: str) -> Iterator[Path]:
    """A new folder in `parent`, deleted at the end.

    It is locked for as long as this process lives. A folder without such a lock was left by a process that was killed,
    and is deleted first.

    Args:
      parent: created if it is missing.
      prefix: how the folder's name begins.
      stale: the pattern of the folders' names.
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
            except (FileNotFoundError, BlockingIOError):  # another process took it for stale before it was locked
                continue
            except OSError:  # a file system without locks, where no folder is taken for stale
                pass
            break
        yield folder


@contextmanager
def _temporary_beside(target: Path) -> Iterator[Path]:
    """A path with the name of `target`, in a temporary folder beside it."""
    with temporary_folder(target.parent, TEMPORARY_PREFIX, f"{TEMPORARY_PREFIX}*") as folder:
        yield folder / target.name


def lock(folder: Path, *, shared: bool = False) -> AbstractContextManager[None]:
    """Hold a folder, alone or with others that share it, until the block or the process ends. Raises as `file_lock`."""
    return file_lock(folder / ".lock", shared=shared)


def _flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming_target(target: Path) -> Iterator[None]:
    """What goes wrong with the disk as an `OSError` that names the file a person asked for, in place of none or of a
    temporary one."""
    try:
        yield
    except Exception as error:
        # Libraries written in Rust tell of it in words alone: "… No space left on device (os error 28)".
        in_words = None if isinstance(error, OSError) else re.search(r"\(os error (\d+)\)", str(error))
        number = int(in_words[1]) if in_words else getattr(error, "errno", None)
        named = getattr(error, "filename", None)
        parts = Path(os.fsdecode(named)).parts if isinstance(named, str | bytes | Path) else ()
        inside = [place for place, part in enumerate(parts) if part.startswith(TEMPORARY_PREFIX)]
        if number is None or (parts and not inside):
            raise
        path = target.joinpath(*parts[inside[0] + 2 :]) if inside else target
        raise OSError(number, os.strerror(number), str(path)) from error
