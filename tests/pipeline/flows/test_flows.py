"""The flows as they happen: a real server on loopback, real workers, DVC; only the stages take no time."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from pipeline import dvc
from pipeline.settings import profiles
from stages import params
from tests import fake_project
from tests.pipeline.prefect_server import Refused, Server, Worker, eventually
from tests.settings import FULL, ROOT

# What is waited for may take long on a busy machine, and several times in one test: `eventually` gives up before this.
pytestmark = [pytest.mark.prefect, pytest.mark.timeout(3600)]

STAGES = dvc.stages(ROOT)
ORDER = [stage.name for stage in STAGES]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.end()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that workers clone: settings that need no network, committed."""
    root = tmp_path_factory.mktemp("origin") / "my project"
    root.mkdir()
    fake_project.write(root, mirror="doodles")
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


StartWorker = Callable[..., Worker]


@pytest.fixture
def worker(server: Server, repository: Path, store: Path, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts workers, each on what is as good as a machine of its own."""
    workers: list[Worker] = []

    def start(name: str = "machine", **variables: str) -> Worker:
        shared = {"QUICKDRAW_REPOSITORY": str(repository), "QUICKDRAW_STORE": f"file://{store}"}
        workers.append(Worker(server, tmp_path / name, **shared | variables))
        eventually(lambda: "started!" in workers[-1].log.read_text())
        return workers[-1]

    yield start
    for one in workers:
        one.end()


def deploy(server: Server, folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """`prefect deploy --all`, of prefect.yaml with a change."""
    text = YAML(typ="safe", pure=True).load(ROOT / "prefect.yaml")
    change(text)
    (folder / "prefect.yaml").write_text(json.dumps(text), encoding="utf-8")
    with (folder / "deploy.log").open("wb") as log:
        code = server.start("deploy", "--all", cwd=folder, log=log).wait(900)
    assert code == 0, (folder / "deploy.log").read_text()


@pytest.fixture
def deployed(server: Server, worker: StartWorker, tmp_path: Path) -> Worker:
    """A worker, and the deployments as they are shipped."""
    started = worker()
    deploy(server, tmp_path)
    return started


@pytest.fixture(scope="module")
def forms(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The deployments as they are shipped, without a worker."""
    folder = tmp_path_factory.mktemp("forms")
    with (folder / "pool.log").open("wb") as log:  # which may be there
        server.start("work-pool", "create", "quickdraw", "--type", "process", cwd=folder, log=log).wait(900)
    deploy(server, folder)


def after(name: str) -> set[str]:
    """A stage and all that need what it writes."""
    found = {name}
    for stage in STAGES:
        if found & set(stage.after):
            found.add(stage.name)
    return found


def before(name: str) -> set[str]:
    """All that a stage needs to have run."""
    needed = {above for stage in STAGES if stage.name == name for above in stage.after}
    return needed.union(*(before(one) for one in needed))


def test_a_schedule_runs_a_clone_and_another_machine_restores_it(
    server: Server, worker: StartWorker, repository: Path, tmp_path: Path
) -> None:
    one = worker("one", QUICKDRAW_REPORTS="https://reports.example/{name}/{hash}.html")

    def soon(text: dict[str, Any]) -> None:
        nightly = next(deployment for deployment in text["deployments"] if deployment["name"] == "nightly")
        text["deployments"] = [nightly]
        nightly["schedules"] = [{"interval": 20, "active": True}]
        nightly["parameters"]["settings"] = {"mirror": "doodles"}

    deploy(server, tmp_path, soon)
    nightly = server.call("GET", "/deployments/name/experiment/nightly")
    try:
        done = {"deployment_id": {"any_": [nightly["id"]]}, "state": {"type": {"any_": ["COMPLETED"]}}}
        first = eventually(lambda: server.runs(**done))[0]["id"]
    finally:
        server.call("DELETE", f"/deployments/{nightly['id']}")
    assert server.run(first)["auto_scheduled"]
    assert server.stages(first) == dict.fromkeys(ORDER, "Ran")
    assert sorted(fake_project.stages_run(one.place)) == sorted(ORDER), "once, whatever else the schedule has asked for"

    left = server.artifacts(first)
    assert [(row["stage"], row["state"]) for row in left["stages"]] == [(name, "Ran") for name in ORDER]
    assert all(row["seconds"] > 0 for row in left["stages"])
    resnets = profiles()["quick"]["num_resnet"]
    assert f"| num_resnet | {FULL['num_resnet']} | {resnets} |" in left["summary"]
    assert "reports/index.html" in left["summary"]
    assert "https://reports.example/quick-" in left["report"]
    logs = server.logs(first)
    assert "Running stage 'train':" in logs
    eventually(lambda: not list(one.place.glob("*prefect*")))  # the clones are gone
    [kept] = dvc.experiment_commits(repository)
    assert f"https://reports.example/{kept}/" in left["report"], "it went back to where the clone came from"
    one.end()

    other = worker("other")
    deploy(server, tmp_path)
    form = {"profile": "quick", "settings": {"mirror": "doodles"}, "baseline": kept}
    second = server.ask("experiment/on-demand", form)
    run = server.ended(second)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    commit = fake_project.git(repository, "rev-parse", "HEAD")[:7]
    assert run["state"]["message"].startswith(f"equal to {kept} ({commit}): "), "seen from a clone, figures and all"
    assert server.stages(second) == dict.fromkeys(ORDER, "Restored")
    assert fake_project.stages_run(other.place) == [], "nothing was computed"


@pytest.mark.parametrize("how", ["cancel", "SIGTERM", "SIGKILL"])
def test_what_ends_a_run_leaves_no_orphan_and_the_next_goes_on(server: Server, deployed: Worker, how: str) -> None:
    slow = deployed.place / "slow"
    slow.write_text("train")
    settings = {"mirror": "doodles", "seed": ["cancel", "SIGTERM", "SIGKILL"].index(how) + 10}
    flow_run = server.ask("experiment/on-demand", {"profile": "quick", "settings": settings})
    stage = psutil.Process(int(eventually(lambda: (text := slow.read_text()) != "train" and text)))
    chain = [process for process in [stage, *stage.parents()] if process.pid != deployed.process.pid]
    chain = chain[: next(i for i, process in enumerate(chain) if process.pid in (os.getpid(), 1))]
    assert any("prefect" in " ".join(process.cmdline()) for process in chain), "the run's own process among them"
    eventually(lambda: "train-progress" in server.artifacts(flow_run))
    assert server.artifacts(flow_run)["train-progress"] == 25.0

    if how == "cancel":
        state = {"type": "CANCELLING", "name": "Cancelling"}
        server.call("POST", f"/flow_runs/{flow_run}/set_state", {"state": state})
    else:
        children = psutil.Process(deployed.process.pid).children(recursive=True)
        deployed.process.send_signal(signal.Signals[how])
        assert children
    _gone, alive = psutil.wait_procs(chain, timeout=120)  # ten seconds where the machine does nothing else
    assert alive == [], "an orphan"
    run = server.ended(flow_run)
    assert run["state_type"] == ("CANCELLED" if how == "cancel" else "CRASHED")

    slow.unlink()
    fake_project.stages_run(deployed.place)
    if how != "cancel":
        deployed.again()
    again = server.ask("experiment/on-demand", {"profile": "quick", "settings": settings})
    assert server.ended(again)["state_type"] == "COMPLETED"
    ran = fake_project.stages_run(deployed.place)
    assert after("train") <= set(ran), "it goes on from where it was"
    assert not set(ran) & before("train")


def test_three_experiments_at_once_one_of_which_may_fail(server: Server, worker: StartWorker, tmp_path: Path) -> None:
    """In a checkout of a person's own, as `python -m pipeline serve` has it."""
    root = tmp_path / "checkout"
    root.mkdir()
    fake_project.write(root, mirror="doodles")
    started = worker(QUICKDRAW_STORE="")

    def here(text: dict[str, Any]) -> None:
        text["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": str(root)}}]

    deploy(server, tmp_path, here)
    parameters = {"profile": "quick", "settings": {"mirror": "doodles"}, "slots": 3}
    first = server.ask("sweep/sweep", parameters | {"grid": {"num_resnet": [1, 2, 3]}})
    run = server.ended(first)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    table = server.artifacts(first)["sweep"]
    assert {row["num_resnet"] for row in table} == {1, 2, 3}
    figures = [row["heldout_bits_per_dim"] for row in table]
    assert figures == sorted(figures)
    names = [row["experiment"] for row in table]
    inner = server.runs(name={"any_": names})
    assert max(one["start_time"] for one in inner) < min(one["end_time"] for one in inner), "at once"
    assert set(dvc.experiment_commits(root)) == set(names)
    reports = set()
    for row in table:
        given = params.parse(dvc.Snapshot(root, row["experiment"]).read("params.yaml").decode(), "")
        assert given["num_resnet"] == row["num_resnet"]
        assert dvc.metrics(root, row["experiment"])["heldout_bits_per_dim"] == row["heldout_bits_per_dim"]
        reports.add(dvc.Snapshot(root, row["experiment"]).read("reports/index.html"))
    assert len(reports) == 3
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "show", "--csv"], cwd=root, capture_output=True, text=True, check=True
    )
    assert all(name in shown.stdout for name in names)
    assert fake_project.git(root, "status", "--porcelain") == "", "the checkout is as it was"

    (started.place / "broken").write_text("train where num_resnet=5")
    second = server.ask("sweep/sweep", parameters | {"grid": {"num_resnet": [4, 5, 6]}})
    run = server.ended(second)
    assert run["state_type"] == "FAILED"
    assert run["state"]["message"].startswith("1 of 3 experiments failed: quick-")
    table = server.artifacts(second)["sweep"]
    assert [row["num_resnet"] for row in table][-1] == 5
    assert table[-1]["state"].endswith("exited with 1: the stage is broken")
    assert {row["experiment"] for row in table[:-1]} <= set(dvc.experiment_commits(root))
    assert len(dvc.experiment_commits(root)) == 5


