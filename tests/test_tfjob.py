"""The job of deploy/tfjob.yaml starts the hosts of one training. No cluster is needed."""

import json
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages import params
from stages.common import hosts
from tests.settings import ROOT

JOB: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "deploy" / "tfjob.yaml")
REPLICAS: dict[str, dict[str, Any]] = JOB["spec"]["tfReplicaSpecs"]
STAGES: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]


def tf_config(kind: str, index: int, workers: int) -> str:
    """What the operator gives to a host; it names the types in lower case, and the port is 2222 by default."""
    counts = {name.lower(): replica["replicas"] for name, replica in REPLICAS.items()} | {"worker": workers}
    cluster = {
        name: [f"{JOB['metadata']['name']}-{name}-{number}.default.svc:2222" for number in range(count)]
        for name, count in counts.items()
    }
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}, "environment": "cloud"})


@pytest.mark.parametrize("workers", [1, 3])
def test_every_host_accepts_what_the_operator_gives_it(workers: int) -> None:
    chief, index = hosts.read(tf_config("chief", 0, workers))
    assert index == 0 and len(chief) == 1 + workers
    for number in range(workers):
        assert hosts.read(tf_config("worker", number, workers)) == (chief, 1 + number)


def test_the_chief_runs_the_stage_through_dvc_and_the_others_run_its_command() -> None:
    commands = {name: container(replica)["command"] for name, replica in REPLICAS.items()}
    assert commands == {
        "Chief": ["dvc", "repro", "--single-item", "train"],
        "Worker": STAGES["train"]["cmd"].split(),
    }


def test_the_hosts_are_alike_and_start_again() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("kubeflow.org/v1", "TFJob")
    assert REPLICAS["Chief"]["replicas"] == 1
    chief, worker = ({**container(replica)} for replica in REPLICAS.values())
    for key in ("name", "image", "workingDir", "resources", "volumeMounts"):
        assert chief[key] == worker[key]
    assert chief["name"] == "tensorflow"
    assert {replica["restartPolicy"] for replica in REPLICAS.values()} == {"OnFailure"}
    volumes, others = (replica["template"]["spec"]["volumes"] for replica in REPLICAS.values())
    assert volumes == others and {volume["name"] for volume in volumes} == {
        mount["name"] for mount in chief["volumeMounts"]
    }
    [cache] = chief["env"]
    [claim] = [mount["mountPath"] for mount in chief["volumeMounts"] if mount["name"] == "work"]
    assert cache["name"] == "QUICKDRAW_CACHE" and cache["value"].startswith(f"{claim}/")
    assert chief["workingDir"].startswith(f"{claim}/")


def test_the_full_run_can_be_split_over_its_hosts(full_run: params.Params) -> None:
    gpus = [
        replica["replicas"] * container(replica)["resources"]["limits"]["nvidia.com/gpu"]
        for replica in REPLICAS.values()
    ]
    assert full_run.batch_size % sum(gpus) == 0


def container(replica: dict[str, Any]) -> dict[str, Any]:
    [only] = replica["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only
