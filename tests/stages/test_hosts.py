"""Several processes train together, as several hosts do, and one of them can be killed.

Each has a folder and a cache of its own, because hosts share no disk in general.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from stages import extract, filter, params
from tests.settings import ROOT, write

pytestmark = pytest.mark.slow

TINY = {
    "source": "doodles",
    "num_drawings": 1500,
    "prefetch": True,
    "classes": ("bee", "cactus", "tree"),
    "num_resnet": 1,
    "num_hierarchies": 1,
    "num_filters": 4,
    "num_logistic_mix": 2,
    "dropout_p": 0.2,
    "epochs": 200,
    "max_steps": 20,
    "batch_size": 4,
    "optimizer": "muon",
    "ema_decay": 0.9,
    "clip_norm": 1.0,
    "input_noise": 0.2,
    "judge_steps": 5,
    "device": "cpu",
}
# Runs the stage as its command does, but saves a checkpoint after each step.
RUN = """
import sys
from stages import command, train
from stages.common import checkpoints
checkpoints.Checkpoints.due = lambda self: True
raise SystemExit(command.run(train.main, train.__doc__))
"""
# Runs the stage on two devices of one process.
TWO_DEVICES = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from stages import command, train
from stages.common.hosts import Hosts
train.connect = lambda gpus, batch_size: Hosts(strategy=tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
raise SystemExit(command.run(train.main, train.__doc__))
"""


