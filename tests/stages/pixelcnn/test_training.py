import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from stages.pixelcnn import network
from stages.pixelcnn.network import Config
from stages.pixelcnn.training import OptimizerConfig, Trainer, bits_per_dim

CONFIG = Config((4, 4, 1), (2,), 1, 1, 4, 2, dropout_p=0.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), np.uint8)
CONDITION = np.eye(2, dtype=np.float32)[np.arange(8) % 2]


def trainer(**options: Any) -> Trainer:
    return Trainer(CONFIG, OptimizerConfig(steps=10, learning_rate=0.01, **options), network.initialise(CONFIG, 0))


def test_a_step_equals_adam_of_tf_keras() -> None:
    import tf_keras

    run = trainer()
    expected = {name: tf.Variable(value) for name, value in network.initialise(CONFIG, 0).items()}
    adam = tf_keras.optimizers.Adam(0.01)
    for step in range(3):
        run.step(step, IMAGES, CONDITION)
        with tf.GradientTape() as tape:
            weights = network.kernels(CONFIG, expected)
            loss = tf.reduce_mean(bits_per_dim(CONFIG, weights, tf.constant(IMAGES), tf.constant(CONDITION)))
        variables = list(expected.values())
        adam.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
    for name, value in expected.items():
        np.testing.assert_allclose(run.weights[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_the_decay_of_the_average_grows_to_its_setting() -> None:
    run = trainer(ema_decay=0.5)
    name = "output/b"
    average = run.averages[name].numpy()
    for step in range(12):
        run.step(step, IMAGES, CONDITION)
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * run.weights[name].numpy()
    np.testing.assert_allclose(run.averages[name], average, rtol=1e-5)


def test_without_averaging_the_averages_are_the_weights() -> None:
    run = trainer()
    assert run.averages is run.weights


def test_the_gradient_is_clipped_to_the_norm() -> None:
    unclipped, clipped = trainer(), trainer(clip_norm=1e-3)
    _, norm = unclipped.step(0, IMAGES, CONDITION)
    assert clipped.step(0, IMAGES, CONDITION)[1] == norm > 1e-3
    moments = tf.linalg.global_norm(list(clipped.first_moments.values()))
    np.testing.assert_allclose(moments, 0.1 * 1e-3, rtol=1e-4)  # Adam's first moment is a tenth of the gradient


def test_the_learning_rate_decays_along_a_cosine() -> None:
    optimizer = OptimizerConfig(steps=100, learning_rate=0.1, learning_rate_decay=0.2)
    rates = [float(optimizer.rate(tf.constant(step))) for step in (0, 50, 100)]
    np.testing.assert_allclose(rates, [0.1, 0.06, 0.02], rtol=1e-5)
    assert float(OptimizerConfig(100, 0.1).rate(tf.constant(100))) == pytest.approx(0.1)


def test_evaluation_does_not_depend_on_the_batch_size() -> None:
    run = trainer()
    whole, parts = run.evaluate(IMAGES, CONDITION, 8), run.evaluate(IMAGES, CONDITION, 3)
    assert whole.shape == (8,)
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


def test_bfloat16_keeps_float32_weights_and_nearly_the_same_loss() -> None:
    full, half = trainer(), trainer(dtype=tf.bfloat16)
    full_loss, half_loss = (float(run.step(0, IMAGES, CONDITION)[0]) for run in (full, half))
    assert full_loss == pytest.approx(half_loss, rel=0.02)
    assert {variable.dtype for variable in half.weights.values()} == {tf.float32}


TWO_DEVICES = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.stages.pixelcnn.test_training import CONDITION, CONFIG, IMAGES
from stages.pixelcnn import network
from stages.pixelcnn.training import OptimizerConfig, Trainer
both = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
optimizer = OptimizerConfig(4, 0.01, ema_decay=0.5)
runs = [Trainer(CONFIG, optimizer, network.initialise(CONFIG, 0), strategy) for strategy in (None, both)]
for step in range(4):
    losses = [float(run.step(step, IMAGES, CONDITION)[0]) for run in runs]
    np.testing.assert_allclose(*losses, rtol=1e-5)
np.testing.assert_allclose(*(run.evaluate(IMAGES, CONDITION, 8) for run in runs), rtol=1e-4)
print("same")
"""


def test_two_devices_compute_the_same_as_one_with_the_same_batch() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([sys.executable, "-c", TWO_DEVICES], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "same", done.stderr[-2000:]
