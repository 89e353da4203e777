import os
import platform
import subprocess
import sys

import pytest

from stages.common import device
from stages.common.errors import SettingsError


def test_a_missing_gpu_is_a_settings_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(SettingsError, match="device is gpu, and TensorFlow sees no GPU"):
        device.configure("gpu")


@pytest.mark.parametrize(
    ("gpus", "deterministic", "expected"),
    [([], False, True), ([], True, True), (["GPU:0"], False, False), (["GPU:0"], True, True)],
)
def test_a_cpu_is_always_deterministic_and_a_gpu_on_request(
    monkeypatch: pytest.MonkeyPatch, gpus: list[str], deterministic: bool, expected: bool
) -> None:
    import tensorflow as tf

    calls: list[str] = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda gpus, kind: None)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, grow: None)
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: calls.append("deterministic"))
    assert device.configure("cpu" if not gpus else "gpu", deterministic) == gpus
    assert bool(calls) is expected


def test_auto_prints_the_device_and_tensorflow_prints_nothing() -> None:
    command = "from stages.common import device; device.configure('auto'); import tensorflow as tf; "
    command += "print(float(tf.constant(1.0)))"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    result = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout == "1.0\n"
    assert result.stderr == "device: auto uses the CPU; TensorFlow sees no GPU\n"


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="this build has no oneDNN")
@pytest.mark.parametrize(("asked", "expected"), [(None, "True"), ("0", "False")])
def test_a_cpu_convolves_with_onednn_unless_the_user_says_otherwise(asked: str | None, expected: str) -> None:
    command = "from stages.common import device; device.configure('cpu'); "
    command += "from tensorflow.python.framework import test_util; print(test_util.IsMklEnabled())"
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    if asked:
        environment["TF_ENABLE_ONEDNN_OPTS"] = asked
    result = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout == f"{expected}\n"
