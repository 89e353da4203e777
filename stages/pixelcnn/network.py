"""The PixelCNN++ network as a pure function from parameters and images to the parameters of each pixel's mixture.

The architecture is that of `tfp.distributions.PixelCNN` (Salimans et al. 2017, arXiv 1701.05517): a vertical stack that
sees the rows above, and a horizontal stack that sees the pixels to the left and the row above. Both are U-nets of gated
residual blocks. The difference is how a pixel is prevented from seeing itself and later pixels. TFP multiplies full
kernels by masks after every optimiser step. Here a kernel holds only the unmasked taps, and padding shifts them into
position. So the network is causal at all times, including at initialisation.

Parameters are a flat dictionary of arrays, `<layer>/<v|g|b|kernel>`. Repeated layers (the convolutions of the residual
blocks, downsampling and upsampling) are stacked along a first axis, in the order in which the network runs them. The
full model has 30 arrays where TFP has 695 variables, which makes it faster to trace and to update.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import tensorflow as tf

from stages.pixelcnn import xla_ops

Parameters = Mapping[str, tf.Tensor]
StackName = Literal["vertical", "horizontal"]
STACKS: tuple[StackName, StackName] = ("vertical", "horizontal")

# Data-dependent initialisation divides by a layer's standard deviation over the first batch. If the outputs vary less
# than this, as those of a blank batch do, their deviation says nothing about their scale, and the scale stays as it is.
# Otherwise the scales would multiply from layer to layer: with 0.1 as a lower bound of the deviation, the norm of the
# first gradient was 3e11 for a plain grey batch; now it is 9.
MIN_STANDARD_DEVIATION = 0.1

PADDING = -1.0  # the scaled value of the pixels that fill an image up to the network's shape: that of `Config.low`


@dataclass(frozen=True)
class Config:
    """The architecture; the arguments are those of `tfp.distributions.PixelCNN`, and `position`.

    Attributes:
      image_shape: height, width, channels.
      conditional_shape: shape of the condition of one image, or None.
      receptive_field_dims: rows and columns that a block's convolution covers, the current row included; columns odd.
      position: input channels that encode a pixel's position: "none" (as TFP), "ones" (a channel of ones, which makes
        the zero padding visible), "coordinates" (ones, row and column from -1 to 1).
    """

    image_shape: tuple[int, int, int]
    conditional_shape: tuple[int, ...] | None = None
    num_resnet: int = 5
    num_hierarchies: int = 3
    num_filters: int = 160
    num_logistic_mix: int = 10
    receptive_field_dims: tuple[int, int] = (3, 3)
    dropout_p: float = 0.5
    resnet_activation: str = "concat_elu"
    use_weight_norm: bool = True
    use_data_init: bool = True
    high: int = 255
    low: int = 0
    position: str = "none"

    def __post_init__(self) -> None:
        rows, columns = self.receptive_field_dims
        if columns % 2 == 0:
            raise ValueError(f"receptive_field_dims {self.receptive_field_dims}: the width must be odd.")
        min_rows = 3 if self.num_hierarchies > 1 else 2
        if rows < min_rows or columns < 3:
            raise ValueError(f"receptive_field_dims {self.receptive_field_dims} must be at least ({min_rows}, 3).")
        if self.resnet_activation not in xla_ops.ACTIVATIONS:
            raise ValueError(
                f"resnet_activation {self.resnet_activation!r} must be one of {', '.join(xla_ops.ACTIVATIONS)}."
            )
        if self.position not in POSITIONS:
            raise ValueError(f"position {self.position!r} must be one of {', '.join(POSITIONS)}.")
        if not 0.0 <= self.dropout_p < 1.0:
            raise ValueError(f"dropout_p {self.dropout_p} must be at least 0 and below 1.")
        if self.high <= self.low:
            raise ValueError(f"high {self.high} must be above low {self.low}.")

    @property
    def num_channels(self) -> int:
        return self.image_shape[2]

    @property
    def padding(self) -> tuple[int, int]:
        """The rows and columns by which images are padded, so that height and width can be halved at each level."""
        height, width, _ = self.image_shape
        stride = 2 ** (self.num_hierarchies - 1)
        return -height % stride, -width % stride

    @property
    def padded_shape(self) -> tuple[int, int, int]:
        """The shape in which the network sees an image."""
        (height, width, channels), (rows, columns) = self.image_shape, self.padding
        return height + rows, width + columns, channels

    @property
    def num_coeffs(self) -> int:
        """Number of coefficients, per component, by which a channel's location depends on the channels before it."""
        return self.num_channels * (self.num_channels - 1) // 2

    @property
    def num_outputs(self) -> int:
        """Number of mixture parameters per pixel."""
        return self.num_logistic_mix * (1 + 2 * self.num_channels + self.num_coeffs)

    @property
    def conditional_size(self) -> int:
        size = 1
        for dimension in self.conditional_shape or ():
            size *= dimension
        return size

    @property
    def activated_channels(self) -> int:
        """Number of channels of an activated feature map: concat_elu doubles them."""
        return self.num_filters * (2 if self.resnet_activation == "concat_elu" else 1)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The residual blocks in the order in which they run: the down path of the U-net, then the up path."""
        down = [Block(level, False) for level in range(self.num_hierarchies) for _ in range(self.num_resnet)]
        up = [
            Block(level, True)
            for level in reversed(range(self.num_hierarchies))
            for _ in range(self.num_resnet + (level < self.num_hierarchies - 1))
        ]
        return tuple(down + up)


class Block(NamedTuple):
    """A residual block, which exists in both stacks.

    Attributes:
      level: 0 is full resolution.
      up: whether the block is on the up path.
    """

    level: int
    up: bool


POSITIONS: dict[str, int] = {"none": 0, "ones": 1, "coordinates": 3}  # number of input channels that each adds


def position_channels(config: Config) -> tf.Tensor:
    """The constant input channels that encode the position in a padded image: (height, width, POSITIONS[position])."""
    height, width, _ = config.padded_shape
    ones = tf.ones((height, width))
    row = tf.linspace(-1.0, 1.0, height)[:, tf.newaxis] * ones
    column = tf.linspace(-1.0, 1.0, width)[tf.newaxis, :] * ones
    return tf.stack([ones, row, column], axis=-1)[..., : POSITIONS[config.position]]


# ---------------------------------------------------------------------------------------------------------------------
# Layers: the taps of each kernel, and the padding that positions them
# ---------------------------------------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """One kind of layer, stacked `copies` times.

    Attributes:
      kernel: shape of one kernel: (rows, columns, in, out); (in, out) for a dense layer; (rows, columns, out, in) if
        `transposed`, as TensorFlow's transposed convolution expects.
      copies: number of layers of this kind.
      fans: fan-in and fan-out of the uncropped kernel, by which TFP's Glorot initialiser scales the kernel.
      normalised: whether weight norm applies (it does not to the projections of the condition).
    """

    kernel: tuple[int, ...]
    copies: int
    fans: tuple[int, int]
    transposed: bool = False
    normalised: bool = True


def layers(config: Config) -> dict[str, Layer]:
    """All kinds of layers by name, in the order in which the network first uses them."""
    rows, columns = config.receptive_field_dims
    half = columns // 2
    filters, activated = config.num_filters, config.activated_channels
    channels = config.num_channels + POSITIONS[config.position]
    num_blocks, num_up = len(config.blocks), sum(block.up for block in config.blocks)
    num_down, num_resamplings = num_blocks - num_up, config.num_hierarchies - 1

    def convolution(taps: tuple[int, int], uncropped: tuple[int, int], fan_in: int, fan_out: int, copies: int) -> Layer:
        size = uncropped[0] * uncropped[1]
        return Layer((*taps, fan_in, fan_out), copies, (size * fan_in, size * fan_out))

    def dense(fan_in: int, fan_out: int, copies: int) -> Layer:
        return Layer((fan_in, fan_out), copies, (fan_in, fan_out))

    table = {
        "init/vertical": convolution((rows - 1, columns), (2 * rows - 1, columns), channels, filters, 1),
        "init/up": convolution((1, columns), (3, columns), channels, filters, 1),
        "init/left": convolution((2, half), (3, columns), channels, filters, 1),
    }
    taps = {"vertical": (rows - 1, columns), "horizontal": (2, half + 1)}
    uncropped = {"vertical": (2 * rows - 3, columns), "horizontal": (3, columns)}
    for stack in STACKS:
        table[f"{stack}/conv1"] = convolution(taps[stack], uncropped[stack], activated, filters, num_blocks)
        table[f"{stack}/conv2"] = convolution(taps[stack], uncropped[stack], activated, 2 * filters, num_blocks)
        if config.conditional_shape is not None:
            projection = dense(config.conditional_size, 2 * filters, num_blocks)
            table[f"{stack}/condition"] = projection._replace(normalised=False)
    table["horizontal/skip_down"] = dense(activated, filters, num_down)
    table["vertical/skip_up"] = dense(activated, filters, num_up)
    table["horizontal/skip_up"] = dense(2 * activated, filters, num_up)
    if num_resamplings:
        for stack in STACKS:
            height, width = taps[stack]
            full_width = width + 1 if stack == "vertical" else 2 * width
            table[f"{stack}/shrink"] = convolution(
                taps[stack], (2 * height, full_width), filters, filters, num_resamplings
            )
            height, width = taps[stack]
            full_width = width + 1 if stack == "vertical" else 2 * width - 2
            table[f"{stack}/grow"] = convolution(
                taps[stack], (2 * height - 2, full_width), filters, filters, num_resamplings
            )._replace(transposed=True)
    table["output"] = dense(filters, config.num_outputs, 1)
    return table


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by name."""
    by_name: dict[str, tuple[int, ...]] = {}
    for name, layer in layers(config).items():
        outputs = layer.kernel[-2 if layer.transposed else -1]
        if layer.normalised and config.use_weight_norm:
            by_name[f"{name}/v"] = (layer.copies, *layer.kernel)
            by_name[f"{name}/g"] = (layer.copies, outputs)
        else:
            by_name[f"{name}/kernel"] = (layer.copies, *layer.kernel)
        by_name[f"{name}/b"] = (layer.copies, outputs)
    return by_name


