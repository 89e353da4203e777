"""The distribution compared with TFP's: equal where TFP's is correct, and correct where TFP's is not.

The environment variable `STEPS` is the number of steps of each long training, for example `STEPS=2000`.
"""

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
import tf_keras
from tensorflow_probability import distributions as tfd

from stages.pixelcnn import PixelCNN, network, sampling, tfp_weights
from stages.pixelcnn.network import Config
from tests.stages.pixelcnn import tfp_reference
from tests.stages.pixelcnn.tfp_reference import condition, images

STEPS = int(os.environ.get("STEPS", "300"))
TINY = Config((4, 4, 1), (2,), 1, 1, 4, 2)
# Twelve architectures, which cover every argument of the constructor that changes the computation. TFP takes up to a
# minute to build the larger ones.
FEW = {
    "one level, a label": Config((4, 6, 1), (), 1, 1, 4, 2),
    "three channels, a vector, no weight norm": Config((8, 4, 3), (5,), 1, 2, 4, 3, use_weight_norm=False),
}
MANY = {
    "one channel": Config((8, 8, 1), None, 1, 2, 5, 3),
    "three channels": Config((8, 8, 3), None, 1, 2, 4, 2),
    "two channels, a matrix, three levels": Config((8, 8, 2), (2, 3), 1, 3, 3, 2),
    "three levels": Config((12, 8, 1), None, 1, 3, 4, 2, resnet_activation="elu"),
    "deeper": Config((4, 4, 1), (3,), 3, 2, 4, 5),
    "another range, relu": Config((8, 8, 1), None, 1, 2, 4, 2, resnet_activation="relu", low=-3, high=4),
    "wide field": Config((8, 8, 1), (), 1, 2, 4, 2, receptive_field_dims=(3, 5)),
    "high field, three channels": Config((8, 8, 3), None, 1, 2, 4, 2, receptive_field_dims=(4, 5)),
    "small field": Config((6, 6, 1), None, 2, 1, 4, 2, receptive_field_dims=(2, 3)),
    "no weight norm, elu": Config((8, 8, 1), (2,), 2, 3, 4, 2, use_weight_norm=False, resnet_activation="elu"),
}
ARCHITECTURES = [
    *(pytest.param(config, id=name) for name, config in FEW.items()),
    *(pytest.param(config, id=name, marks=pytest.mark.slow) for name, config in MANY.items()),
]


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Runs without XLA, whose compilation would take most of the time for a small network."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Equal within a tolerance relative to the largest value."""
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * float(np.abs(expected).max()))


def assert_equal(dist: PixelCNN, tfp_dist: tfd.PixelCNN) -> None:
    """Parameters of the mixture and log-probabilities are equal within 1e-4."""
    config = dist.config
    x, conditional = images(config, 3, seed=1), condition(config, 3)
    scaled = 2 * (x - config.low) / (config.high - config.low) - 1
    inputs = [scaled, *conditional.values()] if conditional else scaled
    for actual, expected in zip(dist.network(inputs), tfp_dist.network(inputs), strict=True):
        assert actual.shape == expected.shape
        assert_close(actual, expected, 1e-4)
    np.testing.assert_allclose(dist.log_prob(x, **conditional), tfp_dist.log_prob(x, **conditional), rtol=1e-4)


def train(dist: tfd.PixelCNN, config: Config) -> npt.NDArray[np.float32]:
    """Train for two steps of Adam without dropout, and return the losses."""
    adam = tf_keras.optimizers.Adam(0.01)
    losses = []
    for step in range(2):
        x, conditional = images(config, 4, seed=10 + step), condition(config, 4, seed=step)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(dist.log_prob(x, **conditional, training=False))
        variables = dist.trainable_variables
        adam.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        losses.append(loss.numpy())
    return np.array(losses)


