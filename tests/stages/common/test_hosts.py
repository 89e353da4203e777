import json
import os
import re
import socket
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from stages.common import hosts
from stages.common.errors import SettingsError, StageError
from stages.common.hosts import Hosts
from tests.settings import ROOT
from tests.test_graph import ORDER, modules_imported

PAIR = Hosts(["a.example:2222", "b.example:2222"], 1)


def config(cluster: object, kind: object = "worker", index: object = 0) -> str:
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}, "environment": "cloud"})


def test_the_first_host_is_the_chief() -> None:
    workers = {"worker": ["a:1", "b:2", "[::1]:3"]}
    assert hosts.read(config(workers, index=2)) == (["a:1", "b:2", "[::1]:3"], 2)
    named = {"worker": ["b:2", "c-0.jobs.svc:3"], "chief": ["a:1"]}
    assert hosts.read(config(named, "chief")) == (["a:1", "b:2", "c-0.jobs.svc:3"], 0)
    assert hosts.read(config(named, index=1)) == (["a:1", "b:2", "c-0.jobs.svc:3"], 2)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"cluster": {}}', config({"worker": ["a:1"]}), config({"chief": ["a:1"]}, "chief")]
)
def test_a_single_host_trains_as_without_the_variable(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    assert hosts.connect([], 3) == hosts.connect(["GPU:0"], 3) == hosts.ALONE
    with pytest.raises(SettingsError, match=r"^batch_size is 32; expected with 3 GPUs: a multiple of 3$"):
        hosts.connect(["GPU:0", "GPU:1", "GPU:2"], 32)


TWO = {"worker": ["a:1", "b:2"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", 'TF_CONFIG is {, which is not JSON; expected: JSON such as {"cluster": '),
        ("[" * 100_000, "which is not JSON"),
        ("[]", "TF_CONFIG is [], without a cluster or a task"),
        ("7", "TF_CONFIG is 7, without a cluster or a task"),
        (json.dumps({"cluster": TWO}), "without a cluster or a task"),
        (json.dumps({"task": {"type": "worker", "index": 0}}), "without a cluster or a task"),
        (json.dumps({"cluster": TWO, "task": 0}), "without a cluster or a task"),
        (config(TWO, None), "task type None; expected: chief or worker"),
        (config(TWO, "evaluator"), "task type evaluator; expected: chief or worker, because every host trains"),
        (config(TWO | {"ps": ["c:3"]}), "task type ps; expected: chief or worker"),
        (config(TWO | {"evaluator": ["c:3"]}), "start the job without hosts of other types"),
        (config(TWO, index=2), "says that this host is worker 2; expected: one of worker 0, worker 1"),
        (config(TWO, index=-1), "says that this host is worker -1"),
        (config(TWO, index="0"), "says that this host is worker 0; expected"),
        (config(TWO, index=None), "says that this host is worker None"),
        (config(TWO, index=True), "says that this host is worker True"),
        (config(TWO, "chief"), "says that this host is chief 0; expected: one of worker 0, worker 1"),
        (config({"worker": "a:1"}), "TF_CONFIG: worker is a:1; expected: a list of host:port"),
        (config({"worker": ["a"]}), "expected: a list of host:port"),
        (config({"worker": ["a:65536", "b:1"]}), "expected: a list of host:port"),
        (config({"worker": ["a:1\n"]}), "expected: a list of host:port"),
        (config({"worker": [["a:1"]]}), "expected: a list of host:port"),
        (config({"worker": ["a:1", "a:1"]}), "TF_CONFIG lists a:1, a:1; expected: each address once"),
    ],
)
def test_a_variable_that_cannot_be_used_is_a_settings_error(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        hosts.connect([], 32)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("gpus", "message"),
    [(0, "expected with 2 hosts: a multiple of 2"), (3, "expected with 2 hosts of 3 GPUs: a multiple of 6")],
)
def test_all_devices_of_all_hosts_split_a_batch_evenly(
    gpus: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", config(TWO))
    with pytest.raises(SettingsError, match=f"^batch_size is 9; {message}$"):
        hosts.connect([f"GPU:{number}" for number in range(gpus)], 9)


def test_a_host_that_trains_alone_exchanges_nothing() -> None:
    arrays = {"a": np.arange(3)}
    assert hosts.ALONE.is_chief and hosts.ALONE.from_chief(arrays) is arrays
    hosts.ALONE.check_same("0123456789abcdef" * 2)
    hosts.ALONE.end()
    with pytest.raises(ZeroDivisionError), hosts.ALONE.reporting_lost(str):
        raise ZeroDivisionError


LOST = "is gone: run the same command on all hosts again, which goes on from step 7"


# What TensorFlow 2.21 says if a host ended, was killed or was stopped, and if it does not say which.
@pytest.mark.parametrize(
    ("kind", "message", "named"),
    [
        (
            "Unavailable",
            "Collective ops is aborted by: Error reported from /job:worker/task:0: The following tasks are unhealthy "
            "(stopped sending heartbeats):\n/job:worker/replica:0/task:0\nThe tasks have crashed.",
            "host 1 of 2, a.example:2222,",
        ),
        (
            "Unavailable",
            "Collective ops is aborted by: recvmsg:Connection reset by peer\nAdditional GRPC error information from "
            "remote target /job:worker/replica:0/task:0 while calling /tensorflow.WorkerService/CompleteInstance",
            "host 1 of 2, a.example:2222,",
        ),
        (
            "DeadlineExceeded",
            "Deadline Exceeded\n\nRPC: /tensorflow.CoordinationService/Heartbeat",
            "host 1 of 2, a.example:2222,",
        ),
        ("Unavailable", "Socket closed, seen by /job:worker/replica:0/task:1", "another host"),
    ],
)
def test_a_host_that_is_gone_is_named(kind: str, message: str, named: str) -> None:
    import tensorflow as tf

    error = getattr(tf.errors, f"{kind}Error")(None, None, message)
    with pytest.raises(StageError) as caught, PAIR.reporting_lost(lambda: "from step 7"):
        raise error
    assert str(caught.value) == f"{named} {LOST}"


@pytest.mark.parametrize("kind", ["ResourceExhausted", "InvalidArgument", "Internal"])
def test_another_error_of_tensorflow_is_not_a_lost_host(kind: str) -> None:
    import tensorflow as tf

    error = getattr(tf.errors, f"{kind}Error")(None, None, "OOM when allocating on /job:worker/replica:0/task:0")
    with pytest.raises(type(error)), PAIR.reporting_lost(lambda: "from step 7"):
        raise error


def test_a_port_that_is_in_use_is_one_line() -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        address = f"127.0.0.1:{used.getsockname()[1]}"
        variables: dict[str, Any] = os.environ | {"TF_CONFIG": config({"worker": [address, "127.0.0.1:1"]})}
        code = "from stages.common import device, errors, hosts; device.configure('cpu'); "
        code += "raise SystemExit(errors.reporting_errors(lambda: hosts.connect([], 4)))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
        )
    waits, error = done.stderr.splitlines()
    assert done.returncode == 1 and waits == f"train: host 1 of 2, {address}, waits until all have started"
    assert error.startswith(f"error: host 1 of 2, {address}, cannot accept connections (")


def test_only_the_stage_train_looks_at_the_hosts() -> None:
    texts = {
        path: path.read_text(encoding="utf-8") for top in ("stages", "pipeline") for path in (ROOT / top).rglob("*.py")
    }
    assert {path.name for path, text in texts.items() if "TF_CONFIG" in text} == {"hosts.py", "train.py"}
    users = {path.stem for path in texts if "stages.common.hosts" in modules_imported(path)}
    assert users == {"train"} and users < set(ORDER)
