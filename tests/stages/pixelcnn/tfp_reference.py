"""TFP's distribution as the reference. Building one takes long, so all tests share one per architecture."""

import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow_probability import distributions as tfd

from stages.pixelcnn import PixelCNN, network
from stages.pixelcnn.network import Config

Images = npt.NDArray[np.float32]


def arguments(config: Config) -> dict[str, Any]:
    """The arguments of TFP's constructor."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "position"}


@functools.cache
def tfp_distribution(config: Config) -> tfd.PixelCNN:
    """TFP's distribution; its weights are those that the last test set."""
    return tfd.PixelCNN(**arguments(config))


def apply_masks(dist: tfd.PixelCNN) -> None:
    """Apply the masks, as TFP does after an optimiser step (and should do before the first)."""
    for variable in dist.trainable_variables:
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))


def random_distribution(config: Config, seed: int) -> PixelCNN:
    """A `PixelCNN` with random weights, biases and scales, so that every layer affects the result."""
    random = np.random.default_rng(seed)
    parameters = {
        name: value.numpy() + (0.0 if name.endswith(("/v", "/kernel")) else 0.2) * random.normal(size=value.shape)
        for name, value in network.initialise(config, seed).items()
    }
    return PixelCNN.from_parameters(config, parameters)


def images(config: Config, *batch: int, seed: int = 0) -> Images:
    """Random images that include the minimum and the maximum."""
    pixels = np.random.default_rng(seed).integers(config.low, config.high + 1, (*batch, *config.image_shape))
    pixels[..., 0, :, :], pixels[..., 1, 0, :] = config.low, config.high
    return pixels.astype(np.float32)


def condition(config: Config, *batch: int, seed: int = 0) -> dict[str, Any]:
    """The conditional input as a keyword argument; empty without a condition."""
    if config.conditional_shape is None:
        return {}
    values = np.random.default_rng(seed).normal(size=(*batch, *config.conditional_shape))
    return {"conditional_input": values.astype(np.float32)}
