"""Advisory file locks (flock). The system releases them when the process ends, even if it is killed."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock on a file, which is created if it is missing, until the block or the process ends.

    Args:
      path: the file to lock. Lock a file rather than its folder: some file systems cannot lock folders.
      shared: whether others may hold the lock too, as long as they share it.
      wait: whether to wait for the lock while another process holds it.

    Raises:
      BlockingIOError: another process holds the lock, and `wait` is False.
      FileNotFoundError: the folder is missing, or the file was deleted by the process that held it.
      OSError: the file system has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield
    finally:
        os.close(descriptor)
