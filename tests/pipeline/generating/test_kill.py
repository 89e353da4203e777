"""`python -m pipeline generate` in several processes: killed, interrupted and without one of its workers."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline import load_model
from pipeline.__main__ import main
from pipeline.generating import manifest
from pipeline.generating.collection import Collection
from pipeline.generating.destination import Folder
from pipeline.generating.workers import draw_shards
from tests.pipeline.generating import project
from tests.settings import ROOT

KILLS = int(os.environ.get("KILLS", "2"))
PER_CLASS = 5000  # ten shards of each class
# Other processes draw from the start, however small the work is.
COMMAND = "from pipeline.generating import workers; workers.START_SECONDS = 0; from pipeline.__main__ import main; "
COMMAND += "raise SystemExit(main())"

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: no other process draws")


@contextmanager
def generating(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, in a process group of its own. At the end of the block, no process of it may be left."""
    arguments = ["generate", str(folder), "--per-class", str(PER_CLASS)]
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
            assert wait_until(lambda: not members(process.pid)), "no process is left"
        finally:
            for member in members(process.pid):
                member.kill()


def members(group: int) -> list[psutil.Process]:
    """The running processes of a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.Error):
            pass
    return found


def wait_until(condition: Callable[[], object], seconds: float = 120) -> bool:
    """Wait until a condition holds, and return whether it does."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def parts(folder: Path) -> list[Path]:
    return list(folder.glob("parts/*/*_*"))


@pytest.fixture(scope="module")
def whole(made_project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hashes of a folder that one process has drawn."""
    folder = tmp_path_factory.mktemp("whole") / "folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.generating.command.usable_cores", lambda: 1)
        assert main(["generate", str(folder), "--per-class", str(PER_CLASS), "--run", str(made_project)]) == 0
    return project.hashes(folder)


@pytest.mark.robustness
def test_killed_at_random_moments_it_writes_the_same_bytes(root: Path, tmp_path: Path, whole: dict[str, str]) -> None:
    folder = tmp_path / "new"
    for number in range(KILLS):
        with generating(folder) as process:
            assert wait_until(lambda: parts(folder) or (folder / "bee.npy").exists())
            time.sleep(random.Random(number).uniform(0, 2))
            process.kill()
    with generating(folder) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert project.hashes(folder) == whole
    assert "holds 10,000 drawings" in out


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_one_line(number: int, code: int, root: Path, tmp_path: Path) -> None:
    with generating(tmp_path / "new") as process:
        assert wait_until(lambda: parts(tmp_path / "new"))
        # The processes that draw leave signals to the command, or each would end in a traceback.
        for worker in psutil.Process(process.pid).children():
            worker.send_signal(number)
        before = len(parts(tmp_path / "new"))
        assert wait_until(lambda: process.poll() is not None or len(parts(tmp_path / "new")) > before + 1)
        assert process.poll() is None
        os.killpg(process.pid, number)  # as a terminal does
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == ""
    first, *others, last = [line for line in err.splitlines() if line]
    assert first.startswith("device: auto uses")
    assert all(line.startswith("generate: ") for line in others), err
    assert re.fullmatch(r"interrupted after [\d,]+ of 10,000 drawings; the same command goes on from here", last)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_line(root: Path, tmp_path: Path) -> None:
    with generating(tmp_path / "new") as process:
        assert wait_until(lambda: parts(tmp_path / "new"))
        for worker in members(process.pid):
            if "spawn_main" in " ".join(worker.cmdline()):
                worker.kill()
                break
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert re.match(r"error: a process that draws was killed, perhaps because memory ran out: ", err.splitlines()[-1])


@pytest.mark.slow
def test_two_processes_that_draw_half_of_the_shards_each(root: Path, tmp_path: Path, whole: dict[str, str]) -> None:
    model = load_model()
    folder = Folder(str(tmp_path / "new"), tmp_path / "new")
    collection = Collection(folder, manifest.describe(model, model.classes, PER_CLASS))
    collection.begin()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.generating.workers.START_SECONDS", 0)
        missing = collection.missing()
        for shard, record in draw_shards(model, folder, missing, 2, lambda _: None):
            collection.add(shard, record)
    collection.finish()
    assert project.hashes(folder.path) == whole
