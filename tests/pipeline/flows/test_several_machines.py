"""Two workers with the real servers: Prefect's on PostgreSQL, and a store on S3. Only the stages are fake."""

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline import dvc
from pipeline.dvc import Outcome, Workspace
from tests import fake_project
from tests.pipeline import s3
from tests.pipeline.postgresql import postgresql
from tests.pipeline.prefect_server import Server, Worker, eventually

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(3600)]

STORE = "s3://bucket/quickdraw"


SWEEP = """
from pipeline.flows.sweep import sweep
grid = {"num_resnet": [1, 2], "seed": [0, 1]}
print(sweep(profile="quick", grid=grid, pool="quickdraw", return_state=True).message)
"""


def test_a_sweep_runs_on_two_workers_of_which_one_is_killed_and_computes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep itself runs on a third machine. Others restore all of its experiments."""
    repository = tmp_path / "origin"
    repository.mkdir()
    fake_project.write(repository, source="doodles")
    (tmp_path / "server").mkdir()
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(s3.moto_server("bucket"))
        database = stack.enter_context(postgresql(tmp_path))
        store = s3.VARIABLES | {"AWS_ENDPOINT_URL": endpoint, "QUICKDRAW_STORE": STORE}
        server = Server(tmp_path / "server", PREFECT_API_DATABASE_CONNECTION_URL=database)
        stack.callback(server.stop)
        workers = []
        for name in ("one", "two"):
            variables = store | {"QUICKDRAW_REPOSITORY": str(repository)}
            workers.append(Worker(server, tmp_path / name, 1, **variables))
            stack.callback(workers[-1].stop)
            fake_project.block(workers[-1].home, "train")
            eventually(lambda: "started!" in workers[-1].log.read_text())
        server.deploy(tmp_path)

        machine = tmp_path / "machine"
        fake_project.git(tmp_path, "clone", "--quiet", str(repository), str(machine))
        sweep = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", SWEEP],
                cwd=machine, env=server.variables | store, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        stack.callback(sweep.kill)
        eventually(lambda: all(fake_project.blocked(worker.home) for worker in workers))  # each trains one
        workers[0].process.send_signal(signal.SIGKILL)
        workers[0].restart()
        for worker in workers:
            fake_project.unblock(worker.home)
        out, log = sweep.communicate(timeout=1800)
        assert re.fullmatch(r"4 experiments; the best is quick-[0-9a-f]{8}\n", out), out + log
        assert re.search(r"quick-\w{8} is lost \(.+\): starting it again", log)
        runs = Counter(run["state_type"] for run in server.runs(name={"like_": "quick-"}))
        assert runs == {"COMPLETED": 4, "CRASHED": 1}

        computed = Counter(
            (entry["settings"]["num_resnet"], entry["settings"]["seed"])
            for worker in workers
            for entry in fake_project.recorded_runs(worker.home)
            if entry["stage"] == "report"
        )
        assert computed == dict.fromkeys([(1, 0), (1, 1), (2, 0), (2, 1)], 1), "each experiment is computed once"

        experiments = dvc.experiment_commits(machine)
        assert len(experiments) == 4 and experiments == dvc.experiment_commits(repository)
        for key, value in store.items():
            monkeypatch.setenv(key, value)
        for name in experiments:
            clone = tmp_path / name
            fake_project.git(tmp_path, "clone", "--quiet", str(repository), str(clone))
            dvc.configure_store(clone, STORE)
            dvc.fetch_experiments(clone, name)
            (clone / "params.yaml").write_bytes(dvc.Snapshot(clone, name).read("params.yaml"))
            assert set(Workspace(clone).reproduce().values()) == {Outcome.RESTORED}
            metrics = json.loads((clone / "reports" / "metrics.json").read_text())
            assert metrics == json.loads(dvc.Snapshot(clone, name).read("reports/metrics.json"))
            assert fake_project.stages_run(clone) == [], "nothing was computed"