# ---------------------------------------------------------------------------------------------------------------------
# Equality with TFP
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ARCHITECTURES)
def test_equals_tfp_with_random_and_with_trained_weights(config: Config) -> None:
    tfp_dist, dist = tfp_reference.tfp_distribution(config), tfp_reference.random_distribution(config, 1)
    tfp_weights.to_tfp(tfp_dist, config, dist.network.parameters, True)
    assert_equal(dist, tfp_dist)
    # Train both, and compare the losses and the trained distributions.
    losses = train(tfp_dist, config)
    assert_equal(PixelCNN.from_tfp(tfp_dist), tfp_dist)
    np.testing.assert_allclose(train(dist, config), losses, rtol=1e-3)
    tfp_weights.to_tfp(tfp_dist, config, dist.network.parameters, True)
    assert_equal(dist, tfp_dist)


@pytest.mark.parametrize("config", ARCHITECTURES)
def test_gradients_equal_those_of_tfp(config: Config) -> None:
    tfp_dist, dist = tfp_reference.tfp_distribution(config), tfp_reference.random_distribution(config, 2)
    tfp_weights.to_tfp(tfp_dist, config, dist.network.parameters, True)
    x, conditional = images(config, 3, seed=3), condition(config, 3)
    gradients = []
    for distribution in (dist, tfp_dist):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(distribution.log_prob(x, **conditional))
        gradients.append(tape.gradient(loss, distribution.trainable_variables))
    actual = dict(zip((v.name.removesuffix(":0") for v in dist.trainable_variables), gradients[0], strict=True))
    # Converts TFP's gradients to the layout of this package by treating them as weights.
    for variable, gradient in zip(tfp_dist.trainable_variables, gradients[1], strict=True):
        variable.assign(gradient)
    expected, _ = tfp_weights.from_tfp(tfp_dist, config)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(actual[name], value, 1e-3)


