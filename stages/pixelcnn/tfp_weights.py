"""Weights to and from `tfp.distributions.PixelCNN`, to the bit.

TFP's kernels are full and multiplied by masks; ours hold the taps that the masks let through. TFP has variables for
each layer; ours are stacked by kind. Neither step rounds anything.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import tf_keras
from numpy.typing import NDArray
from tensorflow_probability import distributions as tfd
from tensorflow_probability.python.layers.weight_norm import WeightNorm

from stages.pixelcnn import network
from stages.pixelcnn.network import STACKS, Config


def from_tfp(dist: tfd.PixelCNN, config: Config) -> tuple[dict[str, NDArray[np.floating]], bool]:
    """The parameters of TFP's distribution, and whether it has had its first batch.

    A network of TFP's lets the future through until its first optimiser step; what comes back is that network masked.
    Until its first batch it has no scales; what comes back has those that leave the kernels as they are.
    """
    masks = _masks(config)
    found: dict[str, list[NDArray[np.floating]]] = {}
    initialised = True
    for (name, _), layer in zip(_order(config), _layers(dist), strict=True):
        inner = layer.layer if isinstance(layer, WeightNorm) else layer
        normed = inner is not layer
        kernel = (layer.v if normed else inner.kernel).numpy()
        kernel = kernel[masks.get(name, ())]
        if name == "horizontal/skip_up":
            kernel = kernel[_order_of_rows(config)]
        found.setdefault(f"{name}/{'v' if normed else 'kernel'}", []).append(kernel)
        found.setdefault(f"{name}/b", []).append(inner.bias.numpy())
        if normed:
            found.setdefault(f"{name}/g", []).append(layer.g.numpy())
            initialised &= bool(layer.initialized.numpy())
    parameters = {name: np.stack(found[name]) for name in network.shapes(config)}
    if not initialised:
        parameters |= {name: value.numpy() for name, value in network.norms(config, parameters).items()}
    return parameters, initialised or not config.use_data_init


def to_tfp(dist: tfd.PixelCNN, config: Config, parameters: network.Parameters, initialised: bool) -> None:
    """Sets the variables of TFP's distribution, of the same architecture. What its masks cut off becomes zero."""
    masks = _masks(config)
    for (name, index), layer in zip(_order(config), _layers(dist), strict=True):
        inner = layer.layer if isinstance(layer, WeightNorm) else layer
        normed = inner is not layer
        variable = layer.v if normed else inner.kernel
        taps = np.asarray(parameters[f"{name}/{'v' if normed else 'kernel'}"][index])
        if name == "horizontal/skip_up":
            taps = taps[np.argsort(_order_of_rows(config))]
        kernel = np.zeros(variable.shape, taps.dtype)
        kernel[masks.get(name, ())] = taps
        variable.assign(kernel)
        inner.bias.assign(parameters[f"{name}/b"][index])
        if normed:
            # A layer of TFP's that waits for its first batch multiplies what it finds there.
            layer.g.assign(parameters[f"{name}/g"][index] if initialised else np.ones(layer.g.shape))
            layer.initialized.assign(initialised)


def _order(config: Config) -> Iterator[tuple[str, int]]:
    """The names of our layers, and which of the name, in the order of `_layers`."""
    convolutions, dense, transposed = ["init/vertical", "init/up", "init/left"], list[str](), list[str]()
    level = 0
    for block_level, up in config.blocks:
        if block_level != level:
            names, change = (convolutions, "shrink") if block_level > level else (transposed, "grow")
            names += [f"{stack}/{change}" for stack in STACKS]
        level = block_level
        for stack in STACKS:
            convolutions += [f"{stack}/conv1", f"{stack}/conv2"]
            if up:
                dense.append(f"{stack}/skip_up")
            elif stack == "horizontal":
                dense.append("horizontal/skip_down")
            if config.conditional_shape is not None:
                dense.append(f"{stack}/condition")
    dense.append("output")
    count: Counter[str] = Counter()
    for name in convolutions + dense + transposed:
        yield name, count[name]
        count[name] += 1


def _layers(dist: tfd.PixelCNN) -> list[Any]:
    """TFP's layers with weights: convolutions, dense ones, transposed convolutions, each in the order of making.

    Keras sorts a network's layers by depth; the number at the end of a name tells the order in which they were made.
    """
    found: dict[str, list[tuple[int, Any]]] = {"Conv2D": [], "Dense": [], "Conv2DTranspose": []}
    for layer in dist.network._network.layers:
        inner = layer.layer if isinstance(layer, WeightNorm) else layer
        if isinstance(inner, tf_keras.layers.Layer) and type(inner).__name__ in found:
            number = re.search(r"\d+$", inner.name)
            found[type(inner).__name__].append((int(number[0]) if number else 0, layer))
    return [layer for layers in found.values() for _, layer in sorted(layers, key=lambda numbered: numbered[0])]


def _masks(config: Config) -> dict[str, tuple[slice, ...]]:
    """The taps of TFP's full kernels that its masks let through; layers that are not here have no mask."""
    rows, columns = config.receptive_field_dims
    half = columns // 2
    vertical, horizontal = (slice(0, rows - 1), slice(0, columns)), (slice(0, 2), slice(0, half + 1))
    return {
        "init/vertical": vertical,
        "init/up": (slice(0, 1), slice(0, columns)),
        "init/left": (slice(0, 2), slice(0, half)),
        **{f"vertical/{name}": vertical for name in ("conv1", "conv2", "shrink")},
        **{f"horizontal/{name}": horizontal for name in ("conv1", "conv2", "shrink")},
        "vertical/grow": (slice(rows - 3, None), slice(0, columns)),
        "horizontal/grow": (slice(0, 2), slice(half - 1, None)),
    }


def _order_of_rows(config: Config) -> NDArray[np.intp]:
    """Rows of TFP's kernels that read activations of two stacks joined, as ours read them joined after activation.

    concat_elu of [v, s] is the elu of [v, s, -v, -s] there and of [v, -v, s, -s] here.
    """
    rows = np.arange(2 * config.activated)
    if config.resnet_activation != "concat_elu":
        return rows
    return rows.reshape(4, config.num_filters)[[0, 2, 1, 3]].reshape(-1)
