"""TFP's own distribution, which takes long to build: one for each architecture, shared by all tests."""

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
    """Of TFP's constructor."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "position"}


@functools.cache
def tfp(config: Config) -> tfd.PixelCNN:
    """A distribution of TFP's; its weights are as the last test left them."""
    return tfd.PixelCNN(**arguments(config))


def mask(dist: tfd.PixelCNN) -> None:
    """What TFP does after an optimiser's step, and should do before the first."""
    for variable in dist.trainable_variables:
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))


def shake(config: Config, seed: int) -> PixelCNN:
    """Ours with random weights, biases and scales that no layer is indifferent to."""
    random = np.random.default_rng(seed)
    parameters = {
        name: value.numpy() + (0.0 if name.endswith(("/v", "/kernel")) else 0.2) * random.normal(size=value.shape)
        for name, value in network.initialise(config, seed).items()
    }
    return PixelCNN.from_parameters(config, parameters)


def images(config: Config, *batch: int, seed: int = 0) -> Images:
    """Random images, every extreme among them."""
    drawn = np.random.default_rng(seed).integers(config.low, config.high + 1, (*batch, *config.image_shape))
    drawn[..., 0, :, :], drawn[..., 1, 0, :] = config.low, config.high
    return drawn.astype(np.float32)


def condition(config: Config, *batch: int, seed: int = 0) -> dict[str, Images]:
    """The conditional input, as an argument; none where there is none."""
    if config.conditional_shape is None:
        return {}
    drawn = np.random.default_rng(seed).normal(size=(*batch, *config.conditional_shape))
    return {"conditional_input": drawn.astype(np.float32)}