@pytest.mark.usefixtures("forms")
@pytest.mark.parametrize(
    ("deployment", "parameters", "said"),
    [
        ("experiment/on-demand", {"settings": {"num_resnet": 0}}, "'settings.num_resnet'.+less than the minimum of 1"),
        ("experiment/on-demand", {"settings": {"num_resnet": "many"}}, "'settings.num_resnet'.+'many' is not"),
        ("experiment/on-demand", {"settings": {"ema_decay": 1}}, "'settings.ema_decay'.+maximum of 1"),
        ("experiment/on-demand", {"settings": {"precision": "half"}}, "'settings.precision'.+'half' is not one of"),
        ("experiment/on-demand", {"settings": {"num_resnt": 3}}, "'settings'.+'num_resnt' was unexpected"),
        ("experiment/on-demand", {"profile": "quik"}, "'profile'.+'quik' is not one of"),
        ("experiment/on-demand", {"name": "a b"}, "'name'.+'a b' does not match"),
        ("sweep/sweep", {"grid": {"num_resnet": [1, 99]}}, r"'grid.num_resnet\[1\]'.+greater than the maximum of 20"),
        ("sweep/sweep", {"slots": -1}, "'slots'.+-1 is less than the minimum of 0"),
    ],
)  # fmt: skip
def test_the_server_refuses_nonsense(server: Server, deployment: str, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=f"Validation failed for field {said}"):
        server.ask(deployment, parameters)


