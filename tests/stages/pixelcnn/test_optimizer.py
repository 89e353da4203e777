"""Muon against its definition: the iteration on the whole kernels, in float64."""

import numpy as np
import pytest
import tensorflow as tf

from stages.pixelcnn import network, optimizer
from stages.pixelcnn.network import Config
from stages.pixelcnn.optimizer import Optimizer, orthogonalise

CONFIG = Config((8, 8, 1), (2,), 1, 2, 4, 2)


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """The iteration as published: five steps on the matrix itself."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.astype(np.float64) / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x.T @ x
        x = a * x + x @ (b * gram + c * gram @ gram)
    return x


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_the_iteration_on_gram_matrices_equals_that_on_the_kernels(scale: float) -> None:
    rng = np.random.default_rng(0)
    matrices = [(rng.normal(size=shape) * scale).astype(np.float32) for shape in [(3, 40, 8), (2, 16, 8), (3, 30, 16)]]
    for matrix, result in zip(matrices, orthogonalise(*map(tf.constant, matrices)), strict=True):
        expected = np.stack([newton_schulz(copy / scale) for copy in matrix])
        np.testing.assert_allclose(result, expected, atol=2e-4)
        values = np.linalg.svd(result, compute_uv=False)
        assert values.min() > 0.65 and values.max() < 1.25


def test_small_singular_values_grow_and_a_zero_gradient_stays_zero() -> None:
    left, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 4)))
    ill_conditioned = (left * [1.0, 0.1, 0.01, 1e-4]).astype(np.float32)[np.newaxis]
    [result] = orthogonalise(tf.constant(ill_conditioned))
    np.testing.assert_allclose(result[0], newton_schulz(ill_conditioned[0]), atol=2e-3)
    assert not np.any(orthogonalise(tf.zeros((2, 6, 3)))[0])


@pytest.mark.parametrize("transposed", [False, True])
def test_kernels_and_matrices_are_inverse(transposed: bool) -> None:
    kernels = tf.reshape(tf.range(2.0 * 3 * 2 * 5 * 4), [2, 3, 2, 5, 4])
    matrices = optimizer.as_matrices(kernels, transposed)
    assert matrices.shape == ((2, 24, 5) if transposed else (2, 30, 4))
    assert tf.reduce_all(optimizer.as_kernels(matrices, kernels.shape, transposed) == kernels)
    # A column of a matrix has all that leads to one output.
    column = kernels[0, :, :, 1] if transposed else kernels[0, ..., 1]
    assert sorted(matrices[0, :, 1].numpy()) == sorted(np.ravel(column))


def test_muon_updates_the_kernels_between_feature_maps() -> None:
    names = optimizer.hidden_kernels(CONFIG)
    assert names == [
        *(f"vertical/{kind}/v" for kind in ("conv1", "conv2")),
        *(f"horizontal/{kind}/v" for kind in ("conv1", "conv2", "skip_down")),
        "vertical/skip_up/v", "horizontal/skip_up/v",
        "vertical/shrink/v", "vertical/grow/v", "horizontal/shrink/v", "horizontal/grow/v",
    ]  # fmt: skip
    for config in (CONFIG, Config((8, 8, 3), None, 1, 2, 4, 2, resnet_activation="elu", use_weight_norm=False)):
        shapes, table = network.shapes(config), network.layers(config)
        for name in optimizer.hidden_kernels(config):
            matrices = optimizer.as_matrices(tf.zeros(shapes[name]), table[name.rpartition("/")[0]].transposed)
            assert matrices.shape[1] >= matrices.shape[2], name


def test_two_steps_of_muon_and_adam() -> None:
    rng = np.random.default_rng(0)
    initial = {name: value.numpy() for name, value in network.initialise(CONFIG, 0).items()}
    weights = {name: tf.Variable(value) for name, value in initial.items()}
    update = Optimizer(CONFIG, weights, muon=True)
    gradients = [
        {name: rng.normal(size=value.shape).astype(np.float32) for name, value in initial.items()} for _ in range(2)
    ]
    for step, gradient in enumerate(gradients):
        update.apply(tf.constant(step), {k: tf.constant(v) for k, v in gradient.items()}, 0.01, 0.05)
    assert set(update.first_moments) == set(weights)
    assert set(update.second_moments) == set(weights) - set(optimizer.hidden_kernels(CONFIG))

    name, first, second = "vertical/conv1/v", *(gradient["vertical/conv1/v"][2] for gradient in gradients)
    expected, moment = initial[name][2], np.zeros_like(first)
    for gradient in (first, second):
        moment = 0.9 * moment + 0.1 * gradient
        direction = (0.9 * moment + 0.1 * gradient).reshape(-1, 4)
        expected = expected - 0.05 * newton_schulz(direction).reshape(expected.shape)
    np.testing.assert_allclose(weights[name][2], expected, atol=1e-4)

    name, first, second = "output/b", *(gradient["output/b"] for gradient in gradients)
    expected, moment, square = initial[name], np.zeros_like(first), np.zeros_like(first)
    for step, gradient in enumerate((first, second), 1):
        moment, square = 0.9 * moment + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        expected = expected - 0.01 * (moment / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-7)
    np.testing.assert_allclose(weights[name], expected, atol=1e-5)