def initialise(config: Config, seed: int, dtype: tf.DType = tf.float32) -> dict[str, tf.Tensor]:
    """Random initial parameters: Glorot uniform with TFP's fans; for projections of the condition, normal.

    The normal distribution has a standard deviation of 0.05. The same seed gives the same parameters on every machine.
    With weight norm, `g` is the norm of the kernel until `data_dependent_initialisation` replaces it.
    """
    parameters: dict[str, tf.Tensor] = {}
    for index, (name, layer) in enumerate(layers(config).items()):
        key = (seed, index)
        shape = (layer.copies, *layer.kernel)
        outputs = layer.kernel[-2 if layer.transposed else -1]
        if layer.normalised:
            limit = (6.0 / sum(layer.fans)) ** 0.5
            kernel = tf.random.stateless_uniform(shape, key, -limit, limit, dtype)
        else:
            kernel = tf.random.stateless_normal(shape, key, stddev=0.05, dtype=dtype)
        if layer.normalised and config.use_weight_norm:
            parameters[f"{name}/v"] = kernel
        else:
            parameters[f"{name}/kernel"] = kernel
        parameters[f"{name}/b"] = tf.zeros((layer.copies, outputs), dtype)
    return parameters | norms(config, parameters)


def norms(config: Config, parameters: Parameters) -> dict[str, tf.Tensor]:
    """The scales `<layer>/g` with which weight norm leaves the kernels `<layer>/v` unchanged."""
    return {
        f"{name}/g": tf.sqrt(tf.reduce_sum(tf.square(parameters[f"{name}/v"]), axis=_norm_axes(layer)))
        for name, layer in layers(config).items()
        if f"{name}/v" in parameters
    }


