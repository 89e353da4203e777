"""The likelihood compared with mpmath, at values where float32 is prone to cancellation and overflow."""

import itertools
import math
from typing import NamedTuple

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.pixelcnn.likelihood import pixel_log_prob, scale_pixels
from stages.pixelcnn.network import Config, Mixture

GREY = Config((4, 4, 1))
MIN_SCALE = math.exp(-7.0)

PIXELS = (0, 1, 2, 37, 127, 128, 254, 255)
LOCS = (0.0, 0.3, 0.5, -0.99, -1.0, 1.0, 1.004, 2.0, -3.0, 10.0, -50.0, 700.0, -1e3, 1e4, -6.6e4, 1e5, 1e6, -1e6, 3e7)
SCALES = (MIN_SCALE, 1e-3, 1.1e-3, 2e-3, 5e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1e3, 1e4, 1e5, 2e5)
GRID = list(itertools.product(PIXELS, LOCS, SCALES, (0.0, -50.0)))


class Exact(NamedTuple):
    """The log-probability of a pixel under one logistic, and its derivatives."""

    value: float
    by_loc: float
    by_scale: float


def exact(config: Config, pixel: int, loc: float, scale: float) -> Exact:
    """Computed by definition, as the difference of two sigmoids, with enough digits."""
    with mpmath.workdps(60):
        low, high = config.low, config.high
        distance = mpmath.mpf(2 * pixel - low - high) / (high - low) - mpmath.mpf(loc)
        begin, end = ((distance + side * mpmath.mpf(1) / (high - low)) / mpmath.mpf(scale) for side in (-1, 1))
        # In the upper tail, by symmetry, the difference of the masses above.
        sign = -1 if begin > 0 else 1
        above, below = (1 / (1 + mpmath.exp(-sign * x)) for x in (end, begin))
        steep_end, steep_begin = above * (1 - above), below * (1 - below)
        if pixel == low:
            mass, steep_begin = (above if sign > 0 else 1 - above), mpmath.mpf(0)
        elif pixel == high:
            mass, steep_end = (1 - below if sign > 0 else below), mpmath.mpf(0)
        else:
            mass = sign * (above - below)
        by_loc = -(steep_end - steep_begin) / scale / mass
        by_scale = -(end * steep_end - begin * steep_begin) / scale / mass
        return Exact(float(mpmath.log(mass)), float(by_loc), float(by_scale))


def mixture(
    logits: npt.ArrayLike, locs: npt.ArrayLike, scales: npt.ArrayLike, coeffs: npt.ArrayLike | None = None
) -> Mixture:
    """One row of pixels; arguments (pixels, components) and (pixels, components, channels)."""
    parts = (logits, locs, scales, coeffs)
    return Mixture(*(None if part is None else tf.constant(np.asarray(part, np.float32)[None, None]) for part in parts))


def row(pixels: npt.ArrayLike) -> tf.Tensor:
    """Pixels (pixels, channels) as images."""
    return tf.constant(np.asarray(pixels, np.float32)[None, None])


def with_gradients(config: Config, parameters: Mixture, images: tf.Tensor) -> tuple[npt.NDArray[np.float32], Mixture]:
    """Log-probabilities (pixels,), and the gradient of their sum."""
    sources = [part for part in parameters if part is not None]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        value = pixel_log_prob(config, parameters, images)
    gradients = [gradient.numpy()[0, 0] for gradient in tape.gradient(value, sources)]
    return value.numpy()[0, 0], Mixture(*gradients, *[None] * (4 - len(gradients)))


