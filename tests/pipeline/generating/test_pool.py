"""`python -m pipeline generate --pool`: shards that runs of the flow `draw` draw."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import State
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Crashed

from pipeline import dvc
from pipeline.__main__ import main
from pipeline.flows import draw
from pipeline.flows.over_pool import Job
from pipeline.generating import command, manifest
from stages.outputs import model, samples
from tests import fake_project
from tests.pipeline.generating import project
from tests.pipeline.prefect_server import Server, Worker, eventually
from tests.settings import ROOT

RUN = "quick-1a2b3c4d"


@pytest.fixture(scope="module")
def repository(made_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an experiment that has the model of the project, in Git instead of a store."""
    root = tmp_path_factory.mktemp("origin") / "repository"
    fake_project.git(made_project, "clone", "--quiet", str(made_project), str(root))
    head = fake_project.git(root, "rev-parse", "HEAD").strip()
    (root / "dvc.yaml").write_text("stages: {}\n")
    for folder in (model.FOLDER, samples.FOLDER):
        shutil.copytree(made_project / folder, root / folder)
    fake_project.git(root, "add", "--force", "dvc.yaml", "data")
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    fake_project.git(root, *identity, "commit", "--quiet", "--message", "experiment")
    fake_project.git(root, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{RUN}", "HEAD")
    fake_project.git(root, "reset", "--quiet", "--hard", head)
    fake_project.git(root, "remote", "remove", "origin")
    return root


class LocalPool:
    """A pool whose runs are calls of the flow, one after another.

    Attributes:
      drawn: the jobs that were run.
      outcome: returns the final state of a job instead of running it; None to run it.
    """

    drawn: list[Job]
    outcome: Callable[[Job], State[Any] | None]

    def __init__(self, name: str, flow: str, report: object) -> None:
        assert (name, flow) == ("big", "draw")

    def run(self, jobs: Iterable[Job], ended: Callable[[Job, FlowRun], object], polled: Callable[[], object]) -> None:
        for job in jobs:
            state = LocalPool.outcome(job)
            if state is None:
                LocalPool.drawn.append(job)
                state = draw.draw.fn(**job.parameters)
            ended(job, FlowRun(flow_id=UUID(int=1), state=state))
            polled()


@pytest.fixture
def clone(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of the repository, which is the current folder, and a pool that runs here."""
    root = tmp_path / "clone"
    fake_project.git(tmp_path, "clone", "--quiet", str(repository), str(root))
    dvc.fetch_experiments(root, RUN)
    monkeypatch.chdir(root)
    monkeypatch.setattr(command, "configured_server", lambda: "http://localhost/api")
    monkeypatch.setattr(command, "server_answers", lambda address: True)
    monkeypatch.setattr(draw, "Pool", LocalPool)
    monkeypatch.setattr(draw, "with_watchdog", contextlib.nullcontext)
    monkeypatch.setattr(draw, "usable_cores", lambda: 1)
    monkeypatch.setattr(draw, "SHARDS_PER_RUN", 2)
    monkeypatch.setattr(LocalPool, "drawn", [], raising=False)
    monkeypatch.setattr(LocalPool, "outcome", lambda job: None, raising=False)
    return root


def generate(folder: object, *arguments: str) -> int:
    return main(["generate", str(folder), "--per-class", "20", "--run", RUN, *arguments])


@pytest.mark.usefixtures("small_shards", "one_core", "clone")
def test_a_pool_draws_the_bytes_of_one_process_and_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are three shards of each of two classes, and two shards in each run."""
    assert generate(tmp_path / "here") == 0
    capsys.readouterr()
    monkeypatch.setattr(LocalPool, "outcome", lambda job: Crashed(message="lost") if job.parameters["start"] else None)
    assert generate("../new", "--pool", "big") == 1
    name = LocalPool.drawn[0].name.removesuffix("-0")
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: 24 drawings are missing; 2 runs failed, the first: {name}-2 is Crashed: lost; the same command goes "
        "on from here"
    )
    assert (tmp_path / "new" / "(unfinished).npy").exists()
    [lost] = list((tmp_path / "new" / "parts" / "bee").glob("8-16_*"))
    lost.unlink()
    monkeypatch.setattr(LocalPool, "outcome", lambda job: None)
    assert generate(tmp_path / "new", "--pool", "big") == 0
    assert LocalPool.drawn[0].parameters["destination"] == str(tmp_path / "new"), "absolute, for other machines"
    assert [job.name for job in LocalPool.drawn] == [f"{name}-{start}" for start in (0, 0, 2, 4)]
    assert project.hashes(tmp_path / "new") == project.hashes(tmp_path / "here")
    assert "; 32 of them are new" in capsys.readouterr().out
    assert generate(tmp_path / "new", "--pool", "big") == 0
    assert len(LocalPool.drawn) == 4, "a finished folder starts no run"


@pytest.mark.usefixtures("small_shards", "one_core", "clone")
def test_a_folder_that_the_workers_reach_by_another_name_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = draw.draw.fn(str(tmp_path / "elsewhere"), RUN, 0, 1)
    assert state.is_failed()
    assert state.message == f"{tmp_path}/elsewhere has no manifest.json here: name a place that all machines reach"
    monkeypatch.setattr(LocalPool, "outcome", lambda job: Completed())  # into another folder of this name
    assert generate("../new", "--pool", "big") == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: 40 drawings are missing in {tmp_path}/new, and no run failed: name a place that all machines reach"
    )