def _norm_axes(layer: Layer) -> list[int]:
    """The axes of a stacked kernel over which the norm of one output is taken."""
    rank = len(layer.kernel) + 1
    return [axis for axis in range(1, rank) if axis != rank - (2 if layer.transposed else 1)]


def kernels(config: Config, parameters: Parameters) -> dict[str, tf.Tensor]:
    """Plain kernels and biases, `<layer>/kernel` and `<layer>/b`, with weight norm (arXiv 1602.07868) applied."""
    plain: dict[str, tf.Tensor] = {}
    for name, layer in layers(config).items():
        if f"{name}/v" in parameters:
            v, g = parameters[f"{name}/v"], parameters[f"{name}/g"]
            # Equals `tf.nn.l2_normalize(v) * g`, but combines the two factors of each output before multiplying v.
            scale = g * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(v), axis=_norm_axes(layer)), 1e-12))
            shape = [layer.copies, *[1] * len(layer.kernel)]
            shape[-2 if layer.transposed else -1] = scale.shape[-1]
            plain[f"{name}/kernel"] = v * tf.reshape(scale, shape)
        else:
            plain[f"{name}/kernel"] = parameters[f"{name}/kernel"]
        plain[f"{name}/b"] = parameters[f"{name}/b"]
    return plain


# The layers run on the image rotated by 180 degrees, in which earlier pixels lie below and to the right. TensorFlow's
# SAME padding puts an odd zero after the image, as a kernel that reaches back by one needs it. So no padded copy of a
# feature map is made, forward or backward, which saves 3 to 4% of a training step on a CPU.


