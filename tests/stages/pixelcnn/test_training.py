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


def trainer(**recipe: Any) -> Trainer:
    return Trainer(CONFIG, OptimizerConfig(steps=10, learning_rate=0.01, **recipe), network.initialise(CONFIG, 0))


def test_a_step_is_tf_keras_adam() -> None:
    import tf_keras

    ours = trainer()
    peers = {name: tf.Variable(value) for name, value in network.initialise(CONFIG, 0).items()}
    adam = tf_keras.optimizers.Adam(0.01)
    for step in range(3):
        ours.step(step, IMAGES, CONDITION)
        with tf.GradientTape() as tape:
            weights = network.kernels(CONFIG, peers)
            loss = tf.reduce_mean(bits_per_dim(CONFIG, weights, tf.constant(IMAGES), tf.constant(CONDITION)))
        variables = list(peers.values())
        adam.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
    for name, peer in peers.items():
        np.testing.assert_allclose(ours.weights[name], peer, rtol=1e-3, atol=1e-5, err_msg=name)


def test_the_average_keeps_little_at_first_and_then_its_share() -> None:
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


def test_the_gradient_is_cut_to_the_norm() -> None:
    free, cut = trainer(), trainer(clip_norm=1e-3)
    _, norm = free.step(0, IMAGES, CONDITION)
    assert cut.step(0, IMAGES, CONDITION)[1] == norm > 1e-3
    moments = tf.linalg.global_norm(list(cut.first_moments.values()))
    np.testing.assert_allclose(moments, 0.1 * 1e-3, rtol=1e-4)  # Adam's first moment keeps a tenth


def test_the_learning_rate_follows_a_cosine_down_to_its_share() -> None:
    recipe = OptimizerConfig(steps=100, learning_rate=0.1, learning_rate_decay=0.2)
    rates = [float(recipe.rate(tf.constant(step))) for step in (0, 50, 100)]
    np.testing.assert_allclose(rates, [0.1, 0.06, 0.02], rtol=1e-5)
    assert float(OptimizerConfig(100, 0.1).rate(tf.constant(100))) == pytest.approx(0.1)


def test_evaluation_does_not_depend_on_the_batch() -> None:
    run = trainer()
    whole, parts = run.evaluate(IMAGES, CONDITION, 8), run.evaluate(IMAGES, CONDITION, 3)
    assert whole.shape == (8,)
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


def test_bfloat16_keeps_weights_in_float32_and_nearly_the_loss() -> None:
    full, half = trainer(), trainer(dtype=tf.bfloat16)
    exact, coarse = (float(run.step(0, IMAGES, CONDITION)[0]) for run in (full, half))
    assert exact == pytest.approx(coarse, rel=0.02)
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
runs = [Trainer(CONFIG, optimizer, network.initialise(CONFIG, 0), s) for s in (None, both)]
for step in range(4):
    one, two = (float(run.step(step, IMAGES, CONDITION)[0]) for run in runs)
    np.testing.assert_allclose(one, two, rtol=1e-5)
one, two = (run.evaluate(IMAGES, CONDITION, 8) for run in runs)
np.testing.assert_allclose(one, two, rtol=1e-4)
print("same")
"""


def test_two_devices_do_what_one_does_with_the_same_batch() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([sys.executable, "-c", TWO_DEVICES], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "same", done.stderr[-2000:]
