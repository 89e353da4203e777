"""The network as a function: the pixels that each output depends on, and its hand-written gradients."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from stages.pixelcnn import network, xla_ops
from stages.pixelcnn.network import Config, Mixture

SMALL = Config((8, 8, 1), (3,), num_resnet=1, num_hierarchies=2, num_filters=4, num_logistic_mix=2)
# Every argument that changes the position of a tap.
ARCHITECTURES = {
    "one level, smallest field": Config((5, 7, 1), None, 1, 1, 4, 2, (2, 3)),
    "the default field, a condition": SMALL,
    "three levels, three channels": Config((8, 8, 3), (), 1, 3, 4, 2),
    "a field of four by five, elu": Config((8, 8, 1), None, 1, 3, 4, 2, (4, 5), resnet_activation="elu"),
    "ones as position, relu": Config((8, 4, 2), None, 2, 2, 4, 2, (3, 5), resnet_activation="relu", position="ones"),
    "padding to 8 by 12": Config((7, 9, 1), None, 1, 3, 4, 2, position="ones"),
    "coordinates, no weight norm": Config((4, 8, 1), (2, 2), 1, 2, 4, 2, use_weight_norm=False, position="coordinates"),
}


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Runs without XLA, whose compilation would take most of the time for a small network."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def images(config: Config, batch: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).uniform(-1, 1, (batch, *config.image_shape)))


def condition(config: Config, batch: int) -> tf.Tensor | None:
    if config.conditional_shape is None:
        return None
    return tf.constant(np.random.default_rng(9).normal(size=(batch, *config.conditional_shape)))


def outputs(mixture: Mixture) -> tf.Tensor:
    """All parameters of a pixel along one axis, (batch, height, width, parameters)."""
    parts = [part for part in mixture if part is not None]
    return tf.concat([tf.reshape(part, [*part.shape[:3], -1]) for part in parts], axis=-1)


def run(config: Config, parameters: network.Parameters, x: tf.Tensor, **options: Any) -> tf.Tensor:
    batch = condition(config, x.shape[0])
    return outputs(network.forward(config, network.kernels(config, parameters), x, batch, **options))


def initial(config: Config, seed: int = 0) -> dict[str, tf.Tensor]:
    return network.initialise(config, seed, tf.float64)


def initialised_by_data(config: Config) -> dict[str, tf.Tensor]:
    return network.data_dependent_initialisation(config, initial(config), images(config, 4, 1), condition(config, 4))


def trained(config: Config) -> dict[str, tf.Tensor]:
    """Parameters after a step of gradient descent on an arbitrary loss."""
    parameters = initialised_by_data(config)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        loss = tf.reduce_mean(run(config, parameters, images(config, 2, 2)) ** 2)
    gradients = tape.gradient(loss, parameters)
    return {name: value - 0.05 * gradients[name] for name, value in parameters.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The receptive field
# ---------------------------------------------------------------------------------------------------------------------

# (height, width, image height, image width): the pixels of the image that a feature may depend on
FieldMap = npt.NDArray[np.bool_]


def receptive_field(config: Config) -> FieldMap:
    """The receptive field by the definition of the architecture, computed with sets of pixels instead of numbers."""
    height, width, _ = config.padded_shape
    rows, columns = config.receptive_field_dims
    half = columns // 2
    wide, left = range(-half, half + 1), range(-half, 1)

    def read(x: FieldMap, row_taps: range, column_taps: range, stride: int = 1) -> FieldMap:
        out = np.zeros((x.shape[0] // stride, x.shape[1] // stride, height, width), bool)
        for r, c in np.ndindex(*out.shape[:2]):
            for row in (stride * r + tap for tap in row_taps):
                for column in (stride * c + tap for tap in column_taps):
                    if 0 <= row < x.shape[0] and 0 <= column < x.shape[1]:
                        out[r, c] |= x[row, column]
        return out

    def upsample(x: FieldMap, row_taps: range, column_taps: range) -> FieldMap:
        out = np.zeros((2 * x.shape[0], 2 * x.shape[1], height, width), bool)
        for r, c in np.ndindex(*x.shape[:2]):
            for row in (2 * r + tap for tap in row_taps):
                for column in (2 * c + tap for tap in column_taps):
                    if 0 <= row < out.shape[0] and 0 <= column < out.shape[1]:
                        out[row, column] |= x[r, c]
        return out

    taps = {"vertical": (range(2 - rows, 1), wide), "horizontal": (range(-1, 1), left)}

    def block(x: FieldMap, stack: str, *skip: FieldMap) -> FieldMap:
        middle = np.logical_or.reduce([read(x, *taps[stack]), *skip])
        return x | read(middle, *taps[stack])

    image = np.eye(height * width, dtype=bool).reshape(height, width, height, width)
    v = read(image, range(1 - rows, 0), wide)
    h = read(image, range(-1, 0), wide) | read(image, range(-1, 1), range(-half, 0))
    skips = [(v, h)]
    for level in range(config.num_hierarchies):
        if level:
            v, h = read(v, *taps["vertical"], 2), read(h, *taps["horizontal"], 2)
            skips.append((v, h))
        for _ in range(config.num_resnet):
            v = block(v, "vertical")
            h = block(h, "horizontal", v)
            skips.append((v, h))
    skips.pop()
    for level in reversed(range(config.num_hierarchies)):
        for _ in range(config.num_resnet + (level < config.num_hierarchies - 1)):
            skip_v, skip_h = skips.pop()
            v = block(v, "vertical", skip_v)
            h = block(h, "horizontal", v, skip_h)
        if level:
            v, h = upsample(v, range(rows - 1), wide), upsample(h, range(2), range(half + 1))
    assert not skips
    image_height, image_width, _ = config.image_shape
    return h[:image_height, :image_width, :image_height, :image_width]


def jacobian(config: Config, parameters: network.Parameters) -> npt.NDArray[np.float64]:
    """Absolute gradients of a random combination of each pixel's outputs by each pixel, (pixels, pixels)."""
    pixels = config.image_shape[0] * config.image_shape[1]
    # One copy of the image per output pixel, so that one gradient gives all rows.
    x = tf.tile(images(config, 1, 3), [pixels, 1, 1, 1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = tf.gather(tf.reshape(run(config, parameters, x), [pixels, pixels, -1]), range(pixels), batch_dims=1)
        mixed = tf.reduce_sum(out * np.random.default_rng(4).normal(size=out.shape))
    return np.abs(tape.gradient(mixed, x).numpy()).max(axis=-1).reshape(pixels, pixels)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("state", [initial, pytest.param(initialised_by_data, marks=pytest.mark.slow), trained])
@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_a_pixel_depends_on_its_receptive_field_and_not_on_later_pixels(
    config: Config, state: Callable[[Config], network.Parameters]
) -> None:
    pixels = config.image_shape[0] * config.image_shape[1]
    gradients = jacobian(config, state(config))
    future = np.triu(np.ones((pixels, pixels), bool))  # including the pixel itself
    assert not gradients[future].any()
    field = receptive_field(config).reshape(pixels, pixels)
    assert not field[future].any()
    assert field[pixels // 2].sum() > 3
    if config.resnet_activation == "relu":  # whose gradient is 0 half of the time
        assert not gradients[~field].any()
    else:
        np.testing.assert_array_equal(gradients != 0, field)


@pytest.mark.usefixtures("eagerly")
def test_position_channels_distinguish_rows_of_a_blank_image() -> None:
    blank = tf.fill((1, 16, 8, 1), tf.constant(-1.0, tf.float64))
    differences = {}
    for position in ("none", "ones", "coordinates"):
        config = Config((16, 8, 1), None, 1, 1, 4, 2, position=position)
        last_rows = run(config, initialised_by_data(config), blank).numpy()[0, -3:]
        differences[position] = np.abs(np.diff(last_rows, axis=0)).max()
    assert differences["none"] == 0 < 1e-4 < differences["coordinates"]
    # Ones make the padding visible, but these rows are too far below it.
    assert differences["ones"] == 0


# ---------------------------------------------------------------------------------------------------------------------
# Gradients
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_the_gradient_is_the_derivative(config: Config) -> None:
    """By weights and images, with dropout: central differences along random directions in float64."""
    if config.resnet_activation == "relu":
        return  # a kink at every unit
    random = np.random.default_rng(4)
    point = initialised_by_data(config) | {"images": images(config, 2, 5)}
    target = random.normal(size=(2, *config.image_shape[:2], config.num_outputs))

    def loss(point: dict[str, tf.Tensor]) -> tf.Tensor:
        weights = {name: value for name, value in point.items() if name != "images"}
        out = run(config, weights, point["images"], dropout_seed=tf.constant([1, 2]))
        return tf.reduce_sum(out * target)

    with tf.GradientTape() as tape:
        tape.watch(point)
        value = loss(point)
    gradients = tape.gradient(value, point)
    for parts in (["images"], list(point), list(point)):
        steps = {name: 1e-6 * random.normal(size=point[name].shape) for name in parts}
        ahead, behind = (
            loss(point | {name: point[name] + sign * step for name, step in steps.items()}) for sign in (1, -1)
        )
        predicted = sum(float(np.sum(gradients[name] * step)) for name, step in steps.items())
        assert float(ahead - behind) / 2 == pytest.approx(predicted, rel=1e-4)


@pytest.mark.parametrize("taps", [(2, 3), (2, 2), (1, 3), (3, 5)])
def test_the_cpus_convolution_has_tensorflows_gradients(taps: tuple[int, int]) -> None:
    """For a batch whose size is unknown when the function is traced."""
    random = np.random.default_rng(7)
    x, kernel = tf.constant(random.normal(size=(3, 5, 6, 4))), tf.constant(random.normal(size=(*taps, 4, 2)))
    target = random.normal(size=(3, 5, 6, 2))

    def gradients(convolve: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Callable[..., list[tf.Tensor]]:
        def run(x: tf.Tensor, kernel: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                out = convolve(x, kernel)
            return [out, *tape.gradient(out, [x, kernel], target)]

        signature = tf.TensorSpec((None, *x.shape[1:]), x.dtype), tf.TensorSpec(kernel.shape, kernel.dtype)
        return tf.function(run, input_signature=signature, autograph=False)

    ours = gradients(network._convolve_on_cpu)(x, kernel)
    theirs = gradients(lambda x, kernel: tf.nn.conv2d(x, kernel, strides=1, padding="SAME"))(x, kernel)
    for actual, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def plain_activation(name: str, x: tf.Tensor) -> tf.Tensor:
    """The activations as TFP computes them."""
    if name == "concat_elu":
        return tf.nn.elu(tf.concat([x, -x], axis=-1))
    return tf.nn.elu(x) if name == "elu" else tf.nn.relu(x)


def plain_gate(name: str, x: tf.Tensor, source: tf.Tensor, projection: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    update, gate_logits = tf.split(x + projection[:, None, None], 2, axis=-1)
    out = source + tf.sigmoid(gate_logits) * update
    return out, plain_activation(name, out)


@pytest.mark.parametrize("name", xla_ops.ACTIVATIONS)
def test_fused_operations_equal_plain_operations(name: str) -> None:
    """Values and gradients, compiled by XLA."""
    random = np.random.default_rng(6)
    x, source, projection = (random.normal(size=size) for size in ((2, 3, 3, 8), (2, 3, 3, 4), (2, 8)))
    x[0, 0, 0] = 0  # as for a pixel that sees only padding
    x, source, projection = (tf.constant(value) for value in (x, source, projection))

    def compare(fused: Callable[..., Any], plain: Callable[..., Any], *arguments: tf.Tensor) -> None:
        results_and_gradients = []
        for function in (fused, plain):
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                results = tf.nest.flatten(function(*arguments))
                mixed = sum(tf.reduce_sum(r * np.random.default_rng(7).normal(size=r.shape)) for r in results)
            results_and_gradients.append([*results, *tape.gradient(mixed, arguments)])
        for actual, expected in zip(*results_and_gradients, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-12)

    compare(xla_ops.activate(name, tf.float64), lambda x: plain_activation(name, x), x)
    compare(xla_ops.gate(name, tf.float64), functools.partial(plain_gate, name), x, source, projection)

    # Dropout scales the remaining values up, also in the gradient; the same seed drops the same values.
    drop, seed = xla_ops.activate_and_drop(name, 0.25, tf.float64), tf.constant([3, 4])
    x = tf.constant(random.normal(size=(2, 3, 3, 8)))
    mask = tf.cast(drop(x, seed) != 0, x.dtype) / 0.75
    compare(lambda x: drop(x, seed), lambda x: plain_activation(name, x) * mask, x)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("channels", [8, 5])
def test_dropout_drops_different_values_for_every_seed(channels: int) -> None:
    drop, x = xla_ops.activate_and_drop("elu", 0.25, tf.float32), tf.ones((4, 20, 20, channels))
    first, again, other = (drop(x, tf.constant(seed)).numpy() for seed in ([0, 1], [0, 1], [0, 2]))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() == pytest.approx(2 * 0.25 * 0.75, abs=0.03)
    assert (first == 0).mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(np.unique(first), [0, 1 / 0.75], rtol=1e-6)


@pytest.mark.usefixtures("eagerly")
def test_dropout_depends_on_its_seed_only() -> None:
    parameters, x = initialised_by_data(SMALL), images(SMALL, 2)
    off, first, again, other = (
        run(SMALL, parameters, x, dropout_seed=None if seed is None else tf.constant(seed)).numpy()
        for seed in (None, [0, 1], [0, 1], [0, 2])
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - off).max() > 0.01 and np.abs(first - other).max() > 0.01


# ---------------------------------------------------------------------------------------------------------------------
# Parameters
# ---------------------------------------------------------------------------------------------------------------------


def test_the_full_model_has_as_many_weights_as_tfps_masked_network() -> None:
    full = Config((28, 28, 1), (), num_filters=128, num_logistic_mix=5)
    assert sum(math.prod(shape) for shape in network.shapes(full).values()) == 34_375_966
    uncropped = 0
    for layer in network.layers(full).values():
        outputs = layer.kernel[-1]
        uncropped += layer.copies * (layer.fans[0] * outputs + (2 if layer.normalised else 1) * outputs)
    assert uncropped == 60_331_038  # the number of TFP's weights


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_initial_parameters_have_the_right_shapes_and_ranges(config: Config) -> None:
    parameters = network.initialise(config, 7)
    assert {name: tuple(value.shape) for name, value in parameters.items()} == network.shapes(config)
    kernels = network.kernels(config, parameters)
    for name, layer in network.layers(config).items():
        plain = kernels[f"{name}/kernel"].numpy()
        # Before the first batch, weight norm changes nothing.
        initial_kernel = parameters[f"{name}/v" if f"{name}/v" in parameters else f"{name}/kernel"]
        np.testing.assert_allclose(plain, initial_kernel, rtol=1e-5, atol=1e-7)
        if layer.normalised:
            limit = math.sqrt(6 / sum(layer.fans))
            assert 0.8 * limit < np.abs(plain).max() <= limit or plain.size < 30
        else:
            assert 0.02 < plain.std() < 0.1


def test_the_seed_determines_the_parameters() -> None:
    first, again, other = (network.initialise(SMALL, seed)["vertical/conv1/v"].numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("dropout_seed", [None, (3, 4)])
def test_data_dependent_initialisation_gives_every_layer_mean_0_and_variance_1(
    dropout_seed: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, seed = images(SMALL, 16), None if dropout_seed is None else tf.constant(dropout_seed)
    parameters = network.data_dependent_initialisation(
        SMALL, initial(SMALL), x, condition(SMALL, 16), dropout_seed=seed
    )
    layer_outputs: list[tf.Tensor] = []
    bias_add = tf.nn.bias_add

    def record(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        layer_outputs.append(bias_add(x, bias))
        return layer_outputs[-1]

    monkeypatch.setattr(tf.nn, "bias_add", record)
    run(SMALL, parameters, x, dropout_seed=seed)
    normalised = [value.numpy() for value in layer_outputs if value.shape.rank == 4]
    assert len(normalised) == sum(layer.copies for layer in network.layers(SMALL).values() if layer.normalised)
    for value in normalised:
        np.testing.assert_allclose(value.mean(axis=(0, 1, 2)), 0, atol=1e-6)
        np.testing.assert_allclose(value.std(axis=(0, 1, 2)), 1, atol=1e-6)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_data_dependent_initialisation_stays_finite_on_a_constant_batch(value: float) -> None:
    x = tf.fill((4, *SMALL.image_shape), tf.constant(value, tf.float64))
    parameters = network.data_dependent_initialisation(SMALL, initial(SMALL), x, condition(SMALL, 4))
    assert max(np.abs(parameters[name]).max() for name in parameters if name.endswith("/g")) < 10
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        out = run(SMALL, parameters, images(SMALL, 4))
    assert np.abs(out).max() < 100
    gradients = tape.gradient(out, parameters).values()
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_data_dependent_initialisation_can_be_turned_off() -> None:
    for config in (
        dataclasses.replace(SMALL, use_data_init=False),
        dataclasses.replace(SMALL, use_weight_norm=False),
    ):
        parameters = network.initialise(config, 0)
        unchanged = network.data_dependent_initialisation(config, parameters, images(config, 2), condition(config, 2))
        assert all(unchanged[name] is value for name, value in parameters.items())


@pytest.mark.usefixtures("eagerly")
def test_bfloat16_is_close_and_keeps_float32_sums() -> None:
    parameters = {name: tf.cast(value, tf.float32) for name, value in initialised_by_data(SMALL).items()}
    weights, x = network.kernels(SMALL, parameters), tf.cast(images(SMALL, 4), tf.float32)
    exact, rounded = (network.forward(SMALL, weights, x, condition(SMALL, 4), dtype=d) for d in (None, tf.bfloat16))
    assert {part.dtype for part in rounded if part is not None} == {tf.float32}
    difference = outputs(rounded).numpy() - outputs(exact).numpy()
    assert 0 < np.abs(difference).mean() < 0.03


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"receptive_field_dims": (3, 4)}, "odd"),
        ({"receptive_field_dims": (2, 3)}, r"at least \(3, 3\)"),
        ({"receptive_field_dims": (3, 1)}, "at least"),
        ({"receptive_field_dims": (1, 3), "num_hierarchies": 1}, r"at least \(2, 3\)"),
        ({"resnet_activation": "gelu"}, "concat_elu, elu, relu"),
        ({"position": "somewhere"}, "none, ones, coordinates"),
        ({"dropout_p": 1.0}, "below 1"),
        ({"low": 255}, "above low"),
    ],
)
def test_invalid_architectures_are_rejected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_a_missing_or_unexpected_condition_is_rejected() -> None:
    unconditional = dataclasses.replace(SMALL, conditional_shape=None)
    x, unexpected = tf.zeros((1, 8, 8, 1)), tf.zeros((1, 3))
    for config, condition, message in ((SMALL, None, "missing"), (unconditional, unexpected, "given")):
        parameters = network.initialise(config, 0)
        with pytest.raises(ValueError, match=message):
            network.forward(config, network.kernels(config, parameters), x, condition)
        with pytest.raises(ValueError, match=message):
            network.data_dependent_initialisation(config, parameters, x, condition)
