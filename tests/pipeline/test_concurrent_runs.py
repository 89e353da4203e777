"""Concurrent runs, a damaged cache, a full disk and a wrong clock: outputs stay correct, and errors are clear."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import dvc
from pipeline.__main__ import main
from stages import params
from tests import fake_project
from tests.full_disk import fill, tmpfs
from tests.settings import FULL, ROOT

pytestmark = pytest.mark.robustness

TIMEOUT = 300  # seconds


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose stages take almost no time, except the one that waits."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    root = tmp_path / "project"
    root.mkdir()
    fake_project.write(root)
    for key in ("name", "email"):
        fake_project.git(root, "config", f"user.{key}", "a@localhost")
    monkeypatch.chdir(root)
    yield root


class Command:
    """A Python module running in the repository as a command, with its output in a file."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self._log = Path(os.environ["HOME"]) / f"log-{time.monotonic_ns()}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=root, stdout=log, stderr=log)

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while text not in self.output:
            assert self._process.poll() is None and time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        return self._process.wait(TIMEOUT)


def wait_until_blocked(root: Path) -> None:
    """Wait until the blocked stage has started."""
    deadline = time.monotonic() + TIMEOUT
    while not fake_project.blocked(root):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def recorded_seeds(root: Path) -> list[tuple[str, int]]:
    """The stages that ran since the last call, each with its seed."""
    return [(entry["stage"], entry["settings"]["seed"]) for entry in fake_project.recorded_runs(root)]


def test_two_runs_in_one_checkout_run_one_after_the_other(repository: Path) -> None:
    """The second has other settings; no stage of the first reads them."""
    fake_project.block(repository, "train")
    first = Command(repository, "pipeline", "run", "-S", "seed=1")
    wait_until_blocked(repository)
    second = Command(repository, "pipeline", "run", "-S", "seed=2")
    second.wait_for("Another run is active in this checkout; waiting for it to end")
    assert params.read(repository / "params.yaml")["seed"] == 1
    fake_project.unblock(repository)
    assert (first.wait(), second.wait()) == (0, 0), first.output + second.output
    ran = recorded_seeds(repository)
    count = sum(seed == 1 for _, seed in ran)
    assert [seed for _, seed in ran] == [1] * count + [2] * (len(ran) - count)
    assert {stage for stage, seed in ran if seed == 1} == set(_stages())
    assert {stage for stage, seed in ran if seed == 2} == {"train", "sample", "evaluate", "report"}
    experiments = dvc.experiment_commits(repository)
    assert len(experiments) == 2
    assert sorted(params.parse(read(repository, "params.yaml", name), name)["seed"] for name in experiments) == [1, 2]


def test_a_run_waits_for_a_dvc_repro(repository: Path) -> None:
    """`dvc repro` reads params.yaml again for each stage: a run must not change it meanwhile."""
    fake_project.block(repository, "train")
    repro = Command(repository, "dvc", "repro")
    wait_until_blocked(repository)
    run = Command(repository, "pipeline", "run", "-S", "seed=2")
    run.wait_for("DVC is running in this checkout (process ")
    assert params.read(repository / "params.yaml")["seed"] == FULL["seed"]
    fake_project.unblock(repository)
    assert (repro.wait(), run.wait()) == (0, 0), repro.output + run.output
    ran = recorded_seeds(repository)
    assert {stage for stage, seed in ran if seed == FULL["seed"]} == set(_stages())
    assert {stage for stage, seed in ran if seed == 2} == {"train", "sample", "evaluate", "report"}
    assert dvc.up_to_date(repository) == set(_stages())


def test_a_second_dvc_repro_fails_while_the_first_runs(repository: Path) -> None:
    """With DVC's own error. Afterwards all stages are up to date."""
    fake_project.block(repository, "train")
    first = Command(repository, "dvc", "repro")
    wait_until_blocked(repository)
    second = Command(repository, "dvc", "repro")
    assert second.wait() != 0
    assert "is busy, it is being blocked by:" in second.output and "Traceback" not in second.output
    fake_project.unblock(repository)
    assert first.wait() == 0, first.output
    assert sorted(fake_project.stages_run(repository)) == sorted(_stages()), "each once"
    again = Command(repository, "dvc", "repro")
    assert again.wait() == 0 and fake_project.stages_run(repository) == []


