"""The clones of runs. A worker that is killed leaves them in its temporary folder; the next run deletes them."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from stages.common import files

FOLDERS = "tmp*prefect"  # the temporary folders in which Prefect's workers clone the repository, one for each run


@contextlib.contextmanager
def locked_clone() -> Iterator[None]:
    """If this run has a clone, lock it while the block runs, and delete those of runs that were killed.

    These are the folders with a lock file that no living process has locked. One without the file is left alone: it may
    belong to another project, or to a run that has not started yet.
    """
    clone = next((parent for parent in Path.cwd().parents if parent.match(FOLDERS)), None)
    with contextlib.ExitStack() as stack:
        if clone is not None:
            with contextlib.suppress(OSError):  # held by this run already, or a file system without locks
                stack.enter_context(files.lock(clone))
                _delete_left_behind(clone.parent)
        yield


def _delete_left_behind(folder: Path) -> None:
    for clone in folder.glob(FOLDERS):
        with contextlib.suppress(OSError):
            if (clone / ".lock").exists():
                with files.lock(clone):
                    shutil.rmtree(clone)
