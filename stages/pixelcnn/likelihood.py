"""The log-likelihood of a mixture of quantised logistics, finite for all finite parameters.

PixelCNN++ (arXiv 1701.05517) gives an integer pixel the mass of a logistic in its bin, from half a grey level below to
half a level above. The bins of the lowest and of the highest value extend to infinity. Let a and b be the ends of the
bin, relative to the centre and in units of the scale. In float32 the difference of two sigmoids cancels to 0 if both
are near 0 or near 1. Written as

    log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b))

it is a sum of three terms of the same sign, and nothing cancels. All computation stays on the network's scale of -1 to
1, where a pixel is rounded once: on the scale of grey levels, rounding alone shifts a location of 0.3 by 1e-5 levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stages.pixelcnn import network
from stages.pixelcnn.network import Config, Mixture

# Locations and coefficients are clipped to this absolute value. With the smallest scale a log-probability is then at
# least -1e33 and its gradient at most 1e36, so that the sum over an image still fits into a float32.
MAX_ABS_LOC = 1e30


def pixel_log_prob(config: Config, mixture: Mixture, images: tf.Tensor) -> tf.Tensor:
    """Natural log of every pixel's probability given the pixels before it, (batch, height, width).

    Args:
      config: of the network that computed the mixture; `low`, `high` and the number of channels are read.
      mixture: parameters on the network's scale.
      images: (batch, height, width, channels), integers from `low` to `high` in the mixture's type. Values outside have
        no mass in the model; the caller rejects them.
    """
    low, high = config.low, config.high
    # Rounds once, where `scale_pixels` rounds twice.
    pixels = (2.0 * images - (low + high)) / (high - low)
    distance = pixels[..., tf.newaxis, :] - channel_locs(mixture, pixels)
    mass = _log_mass(config, images[..., tf.newaxis, :], distance, mixture.scales)
    component = tf.reduce_sum(mass, axis=-1) + tf.nn.log_softmax(mixture.logits)
    return tf.reduce_logsumexp(component, axis=-1)


def _log_mass(config: Config, y: tf.Tensor, distance: tf.Tensor, scales: tf.Tensor) -> tf.Tensor:
    """Log of a logistic's mass in the bin of pixel y, at a distance from the logistic's centre.

    The gradient is hand-written: automatic differentiation takes twice as long, and where the scale is large it
    subtracts two numbers near 1/2.
    """
    half_bin = 1.0 / (config.high - config.low)
    lowest, highest = y <= config.low, y >= config.high

    @tf.custom_gradient
    def log_mass(distance: tf.Tensor, scales: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        begin, end = (distance - half_bin) / scales, (distance + half_bin) / scales
        below_end, above_begin = tf.math.log_sigmoid(end), tf.math.log_sigmoid(-begin)
        inside = below_end + above_begin + _log1mexp(2.0 * half_bin, scales)

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            beyond_end, before_begin = tf.sigmoid(-end), tf.sigmoid(begin)
            # Inside, their difference is -sinh(u) / (cosh(u) + cosh(h)); both parts are multiplied by 2 exp(-|u|).
            u, h = tf.abs(distance / scales), half_bin / scales
            inside_slope = -tf.sign(distance) * tf.math.expm1(-2.0 * u)
            inside_slope /= -(1.0 + tf.exp(-2.0 * u) + tf.exp(h - u) + tf.exp(-h - u))
            slope = tf.where(lowest, beyond_end, tf.where(highest, -before_begin, inside_slope))
            x = 2.0 * h
            inside_scale_slope = tf.where(x > 1e-6, x / tf.math.expm1(tf.maximum(x, 1e-6)), 1.0)
            scale_slope = tf.where(highest, 0.0, end * beyond_end) - tf.where(lowest, 0.0, begin * before_begin)
            scale_slope += tf.where(lowest | highest, 0.0, inside_scale_slope)
            return [upstream * slope / scales, -upstream * scale_slope / scales]

        return tf.where(lowest, below_end, tf.where(highest, above_begin, inside)), gradient

    return log_mass(distance, scales)


def _log1mexp(width: float, scales: tf.Tensor) -> tf.Tensor:
    """log(1 - exp(-width / scale)), also where the quotient is too small for a float.

    Below log 2 it is log(width / scale) and the series of log(sinh(x / 2) / (x / 2)), off by at most 1e-9; above, log1p
    (Maechler 2012).
    """
    x = width / scales
    square = x * x
    series = math.log(width) - tf.math.log(scales) - x / 2 + square * (1 / 24 - square * (1 / 2880 - square / 181440))
    return tf.where(x < math.log(2.0), series, tf.math.log1p(-tf.exp(-x)))


def channel_locs(mixture: Mixture, pixels: tf.Tensor) -> tf.Tensor:
    """The components' locations given the earlier channels: loc_i + sum over j < i of coeff_ij * channel_j.

    Args:
      mixture: parameters on the network's scale.
      pixels: (batch, height, width, channels), from -1 to 1.

    Returns:
      (batch, height, width, num_logistic_mix, channels).
    """
    locs = tf.clip_by_value(mixture.locs, -MAX_ABS_LOC, MAX_ABS_LOC)
    if mixture.coeffs is None:
        return locs
    by_channel = tf.unstack(locs, axis=-1)
    coeffs = iter(tf.unstack(tf.clip_by_value(mixture.coeffs, -MAX_ABS_LOC, MAX_ABS_LOC), axis=-1))
    for i in range(len(by_channel)):
        for j in range(i):
            by_channel[i] += next(coeffs) * pixels[..., tf.newaxis, j]
    return tf.stack(by_channel, axis=-1)


class PixelBits:
    """Measures images: -log2 of the probability of each pixel given the pixels before it.

    Args:
      config: the architecture.
      parameters: plain kernels and biases, from `network.kernels`.
      batch_size: how many images are measured at a time; the results do not depend on it.
    """

    BATCH_SIZE = 64

    def __init__(self, config: Config, parameters: network.Parameters, batch_size: int = BATCH_SIZE) -> None:
        self._config, self._batch_size = config, batch_size

        @tf.function(autograph=False)
        def log_prob(images: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
            values = tf.cast(images, tf.float32)
            mixture = network.forward(config, parameters, scale_pixels(config, values), condition)
            return pixel_log_prob(config, mixture, values)

        self._log_prob = log_prob

    def __call__(
        self,
        images: NDArray[np.integer],
        condition: NDArray[np.float32] | None,
        progress: Callable[[int], object] = lambda _: None,
    ) -> NDArray[np.float64]:
        """Return the bits of each pixel, summed over its channels, (N, height, width).

        Args:
          images: (N, height, width, channels), integers from low to high.
          condition: (N, *conditional_shape), or None if the network has no condition.
          progress: called with the number of images that have been measured since the last call.
        """
        batches = [np.empty((0, *self._config.image_shape[:2]), np.float32)]
        for start in range(0, len(images), self._batch_size):
            # The last batch is padded with copies of the last image, so that one traced graph serves all batches.
            rows = np.minimum(np.arange(start, start + self._batch_size), len(images) - 1)
            conditions = None if condition is None else tf.constant(condition[rows])
            batches.append(self._log_prob(tf.constant(images[rows]), conditions).numpy())
            progress(min(self._batch_size, len(images) - start))
        return -np.concatenate(batches)[: len(images)].astype(np.float64) / math.log(2)


def scale_pixels(config: Config, images: tf.Tensor) -> tf.Tensor:
    """Pixels from low..high to the network's -1..1."""
    return 2.0 * (images - config.low) / (config.high - config.low) - 1.0
