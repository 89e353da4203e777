"""Interrupts and full disks at the moment at which DVC, Git or this project writes a file: the same command goes on.

By hand, with many interrupts at random moments: KILLS=100 python -m pytest --slow tests/pipeline/dvc/test_interrupts.py
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline import dvc
from pipeline.dvc import repository
from tests import fake_project
from tests.settings import ROOT

KILLS = int(os.environ.get("KILLS", "2"))
RUN = (sys.executable, "-m", "pipeline", "run", "-S", "num_resnet=3")
EMPTY_LOCK = (ROOT / "dvc.lock").read_text(encoding="utf-8")
STAGES = ["evaluate", "extract", "filter", "judge", "report", "sample", "train"]
FULL = "full"  # in place of a signal: the disk is full


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "my project"
    root.mkdir()
    fake_project.write(root)
    return root


def start(root: Path, **variables: str) -> "subprocess.Popen[str]":
    """Start a run in a session of its own, as a terminal does."""
    return subprocess.Popen(
        RUN,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(ROOT), "FAKE_PROJECT": str(root.parent)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Send a signal as a terminal does, to the process group; SIGKILL, to every process of the run."""
    if number == signal.SIGKILL:
        run = psutil.Process(process.pid)
        for victim in (*run.children(recursive=True), run):
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
    else:
        os.killpg(process.pid, number)


def assert_the_same_command_goes_on(root: Path) -> str:
    """Run the command again; return what it printed. All stages are in dvc.lock, and Git's state is as before."""
    again = start(root)
    out, _ = again.communicate(timeout=300)
    assert again.returncode == 0, out
    assert "Traceback" not in out
    assert sorted(dvc.stages_in_lockfile(root)) == STAGES
    assert dvc.up_to_date(root) == set(STAGES)
    assert len(dvc.list_experiments(root)) == 1
    assert fake_project.git(root, "branch", "--show-current").strip() in ("main", "master"), "no detached HEAD"
    assert fake_project.git(root, "stash", "list") == ""
    assert {line[3:] for line in fake_project.git(root, "status", "--porcelain").splitlines()} == {
        "dvc.lock",
        "params.yaml",
    }
    return out


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("file", "moment"),  # DVC writes all other files beside their place, and renames them
    [
        ("dvc.lock", signal.SIGINT),
        ("dvc.lock", signal.SIGTERM),
        ("dvc.lock", signal.SIGHUP),
        ("dvc.lock", signal.SIGKILL),
        ("dvc.lock", FULL),
        ("rwlock", signal.SIGKILL),
    ],
)
def test_while_dvc_writes_in_place(root: Path, tmp_path: Path, file: str, moment: signal.Signals | str) -> None:
    process = start(
        root,
        PYTHONPATH=os.pathsep.join([str(ROOT / "tests" / "interrupted_writes"), str(ROOT)]),
        INTERRUPTED_WRITE=file,
        INTERRUPTED_WRITE_CONTROL=str(tmp_path),
    )
    wait_until(lambda: dvc_lock_has(root, "filter"))
    (tmp_path / "armed").write_text(FULL if moment == FULL else "")
    wait_until((tmp_path / "writing").exists)
    if isinstance(moment, signal.Signals):
        end(process, moment)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == exit_code(moment), out
    assert "Traceback" not in out

    torn = repository.is_torn((root / "dvc.lock").read_bytes())
    assert torn == (file == "dvc.lock" and moment in (signal.SIGKILL, FULL)), "DVC finishes what it writes"
    assert ("interrupted; the same command goes on" in out) == (moment not in (signal.SIGKILL, FULL))
    *finished, _ = fake_project.stages_run(root.parent)  # a kill may come before DVC has saved the last one
    out = assert_the_same_command_goes_on(root)
    assert ("dvc.lock was damaged" in out) == torn
    assert set(fake_project.stages_run(root.parent)).isdisjoint(finished), "what has run is restored"


def exit_code(moment: signal.Signals | str) -> int:
    if isinstance(moment, str):
        return 1
    return -moment if moment == signal.SIGKILL else 128 + moment


def dvc_lock_has(root: Path, stage: str) -> bool:
    return f"  {stage}:" in (root / "dvc.lock").read_text(encoding="utf-8")


@pytest.mark.robustness
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_at_random_moments(root: Path, number: signal.Signals) -> None:
    """Each run after an interrupt is interrupted again, until KILLS is reached or a run ends first."""
    generator = random.Random(number)
    for kill in range(KILLS):
        process = start(root)
        try:
            out, _ = process.communicate(timeout=generator.uniform(0.5, 12))
        except subprocess.TimeoutExpired:
            end(process, number)
            out, _ = process.communicate(timeout=120)
        assert "Traceback" not in out
        torn = repository.is_torn((root / "dvc.lock").read_bytes())
        print(f"{number.name} {kill}: exit code {process.returncode}, dvc.lock {'torn' if torn else 'whole'}")
        if process.returncode == 0:  # it was too late: from the start
            fake_project.git(root, "restore", "params.yaml", "dvc.lock")
            fake_project.git(root, "clean", "--quiet", "-fdx", "data", "reports", ".dvc/cache")
    assert_the_same_command_goes_on(root)


@pytest.mark.parametrize("content", [b"", b"schema: '2.0'\nsta", b"schema: '2.0'\nstages:\n  a:\n", b"\xff", b"[]"])
def test_a_torn_lock_file_is_replaced_by_the_committed_one(root: Path, content: bytes) -> None:
    assert not repository.is_torn(EMPTY_LOCK.encode())
    lock = root / "dvc.lock"
    lock.write_bytes(content)
    lines: list[str] = []
    with dvc.exclusive_run(root, lines.append):
        assert lock.read_text(encoding="utf-8") == EMPTY_LOCK
    [line] = lines
    assert line.startswith("WARNING: dvc.lock was damaged")

    fake_project.git(root, "rm", "--quiet", "--cached", "dvc.lock")
    fake_project.git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "remove")
    lock.write_bytes(content)
    with dvc.exclusive_run(root, lines.append):
        assert not lock.exists()


def test_a_lock_file_with_the_conflicts_of_a_merge_stays(root: Path) -> None:
    conflicts = "<<<<<<< HEAD\nschema: '2.0'\n=======\nstages: {}\n>>>>>>> other\n"
    (root / "dvc.lock").write_text(conflicts)
    with dvc.exclusive_run(root, lambda line: pytest.fail(str(line))):
        assert (root / "dvc.lock").read_text() == conflicts


def test_a_git_that_was_killed_while_it_set_the_reference_of_an_experiment(root: Path) -> None:
    workspace = dvc.Workspace(root)
    workspace.save("trial")
    [experiment] = dvc.list_experiments(root)
    [reference] = fake_project.git(root, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    (root / ".git" / f"{reference}.lock").touch()
    (root / "params.yaml").write_text("seed: 7\n")
    workspace.save("trial")
    [again] = dvc.list_experiments(root)
    assert (again.name, again.baseline) == (experiment.name, experiment.baseline)
    assert dvc.Snapshot(root, "trial").read("params.yaml") == b"seed: 7\n"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
