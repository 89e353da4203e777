"""The likelihood against mpmath, where float32 has every chance to go wrong."""

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
SMALLEST_SCALE = math.exp(-7.0)

PIXELS = (0, 1, 2, 37, 127, 128, 254, 255)
LOCS = (0.0, 0.3, 0.5, -0.99, -1.0, 1.0, 1.004, 2.0, -3.0, 10.0, -50.0, 700.0, -1e3, 1e4, -6.6e4, 1e5, 1e6, -1e6, 3e7)
SCALES = (SMALLEST_SCALE, 1e-3, 1.1e-3, 2e-3, 5e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1e3, 1e4, 1e5, 2e5)
GRID = list(itertools.product(PIXELS, LOCS, SCALES, (0.0, -50.0)))


class Exact(NamedTuple):
    """Of one logistic: log-probability of a pixel, and its derivatives."""

    value: float
    by_loc: float
    by_scale: float


def exact(config: Config, pixel: int, loc: float, scale: float) -> Exact:
    """By the definition, as the difference of two sigmoids, with digits enough for it."""
    with mpmath.workdps(60):
        low, high = config.low, config.high
        distance = mpmath.mpf(2 * pixel - low - high) / (high - low) - mpmath.mpf(loc)
        begin, end = ((distance + side * mpmath.mpf(1) / (high - low)) / mpmath.mpf(scale) for side in (-1, 1))
        # In the upper tail, the difference of what is above: the same by symmetry.
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


def with_gradients(config: Config, made: Mixture, images: tf.Tensor) -> tuple[npt.NDArray[np.float32], Mixture]:
    """Log-probabilities (pixels,), and the gradient of their sum."""
    sources = [part for part in made if part is not None]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        value = pixel_log_prob(config, made, images)
    gradients = [gradient.numpy()[0, 0] for gradient in tape.gradient(value, sources)]
    return value.numpy()[0, 0], Mixture(*gradients, *[None] * (4 - len(gradients)))


def test_agrees_with_mpmath_on_the_grid() -> None:
    """Value and gradient of a component alone, and of one at weight e**-50 beside a component that is everyone's."""
    assert len(GRID) > 3_000
    pixels, locs, scales, weights = np.array(GRID).T
    # A wide logistic in the middle takes the rest of the weight, or none.
    alone = weights == 0
    made = mixture(
        np.stack([np.zeros_like(weights), np.where(alone, -3e38, 50.0)], axis=-1),
        np.stack([locs, np.zeros_like(locs)], axis=-1)[..., None],
        np.stack([scales, np.full_like(scales, 0.3)], axis=-1)[..., None],
    )
    value, gradient = with_gradients(GREY, made, row(pixels[:, None]))
    assert np.isfinite(value).all()
    assert all(np.isfinite(part).all() for part in gradient if part is not None)

    rounded = made.locs.numpy()[0, 0, :, 0, 0], made.scales.numpy()[0, 0, :, 0, 0]
    one = [exact(GREY, int(y), float(loc), float(scale)) for y, loc, scale in zip(pixels, *rounded, strict=True)]
    other = {y: exact(GREY, y, 0.0, float(np.float32(0.3))).value for y in PIXELS}
    logs = np.array([each.value for each in one])
    # The other's share of the weight is 1 - e**-50.
    both = np.where(alone, logs, np.logaddexp(logs - 50.0, [other[int(y)] for y in pixels]))
    np.testing.assert_allclose(value, both, rtol=1e-4, atol=1e-34)
    share = np.where(alone, 1.0, np.exp(logs - 50.0 - both))
    # Below 1e-34 a float32 runs out of digits. The derivative by the scale changes its sign: there its terms cancel.
    crossing = 1e-6 * share * np.minimum(1.0, abs(both)) / rounded[1]
    for found, wanted, cancelled in ((gradient.locs, "by_loc", 0.0), (gradient.scales, "by_scale", crossing)):
        expected = share * np.array([getattr(each, wanted) for each in one])
        np.testing.assert_array_less(abs(found[:, 0, 0] - expected), 1e-4 * abs(expected) + cancelled + 1e-34)


FINITE = st.floats(-3e38, 3e38)
FREELY = settings(max_examples=25, deadline=None)


@FREELY
@given(st.lists(st.tuples(st.integers(0, 255), FINITE, st.floats(SMALLEST_SCALE, 3e38), FINITE), min_size=1))
def test_is_finite_for_every_finite_parameter(points: list[tuple[int, float, float, float]]) -> None:
    pixels, locs, scales, logits = np.array(points).T
    made = mixture(
        np.stack([logits, 0 * logits], axis=-1),
        np.stack([locs, locs / 2], axis=-1)[..., None],
        np.stack([scales, scales], axis=-1)[..., None],
    )
    value, gradient = with_gradients(GREY, made, row(pixels[:, None]))
    assert np.isfinite(value).all() and (value <= 0).all()
    assert all(np.isfinite(part).all() for part in gradient if part is not None)


@FREELY
@given(
    high=st.sampled_from((1, 7, 255, 65_535)),
    points=st.lists(
        st.tuples(st.floats(0, 1), st.floats(-1e7, 1e7) | st.floats(-1.5, 1.5), st.floats(-7, 20)), min_size=1
    ),
)
def test_agrees_with_mpmath_anywhere(high: int, points: list[tuple[float, float, float]]) -> None:
    config = Config((4, 4, 1), high=high)
    places, locs, exponents = np.array(points).T
    pixels = np.rint(places * high)
    made = mixture(np.zeros((len(points), 1)), locs[:, None, None], np.exp(exponents)[:, None, None])
    value, gradient = with_gradients(config, made, row(pixels[:, None]))
    for n, pixel in enumerate(pixels):
        loc, scale = (float(part.numpy()[0, 0, n, 0, 0]) for part in (made.locs, made.scales))
        wanted = exact(config, int(pixel), loc, scale)
        crossing = 1e-6 * min(1.0, abs(wanted.value)) / scale
        assert value[n] == pytest.approx(wanted.value, rel=1e-4, abs=1e-34)
        assert gradient.locs[n].item() == pytest.approx(wanted.by_loc, rel=1e-4, abs=1e-34)
        assert gradient.scales[n].item() == pytest.approx(wanted.by_scale, rel=1e-4, abs=1e-34 + crossing)


@FREELY
@given(seed=st.integers(0, 2**32), spread=st.sampled_from((0.1, 1.0, 1e2, 1e6, 1e37)))
def test_three_channels_are_finite(seed: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    made = mixture(
        random.normal(size=(100, 3)) * spread,
        random.normal(size=(100, 3, 3)) * spread,
        np.logaddexp(0, random.normal(size=(100, 3, 3)) * spread) + SMALLEST_SCALE,
        random.normal(size=(100, 3, 3)) * spread,
    )
    value, gradient = with_gradients(Config((4, 4, 3)), made, row(random.integers(0, 256, (100, 3))))
    assert np.isfinite(value).all()
    assert all(np.isfinite(part).all() for part in gradient if part is not None)


def test_channels_depend_on_those_before_them() -> None:
    """Red, green and blue in turn, each at a location moved by the ones before, against float64 by hand."""
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
    found = pixel_log_prob(Config((4, 4, 3)), mixture(logits, locs, scales, coeffs), row(pixels))
    np.testing.assert_allclose(found.numpy()[0, 0], expected, rtol=1e-4)


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
