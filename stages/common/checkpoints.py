"""A long computation that is killed goes on from its last checkpoint: its whole state, written now and then.

A checkpoint is one file, `<cache>/checkpoints/<run>/<step>.safetensors`, there in full or not at all. The run is named
after all that its outcome depends on, so that none ever goes on from another's; it lies in the user's cache, not among
the outputs, so that any copy of the project finds it. Where it cannot be written the computation goes on without.
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

KEEP_LAST = 2  # of a run, so that there is one before a damaged one
SAVE_EVERY_SECONDS = 30.0  # seconds between two, or more:
MAX_TIME_SHARE = 0.02  # of its time a run may spend on writing them
# What runs left that were never ended is deleted after so many days, and the oldest of it beyond so many bytes.
MAX_AGE_DAYS = 14
MAX_BYTES = 20e9

Arrays = Mapping[str, npt.NDArray[Any]]


class Checkpoint(NamedTuple):
    """The state after so many steps."""

    step: int
    arrays: Arrays


def run_key(described: object, data: Iterable[npt.NDArray[Any]], libraries: Iterable[str]) -> str:
    """The name of a run: of its settings, its data, the project's code as far as it is loaded, and libraries.

    Args:
      described: the settings; their `repr` says all there is to them.
      data: the arrays that it computes on.
      libraries: the distributions whose versions count.
    """
    digest = hashlib.sha256(repr(described).encode())
    for array in data:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
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
      name: of the run, from `name_of`.
    """

    def __init__(self, name: str) -> None:
        self.folder = files.cache_folder() / "checkpoints" / name
        self._due = time.monotonic() + SAVE_EVERY_SECONDS
        self._said = ""
        self._held = ExitStack()
        try:
            self._hold()
            _delete_old(self.folder.parent, keep=self.folder)
        except OSError as error:
            self._warn(error)

    def _hold(self) -> None:
        """Share the folder for as long as this lives, so that no other run deletes it meanwhile."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._held.enter_context(files.lock(self.folder, shared=True))
            except (FileNotFoundError, BlockingIOError):  # a run that has just ended is deleting it
                time.sleep(0.01)
                continue
            except OSError:  # a file system without locks, where no other run can delete it either
                pass
            return

    def due(self) -> bool:
        """Whether it is time for one."""
        return time.monotonic() >= self._due

    def save(self, checkpoint: Checkpoint) -> bool:
        """Write the state down, and delete what is older than the one before; say so where that cannot be done."""
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
        """The last state that was written and can be read; one that cannot is said, and the one before it taken."""
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
        """The run is over: delete its checkpoints, but where the same run goes on elsewhere."""
        self._held.close()
        _delete(self.folder)

    def _warn(self, error: OSError) -> None:
        """Say why there are no checkpoints, once for each reason."""
        if self._said != (reason := error.strerror or str(error)):
            self._said = reason
            print(
                f"checkpoint: {self.folder} cannot be written ({reason}): the stage goes on without, and where it is "
                "killed it begins again from the last one there is",
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
        raise ValueError("its checksum does not fit")
    return arrays


def _checksum(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _delete_old(folder: Path, keep: Path) -> None:
    """Delete what other runs left and none uses: after DAYS, and beyond BYTES.

    Of those, the farthest from now goes first: a clock that was put back leaves times of the future, which say nothing
    of an age.
    """
    left, now = 0, time.time()
    changed = {run: _modified_at(run) for run in folder.iterdir()}
    for run in sorted(changed, key=lambda run: abs(now - changed[run])):
        left += sum(map(_size, run.glob("*")))
        if run != keep and (left > MAX_BYTES or now - changed[run] > MAX_AGE_DAYS * 86_400):
            _delete(run)


def _delete(run: Path) -> None:
    with suppress(OSError), files.lock(run):
        shutil.rmtree(run, ignore_errors=True)


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another run has just ended
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