def test_agrees_with_mpmath_on_the_grid() -> None:
    """Value and gradient of a single component, and of one with weight e**-50 beside a wide component."""
    assert len(GRID) > 3_000
    pixels, locs, scales, weights = np.array(GRID).T
    # A wide logistic in the middle has the rest of the weight, or none.
    single = weights == 0
    parameters = mixture(
        np.stack([np.zeros_like(weights), np.where(single, -3e38, 50.0)], axis=-1),
        np.stack([locs, np.zeros_like(locs)], axis=-1)[..., None],
        np.stack([scales, np.full_like(scales, 0.3)], axis=-1)[..., None],
    )
    value, gradient = with_gradients(GREY, parameters, row(pixels[:, None]))
    assert np.isfinite(value).all()
    assert all(np.isfinite(part).all() for part in gradient if part is not None)

    rounded = parameters.locs.numpy()[0, 0, :, 0, 0], parameters.scales.numpy()[0, 0, :, 0, 0]
    component = [exact(GREY, int(y), float(loc), float(scale)) for y, loc, scale in zip(pixels, *rounded, strict=True)]
    wide = {y: exact(GREY, y, 0.0, float(np.float32(0.3))).value for y in PIXELS}
    logs = np.array([each.value for each in component])
    # The weight of the wide component is 1 - e**-50.
    both = np.where(single, logs, np.logaddexp(logs - 50.0, [wide[int(y)] for y in pixels]))
    np.testing.assert_allclose(value, both, rtol=1e-4, atol=1e-34)
    responsibility = np.where(single, 1.0, np.exp(logs - 50.0 - both))
    # Below 1e-34 a float32 loses digits. Where the derivative by the scale changes its sign, its terms cancel.
    crossing = 1e-6 * responsibility * np.minimum(1.0, abs(both)) / rounded[1]
    for actual, attribute, tolerance in ((gradient.locs, "by_loc", 0.0), (gradient.scales, "by_scale", crossing)):
        expected = responsibility * np.array([getattr(each, attribute) for each in component])
        np.testing.assert_array_less(abs(actual[:, 0, 0] - expected), 1e-4 * abs(expected) + tolerance + 1e-34)


FINITE = st.floats(-3e38, 3e38)
RANDOM_EXAMPLES = settings(max_examples=25, deadline=None)


@RANDOM_EXAMPLES
@given(st.lists(st.tuples(st.integers(0, 255), FINITE, st.floats(MIN_SCALE, 3e38), FINITE), min_size=1))
def test_is_finite_for_every_finite_parameter(points: list[tuple[int, float, float, float]]) -> None:
    pixels, locs, scales, logits = np.array(points).T
    parameters = mixture(
        np.stack([logits, 0 * logits], axis=-1),
        np.stack([locs, locs / 2], axis=-1)[..., None],
        np.stack([scales, scales], axis=-1)[..., None],
    )
    value, gradient = with_gradients(GREY, parameters, row(pixels[:, None]))
    assert np.isfinite(value).all() and (value <= 0).all()
    assert all(np.isfinite(part).all() for part in gradient if part is not None)


@RANDOM_EXAMPLES
@given(
    high=st.sampled_from((1, 7, 255, 65_535)),
    points=st.lists(
        st.tuples(st.floats(0, 1), st.floats(-1e7, 1e7) | st.floats(-1.5, 1.5), st.floats(-7, 20)), min_size=1
    ),
)
def test_agrees_with_mpmath_at_random_values(high: int, points: list[tuple[float, float, float]]) -> None:
    config = Config((4, 4, 1), high=high)
    fractions, locs, exponents = np.array(points).T
    pixels = np.rint(fractions * high)
    parameters = mixture(np.zeros((len(points), 1)), locs[:, None, None], np.exp(exponents)[:, None, None])
    value, gradient = with_gradients(config, parameters, row(pixels[:, None]))
    for n, pixel in enumerate(pixels):
        loc, scale = (float(part.numpy()[0, 0, n, 0, 0]) for part in (parameters.locs, parameters.scales))
        expected = exact(config, int(pixel), loc, scale)
        crossing = 1e-6 * min(1.0, abs(expected.value)) / scale
        assert value[n] == pytest.approx(expected.value, rel=1e-4, abs=1e-34)
        assert gradient.locs[n].item() == pytest.approx(expected.by_loc, rel=1e-4, abs=1e-34)
        assert gradient.scales[n].item() == pytest.approx(expected.by_scale, rel=1e-4, abs=1e-34 + crossing)


