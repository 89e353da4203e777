"""The flow `sweep` with a real Prefect server, real workers and DVC; only the stages are fake."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import dvc
from stages import params
from tests import fake_project
from tests.pipeline.prefect_server import Server, Worker, eventually

# Longer than several calls of `eventually`, which may each wait long on a busy machine.
pytestmark = [pytest.mark.prefect, pytest.mark.timeout(3600)]


def test_a_sweep_runs_three_experiments_in_parallel_and_one_may_fail(
    server: Server, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    """In a checkout, as with `python -m pipeline serve`."""
    root = tmp_path / "checkout"
    root.mkdir()
    fake_project.write(root, source="doodles")
    started = worker(QUICKDRAW_STORE="")

    def run_in_checkout(content: dict[str, Any]) -> None:
        content["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": str(root)}}]

    server.deploy(tmp_path, run_in_checkout)
    parameters = {"profile": "quick", "settings": {"source": "doodles"}, "slots": 3}
    fake_project.block(started.home, "train")
    first = server.start_run("sweep/sweep", parameters | {"grid": {"num_resnet": [1, 2, 3]}})
    eventually(lambda: len(fake_project.blocked(started.home)) == 3)
    fake_project.unblock(started.home)
    run = server.wait_for_end(first)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    table = server.artifacts(first)["sweep"]
    assert {row["num_resnet"] for row in table} == {1, 2, 3}
    bits_per_dim = [row["heldout_bits_per_dim"] for row in table]
    assert bits_per_dim == sorted(bits_per_dim)
    names = [row["experiment"] for row in table]
    assert set(dvc.experiment_commits(root)) == set(names)
    reports = set()
    for row in table:
        settings = params.parse(dvc.Snapshot(root, row["experiment"]).read("params.yaml").decode(), "")
        assert settings["num_resnet"] == row["num_resnet"]
        assert dvc.metrics(root, row["experiment"])["heldout_bits_per_dim"] == row["heldout_bits_per_dim"]
        reports.add(dvc.Snapshot(root, row["experiment"]).read("reports/index.html"))
    assert len(reports) == 3
    result = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "show", "--csv"], cwd=root, capture_output=True, text=True, check=True
    )
    assert all(name in result.stdout for name in names)
    assert fake_project.git(root, "status", "--porcelain") == "", "the checkout has not changed"

    (started.home / "broken").write_text("train where num_resnet=5")
    second = server.start_run("sweep/sweep", parameters | {"grid": {"num_resnet": [4, 5, 6]}})
    run = server.wait_for_end(second)
    assert run["state_type"] == "FAILED"
    assert run["state"]["message"].startswith("1 of 3 experiments failed: quick-")
    table = server.artifacts(second)["sweep"]
    assert [row["num_resnet"] for row in table][-1] == 5
    assert table[-1]["state"].endswith("train: the stage is broken")
    assert {row["experiment"] for row in table[:-1]} <= set(dvc.experiment_commits(root))
    assert len(dvc.experiment_commits(root)) == 5


def test_a_sweep_over_a_pool_that_was_killed_waits_for_its_runs_and_is_cancelled_with_them(
    server: Server, deployed: Worker
) -> None:
    fake_project.block(deployed.home, "train")
    parameters = {"profile": "quick", "grid": {"seed": [30, 31]}, "pool": "quickdraw"}
    first = server.start_run("sweep/sweep", parameters)

    def children() -> list[dict[str, Any]]:
        """The experiments of the sweep; each trains."""
        runs = [
            run
            for run in server.runs(name={"like_": "quick-"})
            if run["parameters"].get("settings", {}).get("seed") in (30, 31)
        ]
        return runs if len(runs) >= 2 and all(server.stages(run["id"]).get("train") for run in runs) else []

    eventually(lambda: len(fake_project.blocked(deployed.home)) == 2)
    before = eventually(children)
    [process] = [
        process
        for process in psutil.Process(deployed.process.pid).children()
        if process.environ().get("PREFECT__FLOW_RUN_ID") == first
    ]
    process.kill()
    assert server.wait_for_end(first)["state_type"] == "CRASHED"
    second = server.start_run("sweep/sweep", parameters)
    eventually(lambda: server.logs(second).count("is in the pool already: waiting for it") == 2)
    assert "This run is in the pool quickdraw itself" in server.logs(second)
    assert {run["id"] for run in children()} == {run["id"] for run in before}, "none is started twice"
    state = {"type": "CANCELLING", "name": "Cancelling"}
    server.call("POST", f"/flow_runs/{second}/set_state", {"state": state})
    assert server.wait_for_end(second)["state_type"] == "CANCELLED"
    assert [server.wait_for_end(run["id"])["state_type"] for run in before] == ["CANCELLED"] * 2
    fake_project.unblock(deployed.home)
