"""The clones that killed workers leave are deleted, and no others."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.flows.clones import locked_clone
from stages.common import files
from tests.settings import ROOT

LOCK = """
import sys, time
from pathlib import Path
from stages.common import files
with files.lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def make(folder: Path, *, started: bool = True) -> Path:
    (folder / "project").mkdir(parents=True)
    if started:
        (folder / ".lock").touch()
    return folder


def test_a_run_deletes_the_clones_of_killed_runs_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, living, dead = (make(tmp_path / name) for name in ("tmp0prefect", "tmp1prefect", "tmp2prefect"))
    starting = make(tmp_path / "tmp3prefect", started=False)
    other = make(tmp_path / "another folder")
    killed_holder = make(tmp_path / "tmp4prefect")
    monkeypatch.chdir(own / "project")
    processes = [
        subprocess.Popen([sys.executable, "-c", LOCK, str(clone)], stdout=subprocess.PIPE, cwd=ROOT)
        for clone in (living, killed_holder)
    ]
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        processes[1].kill()
        processes[1].wait()
        with locked_clone(), locked_clone():  # an experiment of a sweep, in the process of the sweep
            assert [clone.exists() for clone in (own, living, starting, other)] == [True] * 4
            assert [clone.exists() for clone in (dead, killed_holder)] == [False] * 2
            with pytest.raises(BlockingIOError), files.lock(own):
                pass
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_run_in_a_checkout_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout, dead = make(tmp_path / "checkout"), make(tmp_path / "tmp2prefect")
    monkeypatch.chdir(checkout / "project")
    with locked_clone():
        assert dead.exists()
    assert (checkout / ".lock").exists()
