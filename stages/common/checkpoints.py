"""Checkpoints of long computations, so that a killed run resumes.

A checkpoint is one file with the whole state, `<cache>/checkpoints/<run>/<step>.safetensors`, written atomically. The
name of a run is a hash of everything that its result depends on, so that no run resumes from another run's checkpoint.
Checkpoints are in the user's cache, not among the outputs, so that all workspaces share them. If a checkpoint cannot be
written, the computation continues.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common import files

KEEP_LAST = 2  # checkpoints per run, in case the newest is damaged
SAVE_EVERY_SECONDS = 30.0  # at least; longer if writing exceeds MAX_TIME_SHARE
MAX_TIME_SHARE = 0.02  # of a run's time for writing checkpoints
# Limits for the checkpoints of runs that never ended. Beyond MAX_BYTES in total, the oldest runs are deleted.
MAX_AGE_DAYS = 14
MAX_BYTES = 20e9

Arrays = Mapping[str, npt.NDArray[Any]]


class Checkpoint(NamedTuple):
    """The state after `step` steps.

    Attributes:
      step: the number of finished steps.
      arrays: the state, by name.
    """

    step: int
    arrays: Arrays


def run_key(described: object, data: Iterable[Any], libraries: Iterable[str]) -> str:
    """Return a hash of a run's settings, its data, the project's loaded modules and library versions.

    Args:
      described: the settings, with a complete `repr`.
      data: the input arrays, or images that are read when they are indexed.
      libraries: the names of distributions whose versions affect the result.

    Returns:
      32 hexadecimal digits.
    """
    digest = hashlib.sha256(repr(described).encode())
    for array in data:
        digest.update(f"{array.dtype} {array.shape}".encode())
        files.hash_array(digest, array)
    for library in sorted(libraries):
        digest.update(f"{library} {version(library)}".encode())
    loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "stages"}
    for name, module in sorted(loaded.items()):
        if file := getattr(module, "__file__", None):
            digest.update(name.encode() + hashlib.sha256(Path(file).read_bytes()).digest())
    return digest.hexdigest()[:32]


class Checkpoints:
    """The checkpoints of one run.

    Args:
      name: the name of the run, from `run_key`.
    """

    def __init__(self, name: str) -> None:
        self.folder = files.cache_folder() / "checkpoints" / name
        self._due = time.monotonic() + SAVE_EVERY_SECONDS
        self._last_warning = ""
        self._lock = ExitStack()
        try:
            self._lock_folder()
            _delete_old(self.folder.parent, keep=self.folder)
        except OSError as error:
            self._warn(error)

    def _lock_folder(self) -> None:
        """Hold a shared lock on the folder until `clear`, so that no other run deletes it."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.enter_context(files.lock(self.folder, shared=True))
            except (FileNotFoundError, BlockingIOError):  # a run that has just ended is deleting the folder
                time.sleep(0.01)
                continue
            except OSError:  # the file system has no locks, so no other run can delete the folder either
                pass
            return

    def due(self) -> bool:
        """Whether it is time to save a checkpoint."""
        return time.monotonic() >= self._due

    def save(self, checkpoint: Checkpoint) -> bool:
        """Save a checkpoint, delete all but the `KEEP_LAST` newest, and return whether it was saved; print why not."""
        from safetensors.numpy import save_file

        started = time.monotonic()
        arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.arrays.items()}
        saved = False
        try:
            with files.atomic_file(self.folder / f"{checkpoint.step:012}.safetensors") as path:
                save_file(arrays, path, metadata={"checksum": _checksum(arrays)})
            saved = True
            for old in self._paths()[:-KEEP_LAST]:
                old.unlink(missing_ok=True)
        except OSError as error:
            self._warn(error)
        now = time.monotonic()
        self._due = now + max(SAVE_EVERY_SECONDS, (now - started) / MAX_TIME_SHARE)
        return saved

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that can be read, or None. Damaged checkpoints are deleted with a warning."""
        for path in reversed(self._paths()):
            try:
                return Checkpoint(int(path.stem), _read(path))
            except ValueError as error:
                print(f"checkpoint: {path} is damaged ({error}) and is deleted", file=sys.stderr, flush=True)
                with suppress(OSError):
                    path.unlink()
            except OSError as error:
                print(f"checkpoint: {path} cannot be read ({error.strerror or error})", file=sys.stderr, flush=True)
        return None

    def clear(self) -> None:
        """Delete the checkpoints of a finished run, unless another process executes the same run."""
        self._lock.close()
        _delete(self.folder)

    def _warn(self, error: OSError) -> None:
        """Print why checkpoints cannot be written, unless the previous warning had the same reason."""
        if self._last_warning != (reason := error.strerror or str(error)):
            self._last_warning = reason
            print(
                f"checkpoint: {self.folder} cannot be written ({reason}): the stage continues without saving; "
                "if it is killed, it resumes from the last saved checkpoint",
                file=sys.stderr,
                flush=True,
            )

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.safetensors"))


def _read(path: Path) -> Arrays:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (no mapping)
            expected = (file.metadata() or {}).get("checksum")
    except SafetensorError as error:
        raise ValueError(" ".join(str(error).split())) from None
    if _checksum(arrays) != expected:
        raise ValueError("its checksum is wrong")
    return arrays


def _checksum(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _delete_old(folder: Path, keep: Path) -> None:
    """Delete other runs' unused checkpoints that are older than `MAX_AGE_DAYS` or exceed `MAX_BYTES` in total.

    Beyond `MAX_BYTES`, the runs whose times are farthest from now are deleted. If the clock was set back, times can be
    in the future: the age of such runs is unknown, so they are not deleted for their age.
    """
    total_bytes, now = 0, time.time()
    modified = {run: _modified_at(run) for run in folder.iterdir()}
    for run in sorted(modified, key=lambda run: abs(now - modified[run])):
        total_bytes += sum(map(_size, run.glob("*")))
        if run != keep and (total_bytes > MAX_BYTES or now - modified[run] > MAX_AGE_DAYS * 86_400):
            _delete(run)


def _delete(run: Path) -> None:
    with suppress(OSError), files.lock(run):
        shutil.rmtree(run, ignore_errors=True)


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another run has just ended and deleted it
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
