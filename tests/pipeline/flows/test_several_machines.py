"""Two workers with the real servers: Prefect's on PostgreSQL, and a store on S3. Only the stages are fake."""

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline import dvc
from pipeline.dvc import Outcome, Workspace
from tests import fake_project
from tests.pipeline import s3
from tests.pipeline.flows.test_flows import deploy
from tests.pipeline.postgresql import postgresql
from tests.pipeline.prefect_server import Server, Worker, eventually

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(3600)]

STORE = "s3://bucket/quickdraw"


def test_two_workers_share_the_work_and_compute_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three runs are started at once, two of them with the same settings. A third machine restores all of them."""
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
            eventually(lambda: "started!" in workers[-1].log.read_text())
        deploy(server, tmp_path)

        settings = [{"num_resnet": number} for number in (1, 1, 2)]
        runs = [
            server.start_run("experiment/on-demand", {"profile": "quick", "settings": change}) for change in settings
        ]
        for run in map(server.wait_for_end, runs):
            assert run["state_type"] == "COMPLETED", run["state"]["message"]
            assert "not pushed" not in run["state"]["message"]
        computed: Counter[Any] = Counter()
        for worker in workers:
            assert worker.log.read_text().count("Finished in state Completed") >= 1, "each has taken part"
            computed.update(
                entry["settings"]["num_resnet"]
                for entry in fake_project.recorded_runs(worker.home)
                if entry["stage"] == "train"
            )
        assert computed == {1: 1, 2: 1}, "each experiment is computed once"
        first, second, _ = (set(server.stages(run).values()) for run in runs)
        assert {"Restored"} in (first, second), "the later one of the same settings has waited"

        experiments = dvc.experiment_commits(repository)
        assert len(experiments) == 2
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
