"""prefect.yaml and the pools, against the flows and the schemas that they are for. No server is needed."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import serve
from tests.settings import ROOT

TEXT: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "prefect.yaml")
DEPLOYMENTS: list[dict[str, Any]] = TEXT["deployments"]
POOLS = sorted((ROOT / "deploy").glob("*.json"))


def test_the_deployments_are_there_and_their_schedules_off() -> None:
    assert {"nightly", "weekly-full", "on-demand", "sweep"} < {deployment["name"] for deployment in DEPLOYMENTS}
    schedules = [schedule for deployment in DEPLOYMENTS for schedule in deployment.get("schedules", [])]
    assert [schedule["active"] for schedule in schedules] == [False, False]


def test_one_flag_turns_the_schedules_on() -> None:
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8").replace("&active false", "&active true")
    deployments = YAML(typ="safe", pure=True).load(text)["deployments"]
    assert all(schedule["active"] for deployment in deployments for schedule in deployment.get("schedules", []))


def test_what_shares_a_workspace_runs_one_at_a_time() -> None:
    for deployment in DEPLOYMENTS:
        if deployment["entrypoint"].endswith(".reproduce"):
            assert deployment["concurrency_limit"]["limit"] == 1


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_a_deployment_is_of_a_flow_that_takes_its_parameters(deployment: dict[str, Any]) -> None:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    flow.validate_parameters(deployment.get("parameters", {}))


@pytest.mark.parametrize("schedules", [False, True])
def test_serving_runs_them_in_the_checkout_at_hand(tmp_path: Path, schedules: bool) -> None:
    assert serve.write_deployments(ROOT, tmp_path / "new" / "prefect.yaml", schedules) == "quickdraw"
    text = json.loads((tmp_path / "new" / "prefect.yaml").read_text())
    assert text["pull"] == [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    assert [one["name"] for one in text["deployments"]] == [one["name"] for one in DEPLOYMENTS]
    for deployment in text["deployments"]:
        assert all(schedule["active"] is schedules for schedule in deployment.get("schedules", []))


def test_one_worker_serves_one_pool(tmp_path: Path) -> None:
    text = {"deployments": [{"name": name, "work_pool": {"name": name}} for name in ("big", "small")]}
    (tmp_path / "prefect.yaml").write_text(json.dumps(text))
    with pytest.raises(serve.ServeError, match=r"prefect.yaml names 2 work pools \(big, small\)"):
        serve.write_deployments(tmp_path, tmp_path / "new.yaml", False)


@pytest.mark.parametrize("path", POOLS, ids=lambda path: path.stem)
def test_a_pool_uses_the_variables_that_it_declares_and_asks_for_a_gpu(path: Path) -> None:
    pool = json.loads(path.read_text(encoding="utf-8"))
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(pool["job_configuration"])))
    assert used == pool["variables"]["properties"].keys()
    assert re.search(r"nvidia", path.read_text(encoding="utf-8"))


def test_the_request_for_a_gpu_is_one_that_docker_takes() -> None:
    from docker.types import DeviceRequest

    pool = json.loads((ROOT / "deploy" / "docker.json").read_text(encoding="utf-8"))
    [request] = pool["variables"]["properties"]["device_requests"]["default"]
    assert DeviceRequest(**request)["Capabilities"] == [["gpu"]]
    assert DeviceRequest(**request)["Count"] == 1
