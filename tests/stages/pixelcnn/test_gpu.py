"""What a GPU computes agrees with what the CPU computes."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from stages.pixelcnn import network, sampling
from stages.pixelcnn.network import Config
from stages.pixelcnn.training import Trainer, TrainingConfig
from tests.settings import ROOT

pytestmark = pytest.mark.gpu

CONFIG = Config((28, 28, 1), (3,), 1, 3, 32, 5, position="coordinates")
RANDOM = np.random.default_rng(0)
IMAGES = np.where(RANDOM.random((8, 28, 28, 1)) < 0.2, RANDOM.integers(0, 256, (8, 28, 28, 1)), 0).astype(np.uint8)
CONDITION = np.eye(3, dtype=np.float32)[RANDOM.integers(0, 3, 8)]
MUON = TrainingConfig(10, 0.003, muon_learning_rate=0.02, ema_decay=0.9, clip_norm=1.0, input_noise=0.1)

# Trains on the GPU, and prints a hash of the state.
DETERMINISTIC = """
import hashlib
from stages.common import device
gpus = device.configure("gpu", deterministic=True)
from tests.stages.pixelcnn.test_gpu import CONDITION, CONFIG, IMAGES, MUON, train
trainer, losses = train(MUON, jit_compile=True)
print(hashlib.sha256(b"".join(array.tobytes() for array in trainer.state().values())).hexdigest())
"""


@pytest.fixture(autouse=True)
def whole_float32() -> Iterator[None]:
    """TensorFloat-32 has 10 bits of a number's 23."""
    enabled = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(enabled)


def train(training: TrainingConfig, jit_compile: bool) -> tuple[Trainer, list[float]]:
    trainer = Trainer(CONFIG, training, network.initialise(CONFIG, 0), jit_compile=jit_compile)
    return trainer, [float(trainer.step(step, IMAGES, CONDITION)[0]) for step in range(5)]


@functools.cache
def expected_losses() -> list[float]:
    with tf.device("/CPU:0"):
        return train(MUON, jit_compile=False)[1]


@pytest.mark.parametrize("jit_compile", [True, False])
def test_training_steps_equal_those_of_the_cpu(jit_compile: bool) -> None:
    np.testing.assert_allclose(train(MUON, jit_compile)[1], expected_losses(), rtol=1e-3)


def test_likelihoods_equal_those_of_the_cpu() -> None:
    trainer, _ = train(MUON, jit_compile=True)
    on_gpu = trainer.evaluate(IMAGES, CONDITION, 8)
    with tf.device("/CPU:0"):
        on_cpu = Trainer(CONFIG, MUON, network.initialise(CONFIG, 0))
        on_cpu.restore(trainer.state())
        np.testing.assert_allclose(on_gpu, on_cpu.evaluate(IMAGES, CONDITION, 8), rtol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_drawings_are_those_of_the_cpu_but_for_rounding(guidance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = network.kernels(CONFIG, train(MUON, jit_compile=True)[0].averages)
    noise = sampling.noise(CONFIG, 3, np.arange(8)[:, np.newaxis])
    sample = functools.partial(
        sampling.sample, CONFIG, weights, noise, CONDITION, guidance=guidance, reference=np.full((8, 3), 1 / 3)
    )
    on_gpu = sample()
    monkeypatch.setattr(sampling, "_has_gpu", lambda: False)
    # A pixel that differs by rounding may change those after it.
    assert (on_gpu == sample()).mean() > 0.9


def test_deterministic_training_gives_the_same_bits_again() -> None:
    def state() -> str:
        process = subprocess.run([sys.executable, "-c", DETERMINISTIC], cwd=ROOT, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return process.stdout

    assert state() == state()