def test_a_run_by_hand_is_a_flow_where_a_server_is_and_a_new_stage_is_run(server: Server, tmp_path: Path) -> None:
    """A stage that is added to dvc.yaml is a task, with no change in Python."""
    root = tmp_path / "my project"
    root.mkdir()
    fake_project.write(root, mirror="doodles")
    graph = json.loads((root / "dvc.yaml").read_text())
    graph["stages"]["count"] = {
        "desc": "How many letters",
        "cmd": "wc -c < reports/index.html > reports/count",
        "deps": ["reports/index.html"],
        "outs": ["reports/count"],
    }
    (root / "dvc.yaml").write_text(json.dumps(graph))
    environment = server.variables | {"PYTHONPATH": str(ROOT)}

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "run", "-S", "num_resnet=7"],
            cwd=root, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"report: {root}/reports/index.html\n" in done.stdout
        flow_run = next(one for one in server.runs() if one["id"] in done.stdout + done.stderr)
        assert flow_run["name"] in done.stdout
        return str(flow_run["id"])

    first = run()
    assert server.stages(first) == dict.fromkeys([*ORDER, "count"], "Ran")
    second = run()
    assert server.stages(second) == dict.fromkeys([*ORDER, "count"], "Unchanged")

    fake_project.stages_run(root)
    (root / "broken").write_text("train")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "-S", "num_resnet=8"],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-1].endswith("exited with 1: the stage is broken")
    assert "Traceback" not in done.stdout + done.stderr