@RANDOM_EXAMPLES
@given(seed=st.integers(0, 2**32), scale=st.sampled_from((0.1, 1.0, 1e2, 1e6, 1e37)))
def test_three_channels_are_finite(seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    parameters = mixture(
        random.normal(size=(100, 3)) * scale,
        random.normal(size=(100, 3, 3)) * scale,
        np.logaddexp(0, random.normal(size=(100, 3, 3)) * scale) + MIN_SCALE,
        random.normal(size=(100, 3, 3)) * scale,
    )
    value, gradient = with_gradients(Config((4, 4, 3)), parameters, row(random.integers(0, 256, (100, 3))))
    assert np.isfinite(value).all()
    assert all(np.isfinite(part).all() for part in gradient if part is not None)


def test_channels_depend_on_the_channels_before_them() -> None:
    """Each channel's location depends on the channels before it; compared with a float64 computation."""
    random = np.random.default_rng(0)
    logits, locs, coeffs = random.normal(size=(50, 4)), random.normal(size=(50, 4, 3)), random.normal(size=(50, 4, 3))
    scales, pixels = np.exp(random.normal(size=(50, 4, 3)) - 2), random.integers(0, 256, (50, 3))
    r, g, _ = np.moveaxis(pixels / 127.5 - 1, -1, 0)[..., None]
    centres = locs + np.stack([0 * r * coeffs[..., 0], r * coeffs[..., 0], r * coeffs[..., 1] + g * coeffs[..., 2]], -1)
    expected = []
    for n in range(50):
        components = logits[n] - np.logaddexp.reduce(logits[n])
        for k, c in itertools.product(range(4), range(3)):
            components[k] += exact(GREY, int(pixels[n, c]), centres[n, k, c], scales[n, k, c]).value
        expected.append(np.logaddexp.reduce(components))
    log_prob = pixel_log_prob(Config((4, 4, 3)), mixture(logits, locs, scales, coeffs), row(pixels))
    np.testing.assert_allclose(log_prob.numpy()[0, 0], expected, rtol=1e-4)


def test_the_gradient_is_the_derivative() -> None:
    """Central differences in float64, three channels, along random directions."""
    random = np.random.default_rng(1)
    pixels = [[0, 255, 7], [255, 0, 0], [1, 254, 100], [30, 30, 30], [128, 127, 255]]
    images = tf.constant([[pixels]], tf.float64)
    shapes = (5, 4), (5, 4, 3), (5, 4, 3), (5, 4, 3)
    parts = [random.normal(size=(1, 1, *shape)) for shape in shapes]
    parts[2] = np.exp(parts[2] - 1)
    config = Config((4, 4, 3))

    def total(parts: list[tf.Tensor]) -> tf.Tensor:
        return tf.reduce_sum(pixel_log_prob(config, Mixture(*parts), images))

    sources = [tf.constant(part) for part in parts]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        value = total(sources)
    gradients = tape.gradient(value, sources)
    for _ in range(10):
        steps = [1e-6 * random.normal(size=part.shape) for part in parts]
        ahead, behind = (total([x + sign * step for x, step in zip(sources, steps, strict=True)]) for sign in (1, -1))
        predicted = sum(tf.reduce_sum(gradient * step) for gradient, step in zip(gradients, steps, strict=True))
        assert predicted.numpy() == pytest.approx((ahead - behind).numpy() / 2, rel=1e-5)


@pytest.mark.parametrize(("low", "high", "channels"), [(0, 255, 1), (0, 1, 1), (-3, 4, 1), (0, 7, 3)])
def test_the_masses_of_all_values_sum_to_one(low: int, high: int, channels: int) -> None:
    config = Config((4, 4, channels), low=low, high=high)
    random = np.random.default_rng(2)
    values = np.array(list(itertools.product(range(low, high + 1), repeat=channels)))
    shapes = [(6,), (6, channels), (6, channels), *([(6, 3)] if channels == 3 else [])]
    parts = [np.broadcast_to(random.normal(size=shape), (len(values), *shape)) for shape in shapes]
    parts[2] = np.exp(parts[2] * 3 - 2)
    log_prob = pixel_log_prob(config, mixture(*parts), row(values))
    assert np.exp(log_prob.numpy().astype(np.float64)).sum() == pytest.approx(1.0, abs=2e-5)


def test_pixels_are_scaled_to_the_networks_range() -> None:
    images = tf.constant([-3.0, 0.0, 4.0])
    np.testing.assert_allclose(scale_pixels(Config((4, 4, 1), low=-3, high=4), images), [-1, -1 / 7, 1], atol=1e-7)
