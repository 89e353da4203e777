"""Exact conversion of weights to and from `tfp.distributions.PixelCNN`.

TFP's kernels are full and multiplied by masks; those of `network` hold only the unmasked taps. TFP has variables for
each layer; here the layers of a kind are stacked. The conversion does not round.
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
    """The parameters of a TFP distribution, and whether data-dependent initialisation is done.

    TFP's network sees later pixels until its first optimiser step; the result is the masked network. Until its first
    batch TFP's network has no scales; the scales of the result then leave the kernels unchanged.
    """
    masks = _unmasked_taps(config)
    arrays: dict[str, list[NDArray[np.floating]]] = {}
    initialised = True
    for (name, _), layer in zip(_layer_order(config), _tfp_layers(dist), strict=True):
        inner = layer.layer if isinstance(layer, WeightNorm) else layer
        normed = inner is not layer
        kernel = (layer.v if normed else inner.kernel).numpy()
        kernel = kernel[masks.get(name, ())]
        if name == "horizontal/skip_up":
            kernel = kernel[_skip_up_rows(config)]
        arrays.setdefault(f"{name}/{'v' if normed else 'kernel'}", []).append(kernel)
        arrays.setdefault(f"{name}/b", []).append(inner.bias.numpy())
        if normed:
            arrays.setdefault(f"{name}/g", []).append(layer.g.numpy())
            initialised &= bool(layer.initialized.numpy())
    parameters = {name: np.stack(arrays[name]) for name in network.shapes(config)}
    if not initialised:
        parameters |= {name: value.numpy() for name, value in network.norms(config, parameters).items()}
    return parameters, initialised or not config.use_data_init


def to_tfp(dist: tfd.PixelCNN, config: Config, parameters: network.Parameters, initialised: bool) -> None:
    """Set the variables of a TFP distribution of the same architecture. Masked taps become zero."""
    masks = _unmasked_taps(config)
    for (name, index), layer in zip(_layer_order(config), _tfp_layers(dist), strict=True):
        inner = layer.layer if isinstance(layer, WeightNorm) else layer
        normed = inner is not layer
        variable = layer.v if normed else inner.kernel
        taps = np.asarray(parameters[f"{name}/{'v' if normed else 'kernel'}"][index])
        if name == "horizontal/skip_up":
            taps = taps[np.argsort(_skip_up_rows(config))]
        kernel = np.zeros(variable.shape, taps.dtype)
        kernel[masks.get(name, ())] = taps
        variable.assign(kernel)
        inner.bias.assign(parameters[f"{name}/b"][index])
        if normed:
            # At its first batch a TFP layer multiplies g by the new scale, so g must be 1.
            layer.g.assign(parameters[f"{name}/g"][index] if initialised else np.ones(layer.g.shape))
            layer.initialized.assign(initialised)


def _layer_order(config: Config) -> Iterator[tuple[str, int]]:
    """Yield (name, index) of each layer in the order of `_tfp_layers`; the index counts the layers of a name from 0."""
    convolutions, dense, transposed = ["init/vertical", "init/up", "init/left"], list[str](), list[str]()
    level = 0
    for block_level, up in config.blocks:
        if block_level != level:
            names, resampling = (convolutions, "shrink") if block_level > level else (transposed, "grow")
            names += [f"{stack}/{resampling}" for stack in STACKS]
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


def _tfp_layers(dist: tfd.PixelCNN) -> list[Any]:
    """TFP's layers with weights: convolutions, dense layers, transposed convolutions, each in order of creation.

    Keras sorts a network's layers by depth; the number at the end of a name gives the order of creation.
    """
    by_type: dict[str, list[tuple[int, Any]]] = {"Conv2D": [], "Dense": [], "Conv2DTranspose": []}
    for layer in dist.network._network.layers:
        inner = layer.layer if isinstance(layer, WeightNorm) else layer
        if isinstance(inner, tf_keras.layers.Layer) and type(inner).__name__ in by_type:
            number = re.search(r"\d+$", inner.name)
            by_type[type(inner).__name__].append((int(number[0]) if number else 0, layer))
    return [layer for layers in by_type.values() for _, layer in sorted(layers, key=lambda numbered: numbered[0])]


def _unmasked_taps(config: Config) -> dict[str, tuple[slice, ...]]:
    """The unmasked taps of TFP's full kernels; layers that are not listed have no mask."""
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


def _skip_up_rows(config: Config) -> NDArray[np.intp]:
    """The rows of TFP's kernel that reads the features of two stacks, in the order of the kernel of `network`.

    TFP activates the joined features, concat_elu([v, s]) = elu([v, s, -v, -s]); `network` joins the activated features,
    elu([v, -v, s, -s]).
    """
    rows = np.arange(2 * config.activated_channels)
    if config.resnet_activation != "concat_elu":
        return rows
    return rows.reshape(4, config.num_filters)[[0, 2, 1, 3]].reshape(-1)