@pytest.mark.parametrize("config", ARCHITECTURES)
def test_weights_are_converted_exactly_in_both_directions(config: Config) -> None:
    dist, tfp_dist = tfp_reference.random_distribution(config, 3), tfp_reference.tfp_distribution(config)
    tfp_weights.to_tfp(tfp_dist, config, dist.network.parameters, True)
    before = [variable.numpy() for variable in tfp_dist.variables]
    tfp_reference.apply_masks(tfp_dist)
    converted = PixelCNN.from_tfp(tfp_dist)
    for name, value in dist.network.parameters.items():
        np.testing.assert_array_equal(converted.network.parameters[name], value)
    for variable in tfp_dist.variables:
        variable.assign(tf.zeros_like(variable))
    tfp_weights.to_tfp(tfp_dist, config, converted.network.parameters, True)
    for variable, value in zip(tfp_dist.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("config", ARCHITECTURES)
def test_data_dependent_initialisation_equals_that_of_tfps_masked_network(config: Config) -> None:
    dist, tfp_dist = PixelCNN(**dataclasses.asdict(config), seed=5), tfp_reference.tfp_distribution(config)
    x, conditional = images(config, 8, seed=6), condition(config, 8)
    tfp_weights.to_tfp(tfp_dist, config, dist.network.parameters, False)
    assert bool(dist.network.initialised) == (not config.use_weight_norm)
    expected = tfp_dist.log_prob(x, **conditional)
    np.testing.assert_allclose(dist.log_prob(x, **conditional), expected, rtol=1e-4)
    for name, value in tfp_weights.from_tfp(tfp_dist, config)[0].items():
        assert_close(dist.network.parameters[name], value, 1e-3)
    # Only the first batch initialises.
    before = dist.log_prob(x, **conditional)
    dist.log_prob(images(config, 8, seed=7), **conditional)
    np.testing.assert_array_equal(dist.log_prob(x, **conditional), before)


def test_an_untrained_network_of_tfp_is_masked_when_converted() -> None:
    config = FEW["one level, a label"]
    tfp_dist = tfp_reference.tfp_distribution(config)
    tfp_weights.to_tfp(tfp_dist, config, network.initialise(config, 0), False)
    for variable in tfp_dist.trainable_variables:  # like TFP's initialiser, which leaves no tap zero
        if variable.shape.rank == 4:
            variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    dist = PixelCNN.from_tfp(tfp_dist)
    assert not dist.network.initialised
    tfp_reference.apply_masks(tfp_dist)
    x, conditional = images(config, 4), condition(config, 4)
    np.testing.assert_allclose(dist.log_prob(x, **conditional), tfp_dist.log_prob(x, **conditional), rtol=1e-4)
    # Converted to TFP before its first batch, it is still uninitialised.
    tfp_weights.to_tfp(tfp_dist, config, network.initialise(config, 0), False)
    weights, initialised = tfp_weights.from_tfp(tfp_dist, config)
    assert not initialised
    for name, value in network.initialise(config, 0).items():
        np.testing.assert_array_equal(weights[name], value)


def test_to_tfp_returns_tfps_distribution() -> None:
    config = Config((4, 4, 1), None, 1, 1, 4, 2, use_weight_norm=False)
    dist = tfp_reference.random_distribution(config, 4)
    tfp_dist = dist.to_tfp()
    assert type(tfp_dist) is tfd.PixelCNN
    assert_equal(dist, tfp_dist)
    with_position = PixelCNN(**dataclasses.asdict(dataclasses.replace(config, position="ones")))
    with pytest.raises(ValueError, match="position is 'ones'; TFP's network needs position 'none'"):
        with_position.to_tfp()
    padded = PixelCNN(**dataclasses.asdict(dataclasses.replace(config, image_shape=(5, 4, 1), num_hierarchies=2)))
    with pytest.raises(ValueError, match=r"\(5, 4, 1\); TFP's network needs height and width divisible by 2"):
        padded.to_tfp()


# ---------------------------------------------------------------------------------------------------------------------
# The interface of tfd.PixelCNN
# ---------------------------------------------------------------------------------------------------------------------


def test_has_the_attributes_of_tfps_distribution() -> None:
    dist = PixelCNN((4, 6, 3), num_resnet=1, num_hierarchies=1, num_filters=4, num_logistic_mix=2)
    assert isinstance(dist, tfd.PixelCNN)
    assert dist.event_shape == (4, 6, 3) and dist.batch_shape == ()
    assert dist.image_shape == (4, 6, 3) and dist.conditional_shape is None
    assert dist.dtype == tf.float32 and dist.name == "PixelCNN"
    assert dist.reparameterization_type == tfd.NOT_REPARAMETERIZED
    assert repr(dist) == "<tfp.distributions.PixelCNN 'PixelCNN' batch_shape=[] event_shape=[4, 6, 3] dtype=float32>"


def test_the_constructor_has_the_arguments_of_tfps() -> None:
    import inspect

    parameters, tfp_parameters = (inspect.signature(cls.__init__).parameters for cls in (PixelCNN, tfd.PixelCNN))
    shared = [(p.name, p.default) for p in parameters.values()][: len(tfp_parameters)]
    assert shared == [(p.name, p.default) for p in tfp_parameters.values()]
    assert list(parameters)[len(tfp_parameters) :] == ["position", "seed"]


def test_a_copy_is_a_new_distribution_with_the_same_arguments() -> None:
    dist = PixelCNN((4, 4, 1), (2,), 1, 1, 4, 2, seed=3)
    copy = dist.copy(num_filters=6)
    assert copy.config == dataclasses.replace(dist.config, num_filters=6)
    assert copy.parameters == dist.parameters | {"num_filters": 6}
    assert {v.ref() for v in copy.variables}.isdisjoint(v.ref() for v in dist.variables)


def test_variables_are_tracked() -> None:
    dist = PixelCNN((4, 4, 1), (2,), 1, 1, 4, 2)
    shapes = {v.name.removesuffix(":0"): tuple(v.shape) for v in dist.trainable_variables}
    assert shapes == network.shapes(dist.config)
    assert {v.ref() for v in dist.trainable_variables} == {v.ref() for v in dist.network.trainable_variables}
    assert len(dist.variables) == len(shapes) + 1  # `initialised`


@pytest.mark.usefixtures("eagerly")
def test_leading_dimensions_broadcast() -> None:
    dist = tfp_reference.random_distribution(TINY, 0)
    x, conditional = images(TINY, 2, 3), condition(TINY, 3)["conditional_input"]
    log_prob = dist.log_prob(x, conditional_input=conditional).numpy()
    assert log_prob.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_allclose(log_prob[i, j], dist.log_prob(x[i, j], conditional_input=conditional[j]), rtol=1e-5)
    single = dist.log_prob(x[0, 0], conditional_input=conditional[0])
    assert single.shape == () and single.dtype == tf.float32
    np.testing.assert_allclose(dist.log_prob(x[0, 0], conditional_input=conditional)[0], single, rtol=1e-5)
    np.testing.assert_allclose(dist.prob(x[0, 0], conditional_input=conditional[0]), np.exp(single), rtol=1e-4)
    assert dist.log_prob(x[:, :0], conditional_input=conditional[:0]).shape == (2, 0)


@pytest.mark.usefixtures("eagerly")
def test_accepts_integers_of_any_dtype_and_floors_fractions_as_tfp_does() -> None:
    config = Config((4, 4, 1), None, 1, 1, 4, 2, use_weight_norm=False)
    dist, x = tfp_reference.random_distribution(config, 0), images(config, 2)
    expected = dist.log_prob(x)
    for dtype in (np.uint8, np.int64, np.float64):
        np.testing.assert_array_equal(dist.log_prob(x.astype(dtype)), expected)
    tfp_dist = tfp_reference.tfp_distribution(config)
    tfp_weights.to_tfp(tfp_dist, config, dist.network.parameters, True)
    x = np.random.default_rng(0).uniform(0, 255, x.shape).astype(np.float32)
    np.testing.assert_allclose(dist.log_prob(x), tfp_dist.log_prob(x), rtol=1e-4)


@pytest.mark.parametrize("pixel", [-1.0, -0.01, 256.0, 1e9, np.nan, np.inf])
def test_pixels_outside_the_range_are_rejected(pixel: float) -> None:
    dist, x = tfp_reference.random_distribution(TINY, 0), images(TINY, 2)
    x[1, 2, 2] = pixel
    for log_prob in (dist.log_prob, tf.function(dist.log_prob)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Pixels must be from low=0 to high=255"):
            log_prob(x, conditional_input=np.zeros(2, np.float32))
        if not np.isfinite(pixel):
            break


def test_invalid_arguments_are_rejected() -> None:
    dist, unconditional = tfp_reference.random_distribution(TINY, 0), PixelCNN((4, 4, 1), None, 1, 1, 4, 2)
    x, conditional = images(TINY, 2), np.zeros((2, 2), np.float32)
    for call, message in (
        (lambda: dist.log_prob(x), "conditional_input is missing"),
        (
            lambda: unconditional.log_prob(x, conditional_input=conditional),
            "conditional_input is given, but conditional_shape is None",
        ),
        (lambda: dist.log_prob(x[:, :3], conditional_input=conditional), "do not end in image_shape"),
        (lambda: dist.log_prob(x, conditional_input=conditional[:, :1]), "does not end in conditional_shape"),
        (lambda: dist.sample(2), "conditional_input is missing"),
        (lambda: dist.sample(3, conditional_input=conditional), "cannot be divided evenly"),
        (lambda: PixelCNN((4, 4), num_filters=2), "length 3"),
        (lambda: PixelCNN(tf.TensorShape((4, None, 1)), num_filters=2), "`image_shape` must be fully defined"),
        (lambda: PixelCNN((4, 4, 1), (None,), num_filters=2), "`conditional_shape` must be fully defined"),
        (lambda: PixelCNN((4, 4, 1), dtype=tf.bfloat16), "float32 or float64"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.usefixtures("eagerly")
def test_dropout_is_on_only_in_training() -> None:
    dist = tfp_reference.random_distribution(TINY, 0)
    x, conditional = images(TINY, 2), condition(TINY, 2)
    default, off, *on = (dist.log_prob(x, **conditional, training=t).numpy() for t in (None, False, True, True))
    np.testing.assert_array_equal(default, off)
    assert np.abs(on[0] - off).min() > 1e-3 and np.abs(on[0] - on[1]).min() > 1e-3


@pytest.mark.usefixtures("eagerly")
def test_float64_is_float64_throughout() -> None:
    single, double = (PixelCNN((4, 4, 1), (2,), 1, 1, 4, 2, dtype=dtype) for dtype in (tf.float32, tf.float64))
    double.network.assign({name: tf.cast(v, tf.float64) for name, v in single.network.parameters.items()})
    single.network.initialised.assign(True)
    x, conditional = images(TINY, 2), condition(TINY, 2)
    log_prob = double.log_prob(x.astype(np.float64), **conditional)
    assert log_prob.dtype == tf.float64
    np.testing.assert_allclose(single.log_prob(x, **conditional), log_prob, rtol=1e-5)


def test_the_first_batch_initialises_in_a_traced_function_too() -> None:
    x, conditional = images(TINY, 4), condition(TINY, 4)
    eager, traced, explicit = (PixelCNN(**dataclasses.asdict(TINY)) for _ in range(3))
    expected = eager.log_prob(x, **conditional)
    explicit.initialise(x, **conditional)
    assert explicit.network.initialised
    for dist in (traced, explicit):
        log_prob = tf.function(dist.log_prob)
        np.testing.assert_allclose(log_prob(x, **conditional), expected, rtol=1e-5)
        np.testing.assert_allclose(log_prob(x, **conditional), expected, rtol=1e-5)
        assert dist.network.initialised
    for name, value in eager.network.parameters.items():
        np.testing.assert_allclose(traced.network.parameters[name], value, rtol=1e-4, atol=1e-6)


def test_a_first_training_batch_initialises_with_dropout() -> None:
    """Initialised without, the deep network's first loss with dropout is 3,000 bits per dimension."""
    deep = Config((4, 4, 1), None, num_resnet=10, num_hierarchies=2, num_filters=4, num_logistic_mix=2, dropout_p=0.5)
    x = images(deep, 16)
    first_call, explicit = (PixelCNN(**dataclasses.asdict(deep)) for _ in range(2))
    explicit.initialise(x, training=True)
    for dist in (first_call, explicit):
        assert tf.reduce_mean(-dist.log_prob(x, training=True)) < 20 * 16 * math.log(2)


@pytest.mark.slow
def test_trains_in_a_traced_function_with_keras_adam() -> None:
    dist, x, conditional = PixelCNN(**dataclasses.asdict(TINY)), images(TINY, 8), condition(TINY, 8)
    adam = tf_keras.optimizers.Adam(0.01)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(dist.log_prob(x, **conditional, training=True))
        variables = dist.trainable_variables
        adam.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    losses = [float(step()) for _ in range(40)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 3


@pytest.mark.slow
def test_a_keras_model_can_be_built_from_log_prob() -> None:
    """TFP's documented example, with tf_keras."""
    dist = PixelCNN((4, 4, 1), (), 1, 1, 4, 2, dropout_p=0.3)
    image, label = tf_keras.layers.Input(shape=(4, 4, 1)), tf_keras.layers.Input(shape=())
    log_prob = dist.log_prob(image, conditional_input=label)
    model = tf_keras.Model(inputs=[image, label], outputs=log_prob)
    model.add_loss(-tf.reduce_mean(log_prob))
    model.compile(optimizer=tf_keras.optimizers.Adam(0.01), metrics=[])
    config = dataclasses.replace(TINY, conditional_shape=())
    data = images(config, 16), np.arange(16, dtype=np.float32)
    history = model.fit(tf.data.Dataset.from_tensor_slices((data,)).batch(8), epochs=6, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert {v.ref() for v in model.trainable_variables} == {v.ref() for v in dist.trainable_variables}
    np.testing.assert_allclose(
        model.predict(data, verbose=0), dist.log_prob(data[0], conditional_input=data[1]), rtol=1e-5
    )


# ---------------------------------------------------------------------------------------------------------------------
# Samples
# ---------------------------------------------------------------------------------------------------------------------


def test_samples_have_tfps_shapes_and_values() -> None:
    config = Config((4, 6, 3), (2,), 1, 1, 4, 2, low=-3, high=12)
    dist, conditional = tfp_reference.random_distribution(config, 0), condition(config, 3)["conditional_input"]
    for shape, rows in (
        ((), conditional[0]),
        (2, conditional[0]),
        ((2, 3), conditional),
        ((4, 2, 3), conditional),
        ((2, 3, 1), conditional[:, None]),
    ):
        samples = dist.sample(shape, conditional_input=rows)
        assert samples.shape == (*np.atleast_1d(np.asarray(shape, int)), 4, 6, 3) and samples.dtype == tf.float32
        assert (samples.numpy() == np.rint(samples)).all() and np.min(samples) >= -3 and np.max(samples) <= 12
    assert np.isfinite(
        dist.log_prob(dist.sample((2, 3), conditional_input=conditional), conditional_input=conditional)
    ).all()


def test_a_sample_depends_only_on_its_seed_condition_and_index() -> None:
    dist, conditional = tfp_reference.random_distribution(TINY, 0), condition(TINY, 3)["conditional_input"]
    samples = dist.sample((4, 3), conditional_input=conditional, seed=7).numpy()
    np.testing.assert_array_equal(dist.sample((4, 3), conditional_input=conditional, seed=7), samples)
    np.testing.assert_array_equal(dist.sample((2, 3), conditional_input=conditional, seed=7), samples[:2])
    np.testing.assert_array_equal(dist.sample(4, conditional_input=conditional[1], seed=7), samples[:, 1])
    np.testing.assert_array_equal(dist.sample((4, 3), conditional_input=conditional[::-1], seed=7), samples[:, ::-1])
    # Samples with equal conditions differ by their index.
    twice = dist.sample((2, 2), conditional_input=conditional[[1, 1]], seed=7).numpy()
    np.testing.assert_array_equal(twice.reshape(4, 4, 4, 1), samples[:, 1])
    assert (dist.sample((4, 3), conditional_input=conditional, seed=8).numpy() != samples).any()
    unseeded = [dist.sample(2, conditional_input=conditional[0]).numpy() for _ in range(2)]
    assert (unseeded[0] != unseeded[1]).any()


def test_samples_equal_those_of_the_sampler() -> None:
    config = Config((4, 4, 1), None, 1, 1, 4, 2)
    dist = tfp_reference.random_distribution(config, 0)
    noise = sampling.noise(config, 5, np.arange(3)[:, None])
    kernels = network.kernels(config, dist.network.parameters)
    np.testing.assert_array_equal(dist.sample(3, seed=5), sampling.sample_reference(config, kernels, noise))
    # Completion of the lower half, at a low temperature.
    given = images(config, 3)
    known = np.arange(4)[:, None] < [2] * 4
    samples = dist.sample(3, seed=5, given=given, known=known, temperature=0.5).numpy()
    np.testing.assert_array_equal(samples[:, :2], given[:, :2])
    expected = sampling.sample_reference(config, kernels, noise, given=given, known=known, temperature=0.5)
    np.testing.assert_array_equal(samples, expected)


def test_samples_in_a_traced_function() -> None:
    dist, conditional = tfp_reference.random_distribution(TINY, 0), condition(TINY, 2)["conditional_input"]
    sample = tf.function(lambda conditional: dist.sample((3, 2), conditional_input=conditional, seed=4))
    np.testing.assert_array_equal(sample(conditional), dist.sample((3, 2), conditional_input=conditional, seed=4))


def test_sampling_initialises_an_uninitialised_network_with_noise() -> None:
    dist = PixelCNN((4, 4, 1), None, 1, 1, 4, 2)
    assert dist.sample(2).shape == (2, 4, 4, 1)
    assert dist.network.initialised


@pytest.mark.usefixtures("eagerly")
def test_samples_with_dropout_use_tfps_loop() -> None:
    dist = tfp_reference.random_distribution(dataclasses.replace(TINY, image_shape=(2, 2, 1)), 0)
    samples = dist.sample(3, conditional_input=np.zeros(2, np.float32), training=True)
    assert samples.shape == (3, 2, 2, 1) and np.min(samples) >= 0 and np.max(samples) <= 255


# ---------------------------------------------------------------------------------------------------------------------
# Long runs
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.robustness
@pytest.mark.parametrize("first", ["drawings", "blank"])
def test_training_with_thirty_logistics_and_raw_labels_stays_finite(first: str) -> None:
    """The condition is the label as a number up to 323, as in the published recipe; the learning rate is high."""
    config = Config((8, 8, 1), (), 1, 2, 8, 30)
    dist = PixelCNN(**dataclasses.asdict(config))
    random = np.random.default_rng(0)
    labels = np.array([26, 96, 125, 184, 238, 323], np.float32)

    def batch() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        # Like drawings: mostly blank, the rest mostly black or white.
        x = np.where(random.random((16, 8, 8, 1)) < 0.75, 0, random.choice([255, 254, 100, 1], (16, 8, 8, 1)))
        return x.astype(np.float32), random.choice(labels, 16)

    x, conditional = batch()
    dist.initialise(x * (first != "blank"), conditional)
    adam = tf_keras.optimizers.Adam(0.003)

    @tf.function(autograph=False)
    def step(x: tf.Tensor, conditional: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(dist.log_prob(x, conditional_input=conditional, training=True))
        variables = dist.trainable_variables
        gradients = tape.gradient(loss, variables)
        adam.apply_gradients(zip(gradients, variables, strict=True))
        return loss, tf.linalg.global_norm(gradients)

    history = np.array([[value.numpy() for value in step(*batch())] for _ in range(STEPS)])
    assert np.isfinite(history).all()
    assert all(np.isfinite(v).all() for v in dist.trainable_variables)
    assert history[-100:, 0].mean() < history[:20, 0].mean()


# ---------------------------------------------------------------------------------------------------------------------
# Graphs and sessions of TensorFlow 1, in which TFP's own tests run its distribution too
# ---------------------------------------------------------------------------------------------------------------------


GRAPH = """
import dataclasses
import numpy as np, tensorflow as tf, tf_keras
from stages.pixelcnn import PixelCNN
from tests.stages.pixelcnn.test_distribution import TINY, condition, images

x, conditional = images(TINY, 4), condition(TINY, 4)
tf.config.run_functions_eagerly(True)  # without XLA, whose compilation takes longer than the rest
eager = PixelCNN(**vars(TINY))
expected = eager.sample((3, 4), seed=5, **conditional), eager.log_prob(x, **conditional)
tf.config.run_functions_eagerly(False)
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    dist = PixelCNN(**vars(TINY))
    samples, log_prob = dist.sample((3, 4), seed=5, **conditional), dist.log_prob(x, **conditional)
    gradients = tf.gradients(log_prob, dist.trainable_variables)
    session.run(tf.compat.v1.global_variables_initializer())
    np.testing.assert_array_equal(session.run(samples), expected[0])  # initialises the network
    assert session.run(dist.network.initialised)
    values, gradients = session.run([log_prob, gradients])
    np.testing.assert_allclose(values, expected[1], rtol=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in gradients)

config = dataclasses.replace(TINY, conditional_shape=None, use_data_init=False)
with tf.Graph().as_default(), tf.compat.v1.Session().as_default():
    dist = PixelCNN(**vars(config))
    inputs = tf_keras.Input(config.image_shape)
    log_prob = dist.log_prob(inputs)
    model = tf_keras.Model(inputs, log_prob)
    model.add_loss(-tf.reduce_mean(log_prob))
    model.compile(tf_keras.optimizers.legacy.Adam(0.01))
    losses = model.fit(images(config, 8), epochs=5, verbose=0).history["loss"]
assert losses[-1] < losses[0]
print("same")
"""


@pytest.mark.slow
def test_graphs_and_sessions_compute_what_eager_code_computes() -> None:
    """In a process of its own: a layer that is made in a graph of TensorFlow 1 makes Keras reject all earlier ones."""
    done = subprocess.run([sys.executable, "-c", GRAPH], capture_output=True, text=True)
    assert done.stdout.strip() == "same", done.stderr[-2000:]


@pytest.mark.parametrize("config", [TINY, dataclasses.replace(TINY, conditional_shape=None)])
def test_no_drawings_are_an_empty_tensor(config: Config) -> None:
    dist = PixelCNN(**vars(config))
    shape = (0,) if config.conditional_shape is None else (0, 2)
    samples = dist.sample(shape, **condition(config, 2))
    assert samples.shape == (*shape, 4, 4, 1)
    assert samples.dtype == tf.float32
    assert not dist.network.initialised
