"""prefect.yaml agrees with the flows, and the work pools with their schemas. No server is needed."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.settings.models.flows import FlowsSettings
from ruamel.yaml import YAML

from pipeline import serve
from pipeline.__main__ import main
from tests import fake_project
from tests.settings import ROOT

PREFECT: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "prefect.yaml")
DEPLOYMENTS: list[dict[str, Any]] = PREFECT["deployments"]
# The parameters that a flow cannot do without, and no deployment has: `generate --pool` gives them.
REQUIRED = {"draw": {"destination": "s3://bucket/drawings", "run": "quick-1a2b3c4d", "start": 0, "stop": 32}}
POOLS = sorted((ROOT / "deploy").glob("*.json"))


def test_the_deployments_exist_and_their_schedules_are_off() -> None:
    assert {"nightly", "weekly-full", "on-demand", "sweep"} < {deployment["name"] for deployment in DEPLOYMENTS}
    schedules = [schedule for deployment in DEPLOYMENTS for schedule in deployment.get("schedules", [])]
    assert [schedule["active"] for schedule in schedules] == [False, False]


def test_one_flag_turns_on_all_schedules() -> None:
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8").replace("&active false", "&active true")
    deployments = YAML(typ="safe", pure=True).load(text)["deployments"]
    assert all(schedule["active"] for deployment in deployments for schedule in deployment.get("schedules", []))


def test_runs_that_share_a_workspace_run_one_at_a_time() -> None:
    for deployment in DEPLOYMENTS:
        if deployment["entrypoint"].endswith(".reproduce"):
            assert deployment["concurrency_limit"]["limit"] == 1


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_the_flow_of_a_deployment_accepts_its_parameters(deployment: dict[str, Any]) -> None:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    flow.validate_parameters(REQUIRED.get(name, {}) | deployment.get("parameters", {}))


@pytest.mark.parametrize("schedules", [False, True])
def test_served_deployments_run_in_the_current_checkout(tmp_path: Path, schedules: bool) -> None:
    assert serve.write_deployments(ROOT, tmp_path / "new" / "prefect.yaml", schedules) == "quickdraw"
    served = json.loads((tmp_path / "new" / "prefect.yaml").read_text())
    assert served["pull"] == [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    assert [new["name"] for new in served["deployments"]] == [deployment["name"] for deployment in DEPLOYMENTS]
    for deployment in served["deployments"]:
        assert all(schedule["active"] is schedules for schedule in deployment.get("schedules", []))


def test_served_deployments_of_profiles_have_the_given_mirror(tmp_path: Path) -> None:
    serve.write_deployments(ROOT, tmp_path / "prefect.yaml", True, "../my drawings")
    for deployment in json.loads((tmp_path / "prefect.yaml").read_text())["deployments"]:
        runs_a_profile = deployment["name"] not in ("workspace", "draw")
        settings = {"settings": {"source": "../my drawings"}} if runs_a_profile else {}
        assert deployment.get("parameters", {}).items() >= settings.items()
        assert ("settings" in deployment.get("parameters", {})) is runs_a_profile
        test_the_flow_of_a_deployment_accepts_its_parameters(deployment)


def test_serving_a_folder_that_does_not_exist_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_project.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "--port", "9", "--source", "nowhere"]) == 1
    assert capsys.readouterr().err == f"error: --source: the folder {tmp_path / 'nowhere'} does not exist\n"


def test_serving_several_work_pools_is_an_error(tmp_path: Path) -> None:
    content = {"deployments": [{"name": name, "work_pool": {"name": name}} for name in ("big", "small")]}
    (tmp_path / "prefect.yaml").write_text(json.dumps(content))
    with pytest.raises(serve.ServeError, match=r"prefect.yaml names 2 work pools \(big, small\)"):
        serve.write_deployments(tmp_path, tmp_path / "new.yaml", False)


def test_a_run_that_does_not_report_is_ended_after_several_reports_are_missing() -> None:
    automation = AutomationCore.model_validate(YAML(typ="safe", pure=True).load(ROOT / serve.LOST_RUNS))
    assert automation.name == serve.LOST_RUNS.stem and automation.enabled
    trigger = automation.trigger
    assert isinstance(trigger, EventTrigger) and trigger.within.total_seconds() == 600
    frequency = FlowsSettings.model_fields["heartbeat_frequency"].default
    assert frequency and 3 * frequency <= trigger.within.total_seconds()
    assert trigger.after == {"prefect.flow-run.heartbeat"}
    assert trigger.expect == {"prefect.flow-run.*"}, "a run that was scheduled again does not report, and is not lost"


@pytest.mark.parametrize("path", POOLS, ids=lambda path: path.stem)
def test_a_pool_uses_exactly_its_declared_variables_and_requests_a_gpu(path: Path) -> None:
    pool = json.loads(path.read_text(encoding="utf-8"))
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(pool["job_configuration"])))
    assert used == pool["variables"]["properties"].keys()
    assert re.search(r"nvidia", path.read_text(encoding="utf-8"))


def test_docker_accepts_the_gpu_request() -> None:
    from docker.types import DeviceRequest

    pool = json.loads((ROOT / "deploy" / "docker.json").read_text(encoding="utf-8"))
    [request] = pool["variables"]["properties"]["device_requests"]["default"]
    assert DeviceRequest(**request)["Capabilities"] == [["gpu"]]
    assert DeviceRequest(**request)["Count"] == 1
