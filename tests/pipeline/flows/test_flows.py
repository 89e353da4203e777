"""The flows with a real Prefect server, real workers and DVC; only the stages are fake and take almost no time."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from pipeline import dvc
from tests import fake_project
from tests.pipeline.prefect_server import Refused, Server, Worker, eventually
from tests.settings import ROOT

# Longer than several calls of `eventually`, which may each wait long on a busy machine.
pytestmark = [pytest.mark.prefect, pytest.mark.timeout(3600)]

STAGES = dvc.stages(ROOT)
ORDER = [stage.name for stage in STAGES]


def descendants(name: str) -> set[str]:
    """A stage and all stages that depend on it."""
    names = {name}
    for stage in STAGES:
        if names & set(stage.after):
            names.add(stage.name)
    return names


def ancestors(name: str) -> set[str]:
    """All stages that a stage depends on."""
    parents = {parent for stage in STAGES if stage.name == name for parent in stage.after}
    return parents.union(*map(ancestors, parents))


def test_a_scheduled_run_in_a_clone_is_restored_on_another_machine(
    server: Server, worker: Callable[..., Worker], repository: Path, tmp_path: Path
) -> None:
    first_worker = worker("one", QUICKDRAW_REPORTS="https://reports.example/{name}/{hash}.html")

    def schedule_nightly_now(content: dict[str, Any]) -> None:
        nightly = next(deployment for deployment in content["deployments"] if deployment["name"] == "nightly")
        content["deployments"] = [nightly]
        nightly["schedules"] = [{"interval": 20, "active": True}]
        nightly["parameters"]["settings"] = {"source": "doodles"}

    server.deploy(tmp_path, schedule_nightly_now)
    nightly = server.call("GET", "/deployments/name/experiment/nightly")
    try:
        completed = {"deployment_id": {"any_": [nightly["id"]]}, "state": {"type": {"any_": ["COMPLETED"]}}}
        first = eventually(lambda: server.runs(**completed))[0]["id"]
    finally:
        server.call("DELETE", f"/deployments/{nightly['id']}")
    assert server.run(first)["auto_scheduled"]
    assert server.stages(first) == dict.fromkeys(ORDER, "Ran")
    assert sorted(fake_project.stages_run(first_worker.home)) == sorted(ORDER), "once, although the schedule goes on"

    artifacts = server.artifacts(first)
    assert [(row["stage"], row["state"]) for row in artifacts["stages"]] == [(name, "Ran") for name in ORDER]
    assert all(row["seconds"] > 0 for row in artifacts["stages"])
    assert "## Changes to the profile quick\n\nNone.\n" in artifacts["summary"], "the source is the committed one"
    assert "reports/index.html" in artifacts["summary"]
    assert "https://reports.example/quick-" in artifacts["report"]
    logs = server.logs(first)
    assert "Running stage 'train':" in logs
    eventually(lambda: not list(first_worker.home.glob("*prefect*")))  # the clones have been deleted
    [experiment] = dvc.experiment_commits(repository)
    assert f"https://reports.example/{experiment}/" in artifacts["report"], "it was pushed to the clone's origin"
    first_worker.stop()

    second_worker = worker("other")
    server.deploy(tmp_path)
    parameters = {"profile": "quick", "settings": {"source": "doodles"}, "baseline": experiment}
    second = server.start_run("experiment/on-demand", parameters)
    run = server.wait_for_end(second)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    commit = fake_project.git(repository, "rev-parse", "HEAD")[:7]
    assert run["state"]["message"].startswith(f"equal to {experiment} ({commit}): "), "a clone reads its metrics"
    assert server.stages(second) == dict.fromkeys(ORDER, "Restored")
    assert fake_project.stages_run(second_worker.home) == [], "nothing was computed"


@pytest.mark.parametrize("how", ["cancel", "SIGTERM", "SIGKILL"])
def test_an_ended_run_leaves_no_process_and_the_next_run_resumes(server: Server, deployed: Worker, how: str) -> None:
    fake_project.block(deployed.home, "train")
    settings = {"source": "doodles", "seed": ["cancel", "SIGTERM", "SIGKILL"].index(how) + 10}
    flow_run = server.start_run("experiment/on-demand", {"profile": "quick", "settings": settings})
    [pid] = eventually(lambda: fake_project.blocked(deployed.home))
    stage = psutil.Process(pid)
    chain = [process for process in [stage, *stage.parents()] if process.pid != deployed.process.pid]
    chain = chain[: next(i for i, process in enumerate(chain) if process.pid in (os.getpid(), 1))]
    assert any("prefect" in " ".join(process.cmdline()) for process in chain), "the process of the run is among them"
    eventually(lambda: "train-progress" in server.artifacts(flow_run))
    assert server.artifacts(flow_run)["train-progress"] == 25.0

    if how == "cancel":
        state = {"type": "CANCELLING", "name": "Cancelling"}
        server.call("POST", f"/flow_runs/{flow_run}/set_state", {"state": state})
    else:
        children = psutil.Process(deployed.process.pid).children(recursive=True)
        deployed.process.send_signal(signal.Signals[how])
        assert children
    _, alive = psutil.wait_procs(chain, timeout=120)  # takes ten seconds on an idle machine
    assert alive == [], "no orphan process"
    run = server.wait_for_end(flow_run)
    assert run["state_type"] == ("CANCELLED" if how == "cancel" else "CRASHED")

    fake_project.unblock(deployed.home)
    fake_project.stages_run(deployed.home)
    if how != "cancel":
        deployed.restart()
    resumed = server.start_run("experiment/on-demand", {"profile": "quick", "settings": settings})
    assert server.wait_for_end(resumed)["state_type"] == "COMPLETED"
    ran = fake_project.stages_run(deployed.home)
    assert descendants("train") <= set(ran), "the interrupted stage and the later ones run"
    assert not set(ran) & ancestors("train"), "completed stages do not run again"


def test_a_run_that_is_lost_with_its_machine_ends(server: Server, deployed: Worker) -> None:
    """All processes are killed at once, so that none reports the end. The next run deletes the clone."""
    automation = YAML(typ="safe", pure=True).load(ROOT / "deploy" / "lost-runs.yaml")
    automation["trigger"]["within"] = 60  # seconds; a run reports at its start
    automation_id = server.call("POST", "/automations/", automation)["id"]
    fake_project.block(deployed.home, "train")
    flow_run = server.start_run("experiment/on-demand", {"profile": "quick", "settings": {"seed": 20}})
    eventually(lambda: fake_project.blocked(deployed.home))
    processes = [psutil.Process(deployed.process.pid), *psutil.Process(deployed.process.pid).children(recursive=True)]
    for send in (psutil.Process.suspend, psutil.Process.kill):
        for process in processes:
            send(process)
    run = server.wait_for_end(flow_run)
    server.call("DELETE", f"/automations/{automation_id}")
    assert run["state_type"] == "CRASHED" and "has not reported for ten minutes" in run["state"]["message"]

    fake_project.unblock(deployed.home)
    [left_behind] = deployed.home.glob("tmp*prefect")
    deployed.restart()
    second = server.start_run("experiment/on-demand", {"profile": "quick", "settings": {"seed": 20}})
    assert server.wait_for_end(second)["state_type"] == "COMPLETED"
    assert not left_behind.exists()


@pytest.mark.usefixtures("forms")
def test_a_run_that_kubernetes_evicts_stays_scheduled(
    server: Server, repository: Path, store: Path, tmp_path: Path
) -> None:
    """`prefect flow-run execute` is what runs in the container."""
    fake_project.block(tmp_path, "train")
    flow_run = server.start_run("experiment/on-demand", {"profile": "quick", "settings": {"seed": 21}})
    variables = {
        "TMPDIR": str(tmp_path),
        "FAKE_PROJECT": str(tmp_path),
        "HOME": str(tmp_path),
        "QUICKDRAW_REPOSITORY": str(repository),
        "QUICKDRAW_STORE": f"file://{store}",
        "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "reschedule",
    }
    with (tmp_path / "log").open("wb") as log:
        container = server.start("flow-run", "execute", flow_run, cwd=tmp_path, log=log, **variables)
    eventually(lambda: fake_project.blocked(tmp_path))
    reporters = [
        process
        for process in psutil.Process(container.pid).children(recursive=True)
        if any("watchdog.py" in argument for argument in process.cmdline())
    ]
    assert reporters
    container.terminate()
    container.wait(120)
    _, alive = psutil.wait_procs(reporters, timeout=120)
    assert alive == [] and server.run(flow_run)["state_name"] == "AwaitingRetry", (tmp_path / "log").read_text()
    server.call("DELETE", f"/flow_runs/{flow_run}")


@pytest.mark.usefixtures("forms")
@pytest.mark.parametrize(
    ("deployment", "parameters", "message"),
    [
        ("experiment/on-demand", {"settings": {"num_resnet": 0}}, "'settings.num_resnet'.+less than the minimum of 1"),
        ("experiment/on-demand", {"settings": {"num_resnet": "many"}}, "'settings.num_resnet'.+'many' is not"),
        ("experiment/on-demand", {"settings": {"ema_decay": 1}}, "'settings.ema_decay'.+maximum of 1"),
        ("experiment/on-demand", {"settings": {"dtype": "half"}}, "'settings.dtype'.+'half' is not one of"),
        ("experiment/on-demand", {"settings": {"num_resnt": 3}}, "'settings'.+'num_resnt' was unexpected"),
        ("experiment/on-demand", {"settings": {"classes": ["bee", "bee"]}}, "'settings.classes'.+non-unique elements"),
        ("experiment/on-demand", {"profile": "quik"}, "'profile'.+'quik' is not one of"),
        ("experiment/on-demand", {"name": "a b"}, "'name'.+'a b' does not match"),
        ("sweep/sweep", {"grid": {"num_resnet": [1, 99]}}, r"'grid.num_resnet\[1\]'.+greater than the maximum of 20"),
        ("sweep/sweep", {"slots": -1}, "'slots'.+-1 is less than the minimum of 0"),
        ("sweep/sweep", {"search": {"seed": {"low": -1, "high": 2}}}, "'search.seed.low'.+less than the minimum of 0"),
    ],
)  # fmt: skip
def test_the_server_rejects_invalid_parameters(
    server: Server, deployment: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused, match=f"Validation failed for field {message}"):
        server.start_run(deployment, parameters)


def test_a_run_from_the_command_line_is_a_flow_and_includes_a_new_stage(server: Server, tmp_path: Path) -> None:
    """A stage that is added to dvc.yaml becomes a task, with no change in Python."""
    root = tmp_path / "my project"
    root.mkdir()
    fake_project.write(root, source="doodles")
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
        assert f"report: {root.as_uri()}/reports/index.html\n" in done.stdout
        flow_run = next(flow_run for flow_run in server.runs() if flow_run["id"] in done.stdout + done.stderr)
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
    assert done.stderr.rstrip().splitlines()[-1] == "error: train: the stage is broken"
    assert "Traceback" not in done.stdout + done.stderr
