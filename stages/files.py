"""Output that is there in full or not at all: written beside its place, flushed to the disk, then renamed."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

WRITING = ".writing-"  # how the name of what is being written begins


@contextmanager
def output(path: str | Path) -> Iterator[Path]:
    """A file to write in place of `path`, on the same disk (its folder is made where missing) and of the same name.

    When the block ends well the file takes `path`'s place; when it raises, the file is removed and what was at `path`
    stays. An error that names no file (a full disk) is raised as an `OSError` that names `path`.
    """
    target = Path(path)
    with _told_of(target), _beside(target) as temporary:
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)


@contextmanager
def folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to fill in place of the folder `path`, which it replaces, whole, when the block ends well."""
    target = Path(path)
    with _told_of(target), _beside(target) as temporary:
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


def root() -> Path:
    """The folder that relative paths in the settings start at: the repository's, in a copy that DVC made of it too."""
    return Path(os.environ.get("DVC_ROOT", "."))


def cache() -> Path:
    """Where lies what every run of this user shares: `$QUICKDRAW_CACHE`, or a folder of the user's cache."""
    if named := os.environ.get("QUICKDRAW_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quickdraw-pixelcnn"


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A path of `target`'s name, in a folder of its own beside it that is deleted at the end.

    The folder is locked for as long as its process lives. One that is not was left by a process that was killed, and
    whoever writes there next deletes it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f"{WRITING}*"):
        with suppress(OSError), locked(left):
            shutil.rmtree(left)
    with ExitStack() as held:
        while True:
            place = Path(tempfile.mkdtemp(prefix=WRITING, dir=target.parent))
            held.callback(shutil.rmtree, place, ignore_errors=True)
            try:
                held.enter_context(locked(place))
            except (FileNotFoundError, BlockingIOError):  # taken for a left one, in the moment before it was locked
                continue
            except OSError:  # a file system without locks, where nothing is taken for left either
                pass
            break
        yield place / target.name


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a folder, alone or with others that share it, until the block or the process ends, however.

    A file in it is what is locked: some file systems lock no folders.

    Raises:
      FileNotFoundError: it is not there, or was deleted by whoever held it.
      BlockingIOError: another holds it.
    """
    import fcntl

    path = folder / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told_of(target: Path) -> Iterator[None]:
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
        inside = [place for place, part in enumerate(parts) if part.startswith(WRITING)]
        if number is None or (parts and not inside):
            raise
        path = target.joinpath(*parts[inside[0] + 2 :]) if inside else target
        raise OSError(number, os.strerror(number), str(path)) from error