@pytest.mark.usefixtures("small_shards", "one_core")
def test_drawings_of_another_model_are_not_mixed_in(clone: Path, tmp_path: Path) -> None:
    assert generate(tmp_path / "new", "--class", "bee") == 0
    project.edit_manifest(tmp_path / "new", model="0" * 64)
    state = draw.draw.fn(str(tmp_path / "new"), RUN, 0, 1)
    assert state.is_failed() and "holds other drawings: model 000000000000 there" in (state.message or "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--pool needs --run with the name of an experiment: the workers fetch the model by it"),
        (["--run", "."], "--pool needs --run with the name of an experiment: the workers fetch the model by it"),
        (["--run", RUN], "--pool needs a Prefect server, and none is named: export PREFECT_API_URL=…"),
    ],
)
def test_what_a_pool_needs_is_one_line(
    arguments: list[str],
    message: str,
    clone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "configured_server", lambda: None)
    assert main(["generate", str(tmp_path / "new"), "--per-class", "20", "--pool", "big", *arguments]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "new").exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    yield server
    server.stop()


@pytest.mark.prefect
@pytest.mark.timeout(3600)
def test_a_worker_draws_what_is_asked_and_the_command_can_be_killed(
    server: Server, repository: Path, tmp_path: Path
) -> None:
    """With a real server. The command is killed when the first run has started; the second command waits for it."""
    machine, folder = tmp_path / "machine", tmp_path / "new"
    fake_project.git(tmp_path, "clone", "--quiet", str(repository), str(machine))
    worker = Worker(server, tmp_path / "worker", 1, QUICKDRAW_REPOSITORY=str(repository))
    code = "from pipeline.flows import draw; draw.SHARDS_PER_RUN = 4; from pipeline.__main__ import main; "
    arguments = ["generate", str(folder), "--per-class", str(4 * manifest.SHARD), "--run", RUN]

    def start(*others: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", f"{code} raise SystemExit(main())", *arguments, *others],
            cwd=machine, env=server.variables | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    try:
        eventually(lambda: "started!" in worker.log.read_text())
        with start("--pool", "quickdraw") as refused:
            assert (
                refused.communicate()[1]
                .splitlines()[-1]
                .startswith(
                    "error: the work pool 'quickdraw' has no deployment that many runs of the flow draw can be of: "
                )
            )
        server.deploy(tmp_path)
        with start("--pool", "quickdraw") as killed:
            eventually(lambda: len(server.runs(name={"like_": "draw-"})) == 2)
            eventually(lambda: any(run["state_type"] == "RUNNING" for run in server.runs(name={"like_": "draw-"})))
            killed.kill()
            killed.communicate()
        with start("--pool", "quickdraw") as command:
            out, err = command.communicate(timeout=1800)
        assert command.returncode == 0, err
        assert f"{folder} holds 4,096 drawings" in out
        assert "is in the pool already: waiting for it" in err
        assert [run["state_type"] for run in server.runs(name={"like_": "draw-"})] == ["COMPLETED"] * 2
    finally:
        worker.stop()
    arguments[1] = str(tmp_path / "here")
    with start() as here:
        assert here.wait(1800) == 0
    assert project.hashes(folder) == project.hashes(tmp_path / "here")
