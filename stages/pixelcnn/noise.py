"""Pixels sampled from the network's outputs with given noise, in NumPy.

The component of a pixel is the argmax of logits + temperature * Gumbel noise. Its value is loc + temperature * scale *
logistic noise. At temperature 1 this is a sample of the mixture; at 0 it is the loc of the likeliest component. Because
the noise is an argument, two samplers that should agree can be compared pixel by pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.pixelcnn.network import Config

Floats = NDArray[np.float32]

ZERO, ONE, MINUS_ONE = np.zeros((), np.float32), np.ones((), np.float32), -np.ones((), np.float32)
MIN_SCALE = np.array(np.exp(-7.0), np.float32)  # TFP's lower bound


class Noise(NamedTuple):
    """The random numbers of drawings; leading axes (drawings, height, width), or a part of them.

    Attributes:
      gumbel: (…, num_logistic_mix), standard Gumbel.
      logistic: (…, channels), standard logistic.
    """

    gumbel: Floats
    logistic: Floats


def noise(config: Config, seed: int, keys: NDArray[np.integer]) -> Noise:
    """The noise of drawings. It depends only on the seed and a drawing's key, not on batch, order or machine.

    The seed is the key of the counter-based generator Philox (Salmon et al. 2011), and the drawing's key is a part of
    its counter, so no two drawings share a random number.

    Args:
      config: image_shape and num_logistic_mix are read.
      seed: at least 0, below 2 ** 64.
      keys: (drawings, k), integers of at least 0, with k from 1 to 3; for example a label and an index.
    """
    height, width, channels = config.image_shape
    per_pixel = config.num_logistic_mix + channels
    uniform = np.empty((len(keys), height, width, per_pixel))
    for numbers, key in zip(uniform, keys, strict=True):
        # The lowest of the counter's four words counts the random numbers of the drawing.
        counter = np.zeros(4, np.uint64)
        counter[1 : 1 + len(key)] = key
        raw = np.random.Philox(counter=counter, key=np.array([seed, 0], np.uint64)).random_raw(numbers.size)
        numbers[...] = ((raw >> np.uint64(11)).astype(np.float64) + 0.5).reshape(numbers.shape) * 2.0**-53
    gumbel, logistic = np.split(uniform, [config.num_logistic_mix], axis=-1)
    return Noise(
        (-np.log(-np.log(gumbel))).astype(np.float32), (np.log(logistic) - np.log1p(-logistic)).astype(np.float32)
    )


class Pixels(NamedTuple):
    """Sampled pixels on two scales.

    Attributes:
      value: (channels, pixels), from low to high, before rounding.
      scaled: (channels, pixels), from -1 to 1, as the network sees them.
    """

    value: Floats
    scaled: Floats


class PixelSampler:
    """Samples a fixed number of pixels per call; computes the indices in advance.

    Attributes:
      quantised: whether the network, and the later channels of the pixel, see a channel's value rounded.
    """

    def __init__(self, config: Config, pixels: int, *, quantised: bool = True) -> None:
        self.config, self.quantised = config, quantised
        parameters = config.num_outputs // config.num_logistic_mix
        # Indices into the flattened outputs: the distance between components, and the parameters of the first one.
        self.component_stride = parameters * pixels
        self.parameter_indices = np.arange(1, parameters)[:, np.newaxis] * pixels + np.arange(pixels)

    def __call__(self, outputs: Floats, gumbel: Floats, logistic: Floats, observed: Floats | None = None) -> Pixels:
        """Sample pixels from the parameters of their mixtures; pixels are along the last axis.

        Args:
          outputs: (num_outputs, pixels): for each component its logit, its locs, its scales before they are made
            positive, and its coeffs.
          gumbel: (num_logistic_mix, pixels), noise times temperature.
          logistic: (channels, pixels), noise times temperature.
          observed: (channels, pixels), from -1 to 1: the values that later channels see in place of the sampled ones.
        """
        channels = self.config.num_channels
        logits = outputs[:: outputs.shape[0] // len(gumbel)]
        component = (logits + gumbel).argmax(axis=0)
        component *= self.component_stride
        locs_scales_coeffs = outputs.reshape(-1).take(self.parameter_indices + component)
        scales = np.logaddexp(locs_scales_coeffs[channels : 2 * channels], ZERO)
        scales += MIN_SCALE
        scaled = scales * logistic
        scaled += locs_scales_coeffs[:channels]
        value = np.empty_like(scaled)
        coeffs = iter(locs_scales_coeffs[2 * channels :])
        for i in range(channels):
            for j in range(i):
                scaled[i] += next(coeffs) * (scaled if observed is None else observed)[j]
            np.minimum(scaled[i], ONE, out=scaled[i])
            np.maximum(scaled[i], MINUS_ONE, out=scaled[i])
            value[i] = to_pixels(self.config, scaled[i])
            if self.quantised:
                scaled[i] = to_scale(self.config, np.rint(value[i]))
        return Pixels(value, scaled)


def to_pixels(config: Config, scaled: Floats) -> Floats:
    """Scale pixels from the network's range -1..1 to `config.low`..`config.high`."""
    return (scaled + ONE) * np.float32((config.high - config.low) / 2) + np.float32(config.low)


def to_scale(config: Config, pixels: Floats) -> Floats:
    """Pixels from low..high to the network's -1..1."""
    return (pixels - np.float32(config.low)) * np.float32(2) / np.float32(config.high - config.low) - ONE
