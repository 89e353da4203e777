"""Locks on a checkout: one run at a time, and one change of its configuration at a time."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.dvc.repository import open_repository, repair_dvc_lock
from stages.common.locks import file_lock


@contextlib.contextmanager
def exclusive_run(root: Path, notify: Callable[[str], object] = print) -> Iterator[None]:
    """Lock the checkout at `root` in the block, so that no other run changes params.yaml: each stage reads it anew.

    A dvc.lock that an earlier run has left damaged is repaired first.

    Waits for another run of this project, and for a `dvc repro` that a person has started: its remaining stages would
    read the new settings. A `dvc repro` that starts later reads the settings of this run, and DVC itself prevents the
    two from running the same stage at once. A nested call in the same process does nothing.

    Args:
      root: the root of the repository.
      notify: called with a line that says what is being waited for.
    """
    path = root.resolve() / ".dvc" / "tmp" / "run.lock"
    if path in _locked_paths:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(path))
        except BlockingIOError:
            notify("Another run is active in this checkout; waiting for it to end")
            stack.enter_context(file_lock(path, wait=True))
        reported = ""
        while running := running_commands(root):
            if running != reported:
                notify(f"DVC is running in this checkout ({running}); waiting for it to end")
            reported = running
            time.sleep(0.5)
        for line in repair_dvc_lock(root):
            notify(line)
        _locked_paths.add(path)
        try:
            yield
        finally:
            _locked_paths.discard(path)


_locked_paths: set[Path] = set()  # by this process


def running_commands(root: Path) -> str:
    """The DVC commands that are running a stage in a checkout, as `process 12: dvc repro`; empty if there are none.

    DVC records these commands in `.dvc/tmp/rwlock`. Reading it waits for DVC's own lock, which a command holds between
    two stages. After a power cut, an entry may outlive its process, and its process ID may belong to a later process.
    DVC would then wait forever, and it fails on a file that it cannot parse. Such entries are removed.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    try:
        with open_repository(root) as repository, repository.lock:
            text, modified = path.read_bytes(), path.stat().st_mtime
            entries: dict[str, Any] = {"write": {}, "read": {}}
            with contextlib.suppress(ValueError):
                entries |= json.loads(text)
            writing = {name: info for name, info in entries["write"].items() if _is_running(info, modified)}
            reading = {
                name: [info for info in infos if _is_running(info, modified)] for name, infos in entries["read"].items()
            }
            remaining = json.dumps(
                {"write": writing, "read": {name: infos for name, infos in reading.items() if infos}}
            )
            if remaining.encode() != text:
                path.write_text(remaining, encoding="utf-8")
    except FileNotFoundError:
        return ""
    infos = [*itertools.chain.from_iterable(reading.values()), *writing.values()]
    return ", ".join({info["pid"]: f"process {info['pid']}: {info['cmd']}" for info in infos}.values())


def _is_running(info: Mapping[str, Any], recorded: float) -> bool:
    """Whether the process of an entry is running and had started when the entry was written (a Unix time)."""
    import psutil

    try:
        started = float(psutil.Process(int(info["pid"])).create_time())
    except psutil.NoSuchProcess:
        return False
    return started < recorded + 2  # the system reports its boot time in whole seconds


@contextlib.contextmanager
def config_lock(root: Path) -> Iterator[None]:
    """Lock the DVC configuration and the Git references that the runs of a checkout share, for one change."""
    path = root / ".dvc" / "tmp" / "change.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path, wait=True):
        yield
