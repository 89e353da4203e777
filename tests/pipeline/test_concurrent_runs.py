"""Several at once, and a cache that is damaged: one waits or is refused in a clear line, and nothing is mixed."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import dvc
from pipeline.__main__ import main
from stages import params
from tests import fake_project
from tests.full_disk import fill, tmpfs
from tests.settings import FULL, ROOT

pytestmark = pytest.mark.torture

SECONDS = 300


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stages that take no time, but for the one that waits."""
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


class Started:
    """A command in the repository, whose lines are kept in a file."""

    def __init__(self, root: Path, *words: str) -> None:
        self._log = Path(os.environ["HOME"]) / f"log-{time.monotonic_ns()}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([sys.executable, "-m", *words], cwd=root, stdout=log, stderr=log)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + SECONDS
        while words not in self.said:
            assert self._process.poll() is None and time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def end(self) -> int:
        return self._process.wait(SECONDS)


def hold(root: Path, stage: str) -> None:
    """Have a stage wait."""
    (root / "slow").write_text(stage)


def reached(root: Path) -> None:
    """Wait until the stage that waits has begun."""
    deadline = time.monotonic() + SECONDS
    while not (root / "slow").read_text().isdigit():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def go_on(root: Path) -> None:
    """Have the stage that waits go on."""
    (root / "slow").unlink()


def seeds(root: Path) -> list[tuple[str, int]]:
    return [(entry["stage"], entry["settings"]["seed"]) for entry in fake_project.recorded_runs(root)]


def test_two_runs_in_one_checkout_come_one_after_the_other(repository: Path) -> None:
    """The second has other settings; none of the first's stages sees them."""
    hold(repository, "train")
    one = Started(repository, "pipeline", "run", "-S", "seed=1")
    reached(repository)
    other = Started(repository, "pipeline", "run", "-S", "seed=2")
    other.wait_for("Another run in this checkout has not ended; this one waits for it")
    assert params.read(repository / "params.yaml")["seed"] == 1
    go_on(repository)
    assert (one.end(), other.end()) == (0, 0), one.said + other.said
    ran = seeds(repository)
    first = [seed for _, seed in ran if seed == 1]
    assert [seed for _, seed in ran] == [1] * len(first) + [2] * (len(ran) - len(first))
    assert {stage for stage, seed in ran if seed == 1} == set(_stages())
    assert {stage for stage, seed in ran if seed == 2} == {"train", "sample", "evaluate", "report"}
    kept = dvc.experiment_commits(repository)
    assert len(kept) == 2
    assert sorted(params.parse(read(repository, "params.yaml", name), name)["seed"] for name in kept) == [1, 2]


def test_a_run_waits_for_a_dvc_repro(repository: Path) -> None:
    """DVC's own command reads params.yaml stage by stage: a run must not change it meanwhile."""
    hold(repository, "train")
    one = Started(repository, "dvc", "repro")
    reached(repository)
    other = Started(repository, "pipeline", "run", "-S", "seed=2")
    other.wait_for("DVC is at work in this checkout (process ")
    assert params.read(repository / "params.yaml")["seed"] == FULL["seed"]
    go_on(repository)
    assert (one.end(), other.end()) == (0, 0), one.said + other.said
    ran = seeds(repository)
    assert {stage for stage, seed in ran if seed == FULL["seed"]} == set(_stages())
    assert {stage for stage, seed in ran if seed == 2} == {"train", "sample", "evaluate", "report"}
    assert dvc.up_to_date(repository) == set(_stages())


def test_of_two_dvc_repros_the_second_is_refused(repository: Path) -> None:
    """In DVC's own words; afterwards it finds all done."""
    hold(repository, "train")
    one = Started(repository, "dvc", "repro")
    reached(repository)
    other = Started(repository, "dvc", "repro")
    assert other.end() != 0
    assert "is busy, it is being blocked by:" in other.said and "Traceback" not in other.said
    go_on(repository)
    assert one.end() == 0, one.said
    assert sorted(fake_project.stages_run(repository)) == sorted(_stages()), "each once"
    again = Started(repository, "dvc", "repro")
    assert again.end() == 0 and fake_project.stages_run(repository) == []