def _rotate_180(kernels: Parameters) -> dict[str, tf.Tensor]:
    """The kernels for an image rotated by 180 degrees; dense kernels and biases are unchanged."""
    return {name: tf.reverse(kernel, [1, 2]) if len(kernel.shape) == 5 else kernel for name, kernel in kernels.items()}


def _convolve(
    x: tf.Tensor, kernel: tf.Tensor, rows: tuple[int, int], columns: tuple[int, int], stride: int = 1
) -> tf.Tensor:
    """A convolution, with the given rows and columns of zeros before and after the image; a negative number crops."""
    if min(rows[0], columns[0]) < 0:
        x = x[:, max(-rows[0], 0) :, max(-columns[0], 0) :]
    padding = [(max(before, 0), after) for before, after in (rows, columns)]
    if padding == [
        _same_padding(size, taps, stride) for size, taps in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    ]:
        if stride == 1 and not tf.config.get_visible_devices("GPU"):
            return _convolve_on_cpu(x, kernel)
        return tf.nn.conv2d(x, kernel, strides=stride, padding="SAME")
    return tf.nn.conv2d(tf.pad(x, [(0, 0), *padding, (0, 0)]), kernel, strides=stride, padding="VALID")


@tf.custom_gradient
def _convolve_on_cpu(
    x: tf.Tensor, kernel: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """A convolution with SAME padding, whose gradient by the kernel is a matrix product for each of its taps.

    TensorFlow's own gradient by the kernel takes two to three times as long as the convolution. With rows of equal
    length, a tap moves an image by a number of pixels that is the same for all of them, so both factors of its product
    are parts of one array, and nothing is copied for a tap.
    """
    taps_down, taps_across, inputs, outputs = kernel.shape

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        by_x = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(x), strides=1, padding="SAME")
        rows, columns = ((taps - 1) // 2 for taps in kernel.shape[:2])
        padding = [(0, 0), (rows, taps_down - 1 - rows), (columns, taps_across - 1 - columns), (0, 0)]
        seen = tf.reshape(tf.pad(x, padding), [-1, inputs])
        padding = [(0, 0), (0, taps_down - 1), (0, taps_across - 1), (0, 0)]
        errors = tf.reshape(tf.pad(upstream, padding), [-1, outputs])
        width = x.shape[2] + taps_across - 1
        offsets = [row * width + column for row in range(taps_down) for column in range(taps_across)]
        count = tf.shape(seen)[0] - offsets[-1]  # the rest of `errors` is padding
        products = [tf.matmul(seen[offset : offset + count], errors[:count], transpose_a=True) for offset in offsets]
        return by_x, tf.reshape(tf.stack(products), kernel.shape)

    return tf.nn.conv2d(x, kernel, strides=1, padding="SAME"), gradient


def _same_padding(size: int, taps: int, stride: int) -> tuple[int, int]:
    """The number of zeros that TensorFlow's SAME padding puts before and after a dimension."""
    zeros = max((-(-size // stride) - 1) * stride + taps - size, 0)
    return zeros // 2, zeros - zeros // 2


def _upsample(x: tf.Tensor, kernel: tf.Tensor, rows: int, columns: int) -> tf.Tensor:
    """A transposed convolution that doubles the resolution; crops the first `rows` and `columns` of its output."""
    batch, (height, width) = tf.shape(x)[0], (2 * size for size in x.shape[1:3])
    taps = kernel.shape
    if (rows, columns) == (_same_padding(height, taps[0], 2)[0], _same_padding(width, taps[1], 2)[0]):
        return tf.nn.conv2d_transpose(x, kernel, (batch, height, width, taps[2]), strides=2, padding="SAME")
    full = (batch, height - 2 + taps[0], width - 2 + taps[1], taps[2])
    out = tf.nn.conv2d_transpose(x, kernel, full, strides=2, padding="VALID")
    return out[:, rows : rows + height, columns : columns + width]


def _operations(config: Config) -> dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]:
    """The operation of each kind of layer on a rotated input and a rotated plain kernel, before the bias."""
    rows, columns = config.receptive_field_dims
    half = columns // 2

    def vertical(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return _convolve(x, kernel, (0, rows - 2), (half, half))

    def horizontal(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return _convolve(x, kernel, (0, 1), (0, half))

    return {
        "init/vertical": lambda x, kernel: _convolve(x, kernel, (-1, rows - 1), (half, half)),
        "init/up": lambda x, kernel: _convolve(x, kernel, (-1, 1), (half, half)),
        "init/left": lambda x, kernel: _convolve(x, kernel, (0, 1), (-1, half)),
        "vertical/conv1": vertical,
        "vertical/conv2": vertical,
        "horizontal/conv1": horizontal,
        "horizontal/conv2": horizontal,
        "vertical/skip_up": _dense,
        "horizontal/skip_up": _dense,
        "horizontal/skip_down": _dense,
        "vertical/condition": _dense,
        "horizontal/condition": _dense,
        # An output is at the position of the first of its two rows and columns, which rotation makes the second.
        "vertical/shrink": lambda x, kernel: _convolve(x, kernel, (-1, rows - 2), (half - 1, half), 2),
        "horizontal/shrink": lambda x, kernel: _convolve(x, kernel, (-1, 1), (-1, half), 2),
        "vertical/grow": lambda x, kernel: _upsample(x, kernel, rows - 3, half - 1),
        "horizontal/grow": lambda x, kernel: _upsample(x, kernel, 0, half - 1),
        "output": _dense,
    }


def _dense(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """A matrix product over the channels."""
    if x.shape.rank == 2:
        return x @ kernel
    # A convolution with one tap computes the same, but TensorFlow's gradient by its kernel is slower on a CPU.
    return xla_ops.reshape_like(tf.reshape(x, [-1, kernel.shape[0]]) @ kernel, x)


# ---------------------------------------------------------------------------------------------------------------------
# The network: how the layers are connected
# ---------------------------------------------------------------------------------------------------------------------

# Applies one layer: its name, its index among the layers of that name, its input.
Apply = Callable[[str, int, tf.Tensor], tf.Tensor]
# Runs one residual block: its index, its stack, its input, what is added after the first convolution, the condition.
RunBlock = Callable[[int, StackName, "Features", tf.Tensor | None, tf.Tensor | None], "Features"]


class Features(NamedTuple):
    """A feature map and its activation, which is computed once although several layers read it."""

    value: tf.Tensor
    active: tf.Tensor


class Mixture(NamedTuple):
    """Parameters of every pixel's mixture of logistics, on the network's scale of -1 to 1.

    Attributes:
      logits: (batch, height, width, num_logistic_mix), unnormalised log weights of the components.
      locs, scales: (batch, height, width, num_logistic_mix, channels); scales are positive.
      coeffs: (batch, height, width, num_logistic_mix, num_coeffs), or None for images of one channel.
    """

    logits: tf.Tensor
    locs: tf.Tensor
    scales: tf.Tensor
    coeffs: tf.Tensor | None


def forward(
    config: Config,
    weights: Parameters,
    images: tf.Tensor,
    condition: tf.Tensor | None = None,
    *,
    dropout_seed: tf.Tensor | None = None,
    dtype: tf.DType | None = None,
) -> Mixture:
    """The parameters of every pixel's mixture, a function of the pixels before it in raster order.

    Args: as in `outputs`.
    """
    return _mixture(config, outputs(config, weights, images, condition, dropout_seed=dropout_seed, dtype=dtype))


def outputs(
    config: Config,
    weights: Parameters,
    images: tf.Tensor,
    condition: tf.Tensor | None = None,
    *,
    dropout_seed: tf.Tensor | None = None,
    dtype: tf.DType | None = None,
) -> tf.Tensor:
    """The outputs of the last layer for every pixel: (batch, height, width, num_outputs).

    For each component of the mixture: its logit, its locs, its scales before they are made positive, and its coeffs.

    Args:
      config: the architecture.
      weights: plain kernels and biases, from `kernels`.
      images: (batch, height, width, channels), pixels scaled to -1..1, of the dtype of the weights.
      condition: (batch, *conditional_shape), or None if the network has no condition.
      dropout_seed: two integers, or None for no dropout.
      dtype: of the convolutions and of the activations between them; None uses the dtype of the weights. Weights, sums
        and outputs keep theirs.
    """
    operations = _operations(config)
    sums = images.dtype
    dtype = dtype or sums
    weights = _rotate_180(weights)
    # The kernels of a layer are cast and unstacked once, not at each use.
    stacked = {name: tf.unstack(tf.cast(weights[f"{name}/kernel"], dtype)) for name in layers(config)}
    biases = {name: tf.unstack(weights[f"{name}/b"]) for name in stacked}
    seeds = _block_seeds(config, dropout_seed)

    def apply(name: str, index: int, x: tf.Tensor) -> tf.Tensor:
        return _apply(operations, name, stacked[name][index], biases[name][index], x)

    def block(
        index: int, stack: StackName, source: Features, skip: tf.Tensor | None, condition: tf.Tensor | None
    ) -> Features:
        roles, seed = block_layers(config, index, stack), seeds[index, stack]
        if not tf.inside_function():  # eager, or a graph of TensorFlow 1, which cannot differentiate a traced block
            return _block(config, lambda role, x: apply(*roles[role], x), source, skip, condition, seed, dtype)
        block_weights = {role: (stacked[name][copy], biases[name][copy]) for role, (name, copy) in roles.items()}
        names = tuple((role, name) for role, (name, _) in roles.items())
        return _traced_block(config, names, dtype)(block_weights, source, skip, condition, seed)

    return _run(config, apply, block, images, condition, dtype)


def _block_seeds(config: Config, dropout_seed: tf.Tensor | None) -> dict[tuple[int, StackName], tf.Tensor | None]:
    """The seed of dropout in each residual block, by its index and stack; None for no dropout."""
    blocks: list[tuple[int, StackName]] = [
        (index, stack) for index in range(len(config.blocks)) for stack in ("vertical", "horizontal")
    ]
    if dropout_seed is None or not config.dropout_p:
        return dict.fromkeys(blocks)
    layer = tf.range(len(blocks), dtype=dropout_seed.dtype)
    seeds = tf.stack([tf.tile(dropout_seed[:1], [len(blocks)]), dropout_seed[1] * 512 + layer], axis=1)
    return dict(zip(blocks, tf.unstack(seeds), strict=True))


def _apply(
    operations: Mapping[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]],
    name: str,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    x: tf.Tensor,
) -> tf.Tensor:
    """Apply one layer in the dtype of its kernel; the sum with the bias is in the dtype of the bias."""
    return tf.nn.bias_add(tf.cast(operations[name](tf.cast(x, kernel.dtype), kernel), bias.dtype), bias)


@functools.lru_cache(maxsize=256)
def _traced_block(config: Config, names: tuple[tuple[str, str], ...], dtype: tf.DType) -> Callable[..., Features]:
    """A residual block as a function that TensorFlow traces once for all blocks of the same shapes, and then inlines.

    Args:
      config: the architecture.
      names: the role and the kind of each layer of the block.
      dtype: of the convolutions.
    """
    operations, kinds = _operations(config), dict(names)

    @functools.partial(tf.function, autograph=False)
    def traced(
        weights: Mapping[str, tuple[tf.Tensor, tf.Tensor]],
        source: Features,
        skip: tf.Tensor | None,
        condition: tf.Tensor | None,
        seed: tf.Tensor | None,
    ) -> Features:
        def apply(role: str, x: tf.Tensor) -> tf.Tensor:
            return _apply(operations, kinds[role], *weights[role], x)

        return _block(config, apply, source, skip, condition, seed, dtype)

    return traced


def block_layers(config: Config, index: int, stack: StackName) -> dict[str, tuple[str, int]]:
    """The layers of a residual block by their role in it: the kind, and the index among the layers of that kind."""
    num_down = config.num_resnet * config.num_hierarchies
    roles = {"conv1": (f"{stack}/conv1", index), "conv2": (f"{stack}/conv2", index)}
    if index >= num_down:
        roles["skip"] = (f"{stack}/skip_up", index - num_down)
    elif stack == "horizontal":
        roles["skip"] = (f"{stack}/skip_down", index)
    if config.conditional_shape is not None:
        roles["condition"] = (f"{stack}/condition", index)
    return roles


def _block(
    config: Config,
    apply: Callable[[str, tf.Tensor], tf.Tensor],
    source: Features,
    skip: tf.Tensor | None,
    condition: tf.Tensor | None,
    seed: tf.Tensor | None,
    dtype: tf.DType,
) -> Features:
    """A gated residual block (Figure 2 of arXiv 1606.05328); `skip` holds activated features of other blocks."""
    activation = config.resnet_activation
    x = apply("conv1", source.active)
    if skip is not None:
        x = x + apply("skip", skip)
    if seed is None:
        x = xla_ops.activate(activation, dtype)(x)
    else:
        x = xla_ops.activate_and_drop(activation, config.dropout_p, dtype)(x, seed)
    x = apply("conv2", x)
    projection = [] if condition is None else [apply("condition", condition)]
    return Features(*xla_ops.gate(activation, dtype)(x, source.value, *projection))


def _run(
    config: Config,
    apply: Apply,
    block: RunBlock,
    images: tf.Tensor,
    condition: tf.Tensor | None,
    dtype: tf.DType,
) -> tf.Tensor:
    """Run the network, given functions that run a layer and a block on rotated images; its last layer's outputs."""

    def features(value: tf.Tensor) -> Features:
        return Features(value, xla_ops.activate(config.resnet_activation, dtype)(value))

    if (condition is None) != (config.conditional_shape is None):
        status = "missing" if condition is None else "given"
        raise ValueError(f"condition is {status}, but conditional_shape is {config.conditional_shape}.")
    if condition is not None:
        condition = tf.reshape(tf.cast(condition, images.dtype), [-1, config.conditional_size])
    images = _pad(config, images)
    if config.position != "none":
        channels = tf.cast(position_channels(config), images.dtype)
        batch = tf.shape(images)[0]
        images = tf.concat([images, tf.tile(channels[tf.newaxis], [batch, 1, 1, 1])], axis=-1)
    images = tf.reverse(images, [1, 2])

    vertical = features(apply("init/vertical", 0, images))
    horizontal = features(apply("init/up", 0, images) + apply("init/left", 0, images))
    skips = [(vertical, horizontal)]  # skip connections to the up path: last in, first out
    level = 0
    for index, (block_level, up) in enumerate(config.blocks):
        if block_level > level:
            vertical = features(apply("vertical/shrink", level, vertical.value))
            horizontal = features(apply("horizontal/shrink", level, horizontal.value))
            skips.append((vertical, horizontal))
        elif block_level < level:
            upsampling = config.num_hierarchies - 1 - level
            vertical = features(apply("vertical/grow", upsampling, vertical.value))
            horizontal = features(apply("horizontal/grow", upsampling, horizontal.value))
        level = block_level
        if up:
            if index == config.num_resnet * config.num_hierarchies:
                skips.pop()  # the up path starts from this feature map, the lowest
            skip_vertical, skip_horizontal = skips.pop()
            vertical = block(index, "vertical", vertical, skip_vertical.active, condition)
            joined = tf.concat([vertical.active, skip_horizontal.active], axis=-1)
            horizontal = block(index, "horizontal", horizontal, joined, condition)
        else:
            vertical = block(index, "vertical", vertical, None, condition)
            horizontal = block(index, "horizontal", horizontal, vertical.active, condition)
            skips.append((vertical, horizontal))
    return _crop(config, tf.reverse(apply("output", 0, tf.nn.elu(horizontal.value)), [1, 2]))


def _pad(config: Config, images: tf.Tensor) -> tf.Tensor:
    """Images in the network's padded shape: with additional rows below and columns to the right, of the value PADDING.

    They are the same in all images, so the likelihood of an image is that of its own pixels, given the padding.
    """
    if not any(config.padding):
        return images
    rows, columns = config.padding
    return tf.pad(images, [(0, 0), (0, rows), (0, columns), (0, 0)], constant_values=PADDING)


def _crop(config: Config, outputs: tf.Tensor) -> tf.Tensor:
    """The outputs without those for padding."""
    height, width, _ = config.image_shape
    return outputs[:, :height, :width] if any(config.padding) else outputs


def _mixture(config: Config, outputs: tf.Tensor) -> Mixture:
    """Split the network's outputs (batch, height, width, num_outputs) into the parameters of the mixture."""
    channels, coeffs = config.num_channels, config.num_coeffs
    shape = tf.concat([tf.shape(outputs)[:-1], [config.num_logistic_mix, 1 + 2 * channels + coeffs]], axis=0)
    logits, locs, scales, rest = tf.split(tf.reshape(outputs, shape), [1, channels, channels, coeffs], axis=-1)
    # TFP's lower bound, which keeps a component from collapsing to a point.
    scales = tf.nn.softplus(scales) + math.exp(-7.0)
    return Mixture(logits[..., 0], locs, scales, rest if coeffs else None)


def data_dependent_initialisation(
    config: Config,
    parameters: Parameters,
    images: tf.Tensor,
    condition: tf.Tensor | None = None,
    *,
    dropout_seed: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """Set scales and biases so that every layer's outputs have mean 0 and variance 1 on a batch (arXiv 1602.07868).

    A channel that hardly varies over the batch keeps the scale of its kernel's direction, 1. The network is causal here
    as well, so the statistics are those of the outputs that it will compute. A network that is trained with dropout is
    initialised with dropout, as TFP's is by a first call with `training=True`: without it, the deviations that dropout
    adds grow from block to block, and a deep network's first gradients are thousands of times too large.

    Args:
      config: the architecture.
      parameters: from `initialise`; of the normalised layers only the directions of the kernels (`v`) are read.
      images: (batch, height, width, channels), pixels scaled to -1..1.
      condition: (batch, *conditional_shape), or None.
      dropout_seed: two integers, or None for no dropout.

    Returns:
      All parameters; without weight norm or data-dependent initialisation, unchanged.
    """
    if not (config.use_weight_norm and config.use_data_init):
        return dict(parameters)
    operations, seeds = _operations(config), _block_seeds(config, dropout_seed)
    table = layers(config)
    g = {name: list(tf.unstack(parameters[f"{name}/g"])) for name, layer in table.items() if layer.normalised}
    b = {name: list(tf.unstack(parameters[f"{name}/b"])) for name in table}
    directions = _rotate_180(
        kernels(config, {k: tf.ones_like(v) if k.endswith("/g") else v for k, v in parameters.items()})
    )

    def apply(name: str, index: int, x: tf.Tensor) -> tf.Tensor:
        out = operations[name](x, directions[f"{name}/kernel"][index])
        if not table[name].normalised:
            return out + b[name][index]
        mean, variance = tf.nn.moments(out, list(range(out.shape.rank - 1)))
        deviation = tf.sqrt(variance)
        scale = 1.0 / tf.where(deviation > MIN_STANDARD_DEVIATION, deviation, 1.0)
        g[name][index], b[name][index] = scale, -mean * scale
        return (out - mean) * scale

    def block(
        index: int, stack: StackName, source: Features, skip: tf.Tensor | None, condition: tf.Tensor | None
    ) -> Features:
        roles, seed = block_layers(config, index, stack), seeds[index, stack]
        return _block(config, lambda role, x: apply(*roles[role], x), source, skip, condition, seed, images.dtype)

    _run(config, apply, block, images, condition, images.dtype)
    changed = {f"{name}/g": tf.stack(values) for name, values in g.items()}
    changed |= {f"{name}/b": tf.stack(values) for name, values in b.items()}
    return dict(parameters) | changed
