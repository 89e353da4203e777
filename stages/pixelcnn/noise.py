"""Drawing pixels from the network's outputs with noise that is given, in NumPy.

A pixel's component is the argmax of logits + temperature * Gumbel noise, its value loc + temperature * scale * logistic
noise: at temperature 1 a draw from the mixture, at 0 its likeliest component's centre. With the noise outside, two
samplers that should agree can be compared pixel for pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.pixelcnn.network import Config

Floats = NDArray[np.float32]

ZERO, ONE, MINUS_ONE = np.zeros((), np.float32), np.ones((), np.float32), -np.ones((), np.float32)
SMALLEST_SCALE = np.array(np.exp(-7.0), np.float32)  # TFP's floor


class Noise(NamedTuple):
    """What a drawing is made of beside the weights; leading axes (drawings, height, width) or those of a part.

    Attributes:
      gumbel: (…, num_logistic_mix), standard Gumbel.
      logistic: (…, channels), standard logistic.
    """

    gumbel: Floats
    logistic: Floats


def noise(config: Config, seed: int, keys: NDArray[np.integer]) -> Noise:
    """The noise of drawings, each by its key alone: whatever the batch, the order or the machine.

    The counter-based generator Philox (Salmon et al. 2011) with the seed as its key and the drawing's key in the
    counter: no two drawings share a random number.

    Args:
      config: image_shape and num_logistic_mix are read.
      seed: from 0 up, below 2 ** 64.
      keys: (drawings, k), whole numbers from 0 up, k from 1 to 3: a class and an index, say.
    """
    height, width, channels = config.image_shape
    each = config.num_logistic_mix + channels
    uniform = np.empty((len(keys), height, width, each))
    for row, key in zip(uniform, keys, strict=True):
        # The lowest of the counter's four words counts within the drawing.
        counter = np.zeros(4, np.uint64)
        counter[1 : 1 + len(key)] = key
        raw = np.random.Philox(counter=counter, key=np.array([seed, 0], np.uint64)).random_raw(row.size)
        row[...] = ((raw >> np.uint64(11)).astype(np.float64) + 0.5).reshape(row.shape) * 2.0**-53
    gumbel, logistic = np.split(uniform, [config.num_logistic_mix], axis=-1)
    return Noise(
        (-np.log(-np.log(gumbel))).astype(np.float32), (np.log(logistic) - np.log1p(-logistic)).astype(np.float32)
    )


class Pixels(NamedTuple):
    """Drawn pixels on two scales.

    Attributes:
      value: (channels, pixels), from low to high and before rounding.
      scaled: (channels, pixels), from -1 to 1: what the network sees of them.
    """

    value: Floats
    scaled: Floats


class PixelSampler:
    """Draws pixels of one number, again and again: what can be computed beforehand is.

    Attributes:
      quantised: whether the network, and the channels to come, see a pixel rounded.
    """

    def __init__(self, config: Config, pixels: int, *, quantised: bool = True) -> None:
        self.config, self.quantised = config, quantised
        parameters = config.num_outputs // config.num_logistic_mix
        # In the outputs as one axis: where a component begins, a pixel is, and what is wanted of them.
        self.component = parameters * pixels
        self.wanted = np.arange(1, parameters)[:, np.newaxis] * pixels + np.arange(pixels)

    def __call__(self, outputs: Floats, gumbel: Floats, logistic: Floats, seen: Floats | None = None) -> Pixels:
        """Pixels from the parameters of their mixtures, pixels along the last axis.

        Args:
          outputs: (num_outputs, pixels), of each component its logit, locs, scales before they are made positive, and
            coeffs.
          gumbel: (num_logistic_mix, pixels), noise times temperature.
          logistic: (channels, pixels), noise times temperature.
          seen: (channels, pixels), -1 to 1: what the channels to come see in place of what is drawn.
        """
        channels = self.config.num_channels
        logits = outputs[:: outputs.shape[0] // len(gumbel)]
        component = (logits + gumbel).argmax(axis=0)
        component *= self.component
        locs_scales_coeffs = outputs.reshape(-1).take(self.wanted + component)
        scales = np.logaddexp(locs_scales_coeffs[channels : 2 * channels], ZERO)
        scales += SMALLEST_SCALE
        scaled = scales * logistic
        scaled += locs_scales_coeffs[:channels]
        value = np.empty_like(scaled)
        coeffs = iter(locs_scales_coeffs[2 * channels :])
        for i in range(channels):
            for j in range(i):
                scaled[i] += next(coeffs) * (scaled if seen is None else seen)[j]
            np.minimum(scaled[i], ONE, out=scaled[i])
            np.maximum(scaled[i], MINUS_ONE, out=scaled[i])
            value[i] = to_pixels(self.config, scaled[i])
            if self.quantised:
                scaled[i] = to_scale(self.config, np.rint(value[i]))
        return Pixels(value, scaled)


def to_pixels(config: Config, scaled: Floats) -> Floats:
    """From the network's -1..1 to low..high."""
    return (scaled + ONE) * np.float32((config.high - config.low) / 2) + np.float32(config.low)


def to_scale(config: Config, pixels: Floats) -> Floats:
    """From low..high to the network's -1..1."""
    return (pixels - np.float32(config.low)) * np.float32(2) / np.float32(config.high - config.low) - ONE