def test_two_experiments_at_once_are_not_mixed(repository: Path) -> None:
    """In workspaces of their own, with the cache of both."""
    with dvc.temporary_workspace(repository, "one") as one, dvc.temporary_workspace(repository, "two") as two:
        for seed, workspace in enumerate((one, two), 1):
            _change(workspace.root, seed=seed)
        running = [Started(workspace.root, "dvc", "--wait-for-lock", "repro") for workspace in (one, two)]
        assert [started.end() for started in running] == [0, 0], [started.said for started in running]
        for name, workspace in (("one", one), ("two", two)):
            workspace.save(name)
            assert {seed for _, seed in seeds(workspace.root)} == {1 if name == "one" else 2}
    assert sorted(dvc.experiment_commits(repository)) == ["one", "two"]
    for name, seed in (("one", 1), ("two", 2)):
        assert params.parse(read(repository, "params.yaml", name), name)["seed"] == seed
    assert read(repository, "reports/metrics.json", "one") != read(repository, "reports/metrics.json", "two")
    assert params.read(repository / "params.yaml")["seed"] == FULL["seed"]


def test_a_damaged_cache_of_dvcs(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """DVC would hand a damaged file on as good. The run says what was damaged, and ends with what it should."""
    assert main(["run"]) == 0
    fake_project.stages_run(repository)
    out = repository / "data" / "train" / "content"
    whole, lock = out.read_bytes(), (repository / "dvc.lock").read_bytes()
    md5 = dvc.output_md5(repository, "data/train")
    assert md5 is not None
    cache = repository / ".dvc" / "cache"
    listed = cache / "files" / "md5" / md5[:2] / md5[2:]
    [entry] = json.loads(listed.read_bytes())
    file = cache / "files" / "md5" / entry["md5"][:2] / entry["md5"][2:]
    for damaged, at_hand, runs in (
        ([file], True, []),  # what is at hand takes its place
        ([file], False, ["train"]),  # no more than what was lost
        ([listed], False, ["train"]),
        ([path for path in (cache / "runs").rglob("*") if path.is_file()], False, []),
    ):
        for path in damaged:
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-7] + b"damaged")
            path.chmod(0o444)
        if not at_hand:
            shutil.rmtree(out.parent)
        capfd.readouterr()
        assert main(["run"]) == 0
        said = capfd.readouterr().err
        assert fake_project.stages_run(repository) == runs, damaged
        assert out.read_bytes() == whole and (repository / "dvc.lock").read_bytes() == lock
        if len(damaged) == 1:
            assert f"{damaged[0]} was damaged, and is deleted from DVC's cache" in said
            assert ("at hand takes its place" in said) == at_hand
            assert file.read_bytes() == whole, "the cache is whole again"
    assert dvc.up_to_date(repository) == set(_stages())


def test_a_full_disk_of_dvcs(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that ends for want of room nothing is half there: with room again it goes on, and back as well."""
    disk = repository.parent / "disk"
    with tmpfs(disk, 8 << 20):
        root = disk / "project"
        shutil.copytree(repository, root)
        monkeypatch.chdir(root)
        ended = Started(root, "pipeline", "run")
        assert ended.end() == 0, ended.said
        fake_project.stages_run(root)
        before = {path: path.read_bytes() for path in root.glob("*/*/content")}
        settings = (root / "params.yaml").read_bytes()
        for room in (0, 20_000):
            fill(disk, room)
            ended = Started(root, "pipeline", "run", "-S", "seed=7")
            assert ended.end() == 1
            assert ended.said.splitlines()[-1].startswith("error: ") and "Traceback" not in ended.said
            assert "No space left on device" in ended.said.splitlines()[-1]
            assert not list(root.glob(".writing-*"))
            if not room:
                assert (root / "params.yaml").read_bytes() == settings
            (disk / "filler").unlink()
        for seed in (7, FULL["seed"]):
            again = Started(root, "pipeline", "run", "-S", f"seed={seed}")
            assert again.end() == 0, again.said
        assert {path: path.read_bytes() for path in root.glob("*/*/content")} == before
        monkeypatch.chdir(repository)


def test_a_clock_that_went_back_has_nothing_run_again(repository: Path) -> None:
    """Files of the future, as a clock that went back leaves them: nothing runs again, and nothing is lost."""
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