class Host:
    """A host: a folder with the drawings and the settings, and the process that it runs.

    Args:
      folder: has the settings and the drawings.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder.with_name(f"{folder.name}-cache")
        self.log = folder.with_name(f"{folder.name}.log")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *command: str, tf_config: object = None) -> "subprocess.Popen[bytes]":
        """Start Python with these arguments, and with this value of TF_CONFIG."""
        variables = os.environ | {"PYTHONPATH": str(ROOT), "QUICKDRAW_CACHE": str(self.cache)}
        if tf_config:
            variables["TF_CONFIG"] = json.dumps(tf_config)
        variables.pop("DVC_ROOT", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, *command], cwd=self.folder, env=variables, stderr=log)
        return self.process

    def wait(self, seconds: float = 300) -> int:
        assert self.process
        return self.process.wait(seconds)

    def errors(self) -> list[str]:
        """The lines that the process wrote, except for those about its progress."""
        return [line for line in self.log.read_text().splitlines() if not line.startswith("train:")]

    def files(self) -> set[Path]:
        return {path.relative_to(self.folder) for path in self.folder.rglob("*")}

    def weights(self) -> dict[str, Any]:
        return load_file(self.folder / "data" / "train" / "weights.safetensors")

    def losses(self) -> list[float]:
        lines = (self.folder / "data" / "train" / "loss.csv").read_text(encoding="utf-8").splitlines()
        return [float(line.rpartition(",")[2]) for line in lines[1:]]

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


def unused_addresses(count: int) -> list[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for unused in sockets:
            unused.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{unused.getsockname()[1]}" for unused in sockets]


def start(hosts: Sequence[Host]) -> list[str]:
    """Start the training on all hosts, each of which saves a checkpoint after each step, and return their addresses."""
    addresses = unused_addresses(len(hosts))
    for index, host in enumerate(hosts):
        task = {"type": "worker", "index": index}
        host.start("-c", RUN, tf_config={"cluster": {"worker": addresses}, "task": task})
    return addresses


def finish(hosts: Sequence[Host]) -> None:
    assert [host.wait() for host in hosts] == [0, 0], "".join(host.log.read_text() for host in hosts)
    assert [host.errors() for host in hosts] == [[], []]


@contextmanager
def copies(project: Path, folder: Path) -> Iterator[list[Host]]:
    """Two hosts, each with the settings and the drawings of the project."""
    hosts = [Host(Path(shutil.copytree(project, folder / name))) for name in ("first", "second")]
    try:
        yield hosts
    finally:
        for host in hosts:
            host.kill()


@pytest.fixture(scope="module")
def project(full_run: params.Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with settings and drawings."""
    folder = tmp_path_factory.mktemp("hosts") / "project"
    folder.mkdir()
    settings = full_run.model_copy(update=TINY)
    write(folder, settings.model_dump(mode="json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        extract.main(settings)
        filter.main(settings)
    return folder


@pytest.fixture
def hosts(project: Path, tmp_path: Path) -> Iterator[list[Host]]:
    with copies(project, tmp_path) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def trained(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    """Two hosts that have trained, named as Kubernetes' operators name them."""
    with copies(project, tmp_path_factory.mktemp("trained")) as hosts:
        addresses = unused_addresses(2)
        cluster = {"chief": addresses[:1], "worker": addresses[1:]}
        for host, kind in zip(hosts, cluster, strict=True):
            host.start("-m", "stages.train", tf_config={"cluster": cluster, "task": {"type": kind, "index": 0}})
        finish(hosts)
        yield hosts


def test_two_hosts_train_as_two_devices_of_one_process(project: Path, trained: list[Host], tmp_path: Path) -> None:
    """With Muon, dropout, noise and averages. A sum of two numbers does not depend on their order."""
    alone = Host(Path(shutil.copytree(project, tmp_path / "alone")))
    alone.start("-c", TWO_DEVICES)
    assert alone.wait() == 0, alone.log.read_text()
    chief = trained[0]
    np.testing.assert_allclose(chief.losses(), alone.losses(), rtol=1e-6)
    for name, value in chief.weights().items():
        np.testing.assert_allclose(value, alone.weights()[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_only_the_chief_writes(project: Path, trained: list[Host]) -> None:
    before, chief, other = Host(project).files(), trained[0].files(), trained[1].files()
    names = ("config.json", "film.safetensors", "loss.csv", "weights.safetensors")
    assert chief - before == {Path("data/train"), *(Path("data/train", name) for name in names)}
    assert other == before and not trained[1].cache.exists()


def test_if_a_host_is_killed_all_end_and_the_same_command_goes_on(hosts: list[Host], trained: list[Host]) -> None:
    chief = hosts[0]
    for killed, step, resumption in ((1, 5, "step "), (0, 10, "the chief's last checkpoint")):
        addresses = start(hosts)
        while not any(int(path.stem) >= step for path in chief.cache.glob("checkpoints/*/0*.safetensors")):
            assert None in [host.process and host.process.poll() for host in hosts], chief.log.read_text()
            time.sleep(0.02)
        hosts[killed].kill()
        assert hosts[1 - killed].wait(60) == 1, "it ends within a minute"
        [error] = hosts[1 - killed].errors()
        gone = f"error: host {killed + 1} of 2, {addresses[killed]}, is gone: run the same command on all hosts again"
        assert error.startswith(f"{gone}, which goes on from {resumption}")
        assert not (chief.folder / "data" / "train").exists()
    start(hosts)
    finish(hosts)
    assert all("train: resumes after step " in host.log.read_text() for host in hosts)
    assert not list(chief.cache.glob("checkpoints/*")), "a finished run deletes its checkpoints"
    assert chief.losses() == trained[0].losses()
    for name, value in chief.weights().items():
        np.testing.assert_array_equal(value, trained[0].weights()[name], err_msg=name)


def test_hosts_with_different_settings_do_not_train(hosts: list[Host]) -> None:
    text = (hosts[1].folder / "params.yaml").read_text(encoding="utf-8")
    (hosts[1].folder / "params.yaml").write_text(text.replace("num_filters: 4", "num_filters: 8"), encoding="utf-8")
    addresses = start(hosts)
    assert [host.wait() for host in hosts] == [1, 1]
    [[gone], [differs]] = [host.errors() for host in hosts]
    assert gone.startswith(f"error: host 2 of 2, {addresses[1]}, is gone: run the same command on all hosts again")
    assert differs.startswith(f"error: host 2 of 2, {addresses[1]}, differs from the chief, {addresses[0]}, in the ")


def test_a_host_that_waits_for_the_others_can_be_interrupted(hosts: list[Host]) -> None:
    waiting = hosts[0]
    task = {"type": "worker", "index": 0}
    process = waiting.start("-m", "stages.train", tf_config={"cluster": {"worker": unused_addresses(2)}, "task": task})
    while "waits until all have started" not in waiting.log.read_text():
        time.sleep(0.1)
    time.sleep(2)  # until TensorFlow waits
    process.send_signal(signal.SIGINT)
    assert waiting.wait(20) == -signal.SIGINT
    assert not (waiting.folder / "data" / "train").exists()


def test_other_stages_do_not_look_at_the_hosts(hosts: list[Host]) -> None:
    with_hosts, without = hosts
    task = {"type": "worker", "index": 1}
    with_hosts.start("-m", "stages.judge", tf_config={"cluster": {"worker": unused_addresses(2)}, "task": task})
    without.start("-m", "stages.judge")
    assert [host.wait() for host in hosts] == [0, 0], with_hosts.log.read_text()
    contents = [{path.name: path.read_bytes() for path in (host.folder / "data" / "judge").iterdir()} for host in hosts]
    assert contents[0] == contents[1] and contents[0]
