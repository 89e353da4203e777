import os
import subprocess
import sys

import pytest

from stages.common import device
from stages.common.errors import SettingsError


def test_a_gpu_that_is_not_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(SettingsError, match="device is gpu, and TensorFlow sees none here"):
        device.configure("gpu")


@pytest.mark.parametrize(
    ("gpus", "deterministic", "repeats"),
    [([], False, True), ([], True, True), (["GPU:0"], False, False), (["GPU:0"], True, True)],
)
def test_a_cpu_repeats_itself_and_a_gpu_where_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch, gpus: list[str], deterministic: bool, repeats: bool
) -> None:
    import tensorflow as tf

    told: list[str] = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda gpus, kind: None)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, grow: None)
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: told.append("repeat"))
    assert device.configure("cpu" if not gpus else "gpu", deterministic) == gpus
    assert bool(told) is repeats


def test_auto_says_what_it_took_and_tensorflow_says_nothing() -> None:
    command = (
        "from stages.common import device; device.configure('auto'); "
        "import tensorflow as tf; print(float(tf.constant(1.0)))"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "1.0\n"
    assert done.stderr == "device: auto took the CPU; TensorFlow sees no GPU\n"


def test_one_device_needs_no_strategy_and_several_share_a_batch_evenly() -> None:
    assert device.strategy([], 32) is device.strategy(["GPU:0"], 32) is None
    with pytest.raises(SettingsError, match="permitted with 3 GPUs: a multiple of 3"):
        device.strategy(["GPU:0", "GPU:1", "GPU:2"], 32)