def test_two_concurrent_experiments_are_not_mixed(repository: Path) -> None:
    """Each in its own workspace, with a shared cache."""
    with dvc.temporary_workspace(repository, "one") as first, dvc.temporary_workspace(repository, "two") as second:
        for seed, workspace in enumerate((first, second), 1):
            _change(workspace.root, seed=seed)
        with ThreadPoolExecutor() as threads:
            outcomes = threads.map(dvc.Workspace.reproduce, (first, second))
        assert [set(outcome) for outcome in outcomes] == [set(_stages())] * 2
        for name, workspace in (("one", first), ("two", second)):
            workspace.save(name)
            assert {seed for _, seed in recorded_seeds(workspace.root)} == {1 if name == "one" else 2}
    assert sorted(dvc.experiment_commits(repository)) == ["one", "two"]
    for name, seed in (("one", 1), ("two", 2)):
        assert params.parse(read(repository, "params.yaml", name), name)["seed"] == seed
    assert read(repository, "reports/metrics.json", "one") != read(repository, "reports/metrics.json", "two")
    assert params.read(repository / "params.yaml")["seed"] == FULL["seed"]


def test_a_damaged_dvc_cache_is_repaired(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """DVC would use a damaged file without an error. The run names the damaged file, and its outputs are correct."""
    assert main(["run"]) == 0
    fake_project.stages_run(repository)
    out = repository / "data" / "train" / "content"
    correct, lock = out.read_bytes(), (repository / "dvc.lock").read_bytes()
    md5 = dvc.output_md5(repository, "data/train")
    assert md5 is not None
    cache = repository / ".dvc" / "cache"
    listing = cache / "files" / "md5" / md5[:2] / md5[2:]
    [entry] = json.loads(listing.read_bytes())
    file = cache / "files" / "md5" / entry["md5"][:2] / entry["md5"][2:]
    for damaged, has_output, runs in (
        ([file], True, []),  # replaced from the output
        ([file], False, ["train"]),  # only the stage whose output was lost
        ([listing], False, ["train"]),
        ([path for path in (cache / "runs").rglob("*") if path.is_file()], False, []),
    ):
        for path in damaged:
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-7] + b"damaged")
            path.chmod(0o444)
        if not has_output:
            shutil.rmtree(out.parent)
        capfd.readouterr()
        assert main(["run"]) == 0
        errors = capfd.readouterr().err
        assert fake_project.stages_run(repository) == runs, damaged
        assert out.read_bytes() == correct and (repository / "dvc.lock").read_bytes() == lock
        if len(damaged) == 1:
            assert f"{damaged[0]} was damaged and has been deleted from DVC's cache" in errors
            assert ("; replaced from " in errors) == has_output
            assert file.read_bytes() == correct, "the cache is repaired"
    assert dvc.up_to_date(repository) == set(_stages())


def test_a_run_after_a_full_disk_resumes(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on a full disk fails without a partial output, and resumes with free space. Old outputs are restored."""
    disk = repository.parent / "disk"
    with tmpfs(disk, 8 << 20):
        root = disk / "project"
        shutil.copytree(repository, root)
        monkeypatch.chdir(root)
        command = Command(root, "pipeline", "run")
        assert command.wait() == 0, command.output
        fake_project.stages_run(root)
        before = {path: path.read_bytes() for path in root.glob("*/*/content")}
        settings = (root / "params.yaml").read_bytes()
        for free_bytes in (0, 20_000):
            fill(disk, free_bytes)
            command = Command(root, "pipeline", "run", "-S", "seed=7")
            assert command.wait() == 1
            assert command.output.splitlines()[-1].startswith("error: ") and "Traceback" not in command.output
            assert "No space left on device" in command.output.splitlines()[-1]
            assert not list(root.glob(".writing-*"))
            if not free_bytes:
                assert (root / "params.yaml").read_bytes() == settings
            (disk / "filler").unlink()
        for seed in (7, FULL["seed"]):
            again = Command(root, "pipeline", "run", "-S", f"seed={seed}")
            assert again.wait() == 0, again.output
        assert {path: path.read_bytes() for path in root.glob("*/*/content")} == before
        monkeypatch.chdir(repository)


def test_no_stage_runs_again_after_the_clock_was_set_back(repository: Path) -> None:
    """The files then have modification times in the future."""
    assert main(["run"]) == 0
    fake_project.stages_run(repository)
    later = time.time() + 400 * 86_400
    for path in repository.rglob("*"):
        if ".git" not in path.parts and path.name != "dvc.lock":
            os.utime(path, (later, later), follow_symlinks=False)
    assert main(["run"]) == 0
    assert fake_project.stages_run(repository) == []


def read(root: Path, path: str, experiment: str) -> str:
    return dvc.Snapshot(root, experiment).read(path).decode()


def _stages() -> list[str]:
    return [stage.name for stage in dvc.stages(Path.cwd())]


def _change(root: Path, **changes: int) -> None:
    settings = params.read(root / "params.yaml") | changes
    (root / "params.yaml").write_text(json.dumps(settings), encoding="utf-8")
