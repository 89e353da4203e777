"""TODO"""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.dvc.repository import open_repository
from stages.common.locks import file_lock


@contextlib.contextmanager
def exclusive_run(root: Path, say: Callable[[str], object] = print) -> Iterator[None]:
    """Hold the checkout at `root` for one run, from its settings on: its stages read params.yaml one after another.

    Another run of this project's waits here for the one before; so does this one for a `dvc repro` that a person has
    started, whose next stages would take the new settings. (A `dvc repro` that comes later takes the settings of this
    run, and DVC itself keeps the two from the same stage.) A run that is within one of its own process is part of it.

    Args:
      say: called with a line that says what is waited for.
    """
    path = root.resolve() / ".dvc" / "tmp" / "run.lock"
    if path in _held:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(path))
        except BlockingIOError:
            say("Another run in this checkout has not ended; this one waits for it")
            stack.enter_context(file_lock(path, wait=True))
        said = ""
        while running := running_commands(root):
            if running != said:
                say(f"DVC is at work in this checkout ({running}); this run waits for it")
            said = running
            time.sleep(0.5)
        _held.add(path)
        try:
            yield
        finally:
            _held.discard(path)


_held: set[Path] = set()


def running_commands(root: Path) -> str:
    """The commands of DVC that run a stage in a checkout, by what DVC notes of them; waits for those between two.

    A note may outlive its process, at a power cut, say, and name one that came later. DVC would believe it for ever, or
    give up where it cannot read it: it is taken out.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    try:
        with open_repository(root) as repository, repository.lock:
            text, noted_at = path.read_bytes(), path.stat().st_mtime
            noted: dict[str, Any] = {"write": {}, "read": {}}
            with contextlib.suppress(ValueError):
                noted |= json.loads(text)
            writing = {name: info for name, info in noted["write"].items() if _is_running(info, noted_at)}
            reading = {
                name: [info for info in infos if _is_running(info, noted_at)] for name, infos in noted["read"].items()
            }
            left = json.dumps({"write": writing, "read": {name: infos for name, infos in reading.items() if infos}})
            if left.encode() != text:
                path.write_text(left, encoding="utf-8")
    except FileNotFoundError:
        return ""
    infos = [*itertools.chain.from_iterable(reading.values()), *writing.values()]
    return ", ".join({info["pid"]: f"process {info['pid']}: {info['cmd']}" for info in infos}.values())


def _is_running(info: Mapping[str, Any], noted_at: float) -> bool:
    """Whether the process of a note is there, and was when the note was made."""
    import psutil

    try:
        started = float(psutil.Process(int(info["pid"])).create_time())
    except psutil.NoSuchProcess:
        return False
    return started < noted_at + 2  # the system counts its own start in whole seconds


@contextlib.contextmanager
def config_lock(root: Path) -> Iterator[None]:
    """Hold what the runs of a checkout share for the moment of a change."""
    path = root / ".dvc" / "tmp" / "change.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path, wait=True):
        yield
