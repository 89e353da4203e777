import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from stages.pixelcnn import network
from stages.pixelcnn.network import Config
from stages.pixelcnn.training import Trainer, TrainingConfig, bits_per_dim, replace_pixels

CONFIG = Config((4, 4, 1), (2,), 1, 1, 4, 2, dropout_p=0.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), np.uint8)
CONDITION = np.eye(2, dtype=np.float32)[np.arange(8) % 2]


def trainer(**options: Any) -> Trainer:
    return Trainer(CONFIG, TrainingConfig(steps=10, learning_rate=0.01, **options), network.initialise(CONFIG, 0))


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
    moments = tf.linalg.global_norm(list(clipped.optimizer.first_moments.values()))
    np.testing.assert_allclose(moments, 0.1 * 1e-3, rtol=1e-4)  # Adam's first moment is a tenth of the gradient


def test_the_learning_rates_decay_along_a_cosine() -> None:
    training = TrainingConfig(steps=100, learning_rate=0.1, learning_rate_decay=0.2)
    decays = [float(training.decay(tf.constant(step))) for step in (0, 50, 100)]
    np.testing.assert_allclose(decays, [1.0, 0.6, 0.2], rtol=1e-5)
    assert float(TrainingConfig(100, 0.1).decay(tf.constant(100))) == 1.0


def test_evaluation_does_not_depend_on_the_batch_size() -> None:
    run = trainer()
    whole, parts = run.evaluate(IMAGES, CONDITION, 8), run.evaluate(IMAGES, CONDITION, 3)
    assert whole.shape == (8,)
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


def test_bfloat16_keeps_float32_weights_and_nearly_the_same_loss() -> None:
    full, half = trainer(muon_learning_rate=0.02), trainer(muon_learning_rate=0.02, dtype=tf.bfloat16)
    full_loss, half_loss = (float(run.step(0, IMAGES, CONDITION)[0]) for run in (full, half))
    assert full_loss == pytest.approx(half_loss, rel=0.02)
    assert {variable.dtype for variable in half.weights.values()} == {tf.float32}
    name = "vertical/conv2/v"
    step = half.weights[name] - network.initialise(CONFIG, 0)[name]
    values = np.linalg.svd(tf.reshape(step, [step.shape[0], -1, step.shape[-1]]) / 0.02, compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.25, "Muon's directions are not orthonormal"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_a_step_compiled_by_xla_equals_the_step_without(dtype: tf.DType) -> None:
    training = TrainingConfig(10, 0.01, muon_learning_rate=0.02, ema_decay=0.5, input_noise=0.3, dtype=dtype)
    plain, compiled = (
        Trainer(CONFIG, training, network.initialise(CONFIG, 0), jit_compile=jit_compile)
        for jit_compile in (False, True)
    )
    expected, actual = (float(run.step(0, IMAGES, CONDITION)[0]) for run in (plain, compiled))
    assert actual == pytest.approx(expected, rel=1e-2 if dtype == tf.bfloat16 else 1e-5)


def test_a_share_of_the_pixels_is_replaced_by_those_of_another_image_moved() -> None:
    images = tf.constant(np.arange(6 * 20 * 20 * 2, dtype=np.int32).reshape(6, 20, 20, 2))
    seen = replace_pixels(images, 0.2, tf.constant([1, 2])).numpy()
    replaced = seen != images.numpy()
    assert (replaced[..., 0] == replaced[..., 1]).all(), "channels of one pixel are not replaced together"
    shares = replaced.mean(axis=(1, 2, 3))
    assert 0.05 < shares.mean() < 0.35 and shares.max() < 0.45 and shares.std() > 0.02
    # All pixels come from the batch moved by one shift, and by at least one image.
    origin = np.stack(np.unravel_index(seen[..., 0] // 2, (6, 20, 20)), axis=-1)
    here = np.stack(np.meshgrid(np.arange(6), np.arange(20), np.arange(20), indexing="ij"), axis=-1)
    [shift] = np.unique((here - origin)[replaced[..., 0]] % [6, 20, 20], axis=0)
    assert shift[0] != 0
    assert (replace_pixels(images, 0.0, tf.constant([1, 2])).numpy() == images.numpy()).all()


def test_the_replaced_pixels_depend_on_the_seed_only() -> None:
    images = tf.constant(IMAGES)
    compiled = tf.function(replace_pixels, jit_compile=True)
    same = [function(images, 0.3, tf.constant([1, 7])) for function in (replace_pixels, compiled)]
    np.testing.assert_array_equal(*same)
    others = [replace_pixels(images, 0.3, tf.constant(seed)) for seed in ([1, 8], [2, 7])]
    assert all(np.any(other != same[0]) for other in others)


def test_input_noise_is_in_the_first_three_quarters_of_the_steps_and_only_in_training() -> None:
    clean, noisy = trainer(), trainer(input_noise=0.4)
    np.testing.assert_array_equal(noisy.evaluate(IMAGES, CONDITION, 8), clean.evaluate(IMAGES, CONDITION, 8))
    for step, differs in [(0, True), (6, True), (8, False), (9, False)]:
        for run in (clean, noisy):
            run.restore(trainer().state())
        losses = [float(run.step(step, IMAGES, CONDITION)[0]) for run in (clean, noisy)]
        assert (losses[0] != losses[1]) == differs


TWO_DEVICES = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.stages.pixelcnn.test_training import CONDITION, CONFIG, IMAGES
from stages.pixelcnn import network
from stages.pixelcnn.training import TrainingConfig, Trainer
both = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
training = TrainingConfig(4, 0.01, muon_learning_rate=0.02, ema_decay=0.5, clip_norm=0.5, input_noise=0.3)
runs = [Trainer(CONFIG, training, network.initialise(CONFIG, 0), strategy) for strategy in (None, both)]
for step in range(4):
    losses = [float(run.step(step, IMAGES, CONDITION)[0]) for run in runs]
    np.testing.assert_allclose(*losses, rtol=1e-5)
for name, value in runs[0].state().items():
    np.testing.assert_allclose(value, runs[1].state()[name], atol=1e-3, err_msg=name)
np.testing.assert_allclose(*(run.evaluate(IMAGES, CONDITION, 8) for run in runs), rtol=1e-4)
print("same")
"""


@pytest.mark.slow
def test_two_devices_compute_the_same_as_one_with_the_same_batch() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([sys.executable, "-c", TWO_DEVICES], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "same", done.stderr[-2000:]
