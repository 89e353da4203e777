"""Sampling on a GPU with one compiled program for whole images; every feature is computed once.

An image takes tens of thousands of small steps, and a GPU takes a few microseconds to launch each of them; in one
compiled program it does not wait. The order is that of `sampler_cpu`, as loops over rows, over the pixels of a row
and over the residual blocks of a level, so that neither the program nor the time to compile it grows with depth. A
branch skips the levels whose grid does not include a pixel. The contributions of the row above and of the columns to
the left are computed for all blocks of a level at once; only the contribution of the pixel itself is computed block by
block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.compiler.tf2xla.python import xla

from stages.pixelcnn import network, xla_ops
from stages.pixelcnn.levels import blocks_of
from stages.pixelcnn.likelihood import scale_pixels
from stages.pixelcnn.network import Config
from stages.pixelcnn.noise import MIN_SCALE, Floats


def sample(
    config: Config,
    weights: network.Parameters,
    gumbel: Floats,
    logistic: Floats,
    condition: Floats | None,
    guidance: float,
    known: NDArray[np.bool_],
    given: Floats,
    quantised: bool,
) -> Floats:
    """Sample images; the values are before the final rounding.

    Args:
      config: the architecture.
      weights: plain kernels and biases.
      gumbel: (height, width, drawings, num_logistic_mix), noise times temperature.
      logistic: (height, width, drawings, channels), noise times temperature.
      condition: (drawings, conditional_size), or None; with guidance (2 * drawings, conditional_size): the conditions
        of the drawings, then the reference conditions.
      guidance: classifier-free guidance scale; ignored if `condition` has no reference conditions.
      known: (height, width, drawings, 1), whether a pixel is given.
      given: (height, width, drawings, channels), known pixels on the network's scale of -1 to 1.
      quantised: whether the network sees a pixel rounded.

    Returns:
      (height, width, drawings, channels), from low to high.
    """
    images: Floats = _program(config, quantised)(
        weights, gumbel, logistic, condition, np.float32(guidance), known, given
    ).numpy()
    return images


@functools.cache
def _program(config: Config, quantised: bool) -> Callable[..., tf.Tensor]:
    return tf.function(functools.partial(_images, config, quantised), jit_compile=True, autograph=False)


def _images(
    config: Config,
    quantised: bool,
    weights: network.Parameters,
    gumbel: tf.Tensor,
    logistic: tf.Tensor,
    condition: tf.Tensor | None,
    guidance: tf.Tensor,
    known: tf.Tensor,
    given: tf.Tensor,
) -> tf.Tensor:
    height, width, channels = config.image_shape
    size = gumbel.shape[2]
    copies = 1 if condition is None else condition.shape[0] // size
    above, half = config.receptive_field_dims[0] - 1, config.receptive_field_dims[1] // 2
    all_copies = config, weights, condition, copies * size
    vertical, horizontal = _Vertical(*all_copies), _Horizontal(*all_copies)

    def one_row(
        row: tf.Tensor,
        images: tf.Tensor,
        values: tf.Tensor,
        vertical_caches: list[_Cache],
        horizontal_caches: list[_Cache],
    ) -> tuple[Any, ...]:
        rows_above = xla.dynamic_slice(images, [row, 0, 0, 0], [above, *images.shape[1:]])
        skips, vertical_caches = vertical.row(row, rows_above, vertical_caches)
        init = horizontal.init_from_above(rows_above[-1])
        row_inputs = [
            horizontal.row_inputs(level, horizontal_caches[level], skip_across)
            for level, skip_across in enumerate(skips)
        ]

        def one_pixel(
            column: tf.Tensor, pixels: tf.Tensor, row_values: tf.Tensor, caches: list[_Cache]
        ) -> tuple[Any, ...]:
            outputs, features = horizontal.pixel(row, column, pixels, init, row_inputs, caches)
            if copies == 2:
                conditional, reference = tf.split(outputs, 2)
                outputs = reference + guidance * (conditional - reference)
            value, scaled = _sample_pixels(
                config, quantised, outputs, _at(gumbel, row, column), _at(logistic, row, column)
            )
            is_known, known_pixel = _at(known, row, column), _at(given, row, column)
            value = tf.where(is_known, _to_pixels(config, known_pixel), value)
            scaled = tf.where(is_known, known_pixel, scaled)
            position = _at(pixels, column + half)[:, channels:]
            inputs = tf.concat([tf.tile(scaled, [copies, 1]), position], axis=-1)
            pixels, row_values = _put(pixels, inputs, column + half), _put(row_values, value, column)
            return column + 1, pixels, row_values, horizontal.update_caches(row, column, caches, features)

        loop = (0, _at(images, row + above), tf.zeros((width, size, channels)), horizontal_caches)
        _, pixels, row_values, horizontal_caches = tf.while_loop(
            lambda column, *_: column < width, one_pixel, loop, maximum_iterations=width
        )
        images, values = _put(images, pixels, row + above), _put(values, row_values, row)
        return row + 1, images, values, vertical_caches, horizontal_caches

    images = tf.tile(network.position_channels(config)[:, :, tf.newaxis], [1, 1, copies * size, 1])
    images = tf.pad(images, [[above, 0], [half, half], [0, 0], [channels, 0]])  # the pixels' own channels come first
    loop = (0, images, tf.zeros((height, width, size, channels)), vertical.empty_cache(), horizontal.empty_cache())
    return tf.while_loop(lambda row, *_: row < height, one_row, loop, maximum_iterations=height)[2]


class _Cache(NamedTuple):
    """The features of one level of a stack that later convolutions read.

    Vertical stack: (rows above, columns, drawings, channels). Horizontal stack: (columns, drawings, channels); columns
    up to the pixel belong to its row, those after it still to the row above. One more column receives the features that
    are not needed, because writing them there is cheaper than not writing them.

    Attributes:
      first, second: inputs of the first and second convolution of each block, (blocks, …).
      down_out: the last features of the down path, for the next level.
      up_out: the last features of the up path, for the level before.
    """

    first: tf.Tensor
    second: tf.Tensor
    down_out: tf.Tensor
    up_out: tf.Tensor


class _RowInputs(NamedTuple):
    """What the row above and the biases contribute to a level's convolutions, for all pixels of a row.

    Attributes:
      first, second: what is added to the first and the second convolution of each block, (blocks, columns, drawings,
        output channels).
      downsample: what is added when downsampling, (columns, drawings, output channels).
    """

    first: tf.Tensor
    second: tf.Tensor
    downsample: tf.Tensor


class _Stack:
    """The weights of one stack by level, and the computation of its blocks."""

    def __init__(
        self,
        config: Config,
        weights: network.Parameters,
        condition: tf.Tensor | None,
        size: int,
        stack: network.StackName,
    ) -> None:
        self.config, self.size, self.half = config, size, config.receptive_field_dims[1] // 2
        self.filters, self.lowest = config.num_filters, config.num_hierarchies - 1
        self.activate = xla_ops.activate(config.resnet_activation, tf.float32)
        self.blocks = [blocks_of(config, level) for level in range(config.num_hierarchies)]
        self.widths = [config.image_shape[1] >> level for level in range(config.num_hierarchies)]

        def by_level(stacked: tf.Tensor) -> list[tf.Tensor]:
            return [tf.gather(stacked, [*blocks.down, *blocks.up]) for blocks in self.blocks]

        # Kernels are (blocks, rows, columns, in, out), biases (blocks, 1 or drawings, out).
        self.conv1 = by_level(weights[f"{stack}/conv1/kernel"])
        self.conv2 = by_level(weights[f"{stack}/conv2/kernel"])
        self.conv1_bias = by_level(weights[f"{stack}/conv1/b"][:, tf.newaxis])
        conv2_bias = weights[f"{stack}/conv2/b"][:, tf.newaxis]
        if condition is not None:
            conv2_bias += tf.matmul(condition, weights[f"{stack}/condition/kernel"])
            conv2_bias += weights[f"{stack}/condition/b"][:, tf.newaxis]
        self.conv2_bias = by_level(conv2_bias)
        skip_up = weights[f"{stack}/skip_up/kernel"]
        skip_up = skip_up if stack == "vertical" else skip_up[:, config.activated_channels :]
        self.skip_up = [skip_up[b.num_up_before : b.num_up_before + len(b.up)] for b in self.blocks]
        if self.lowest:
            self.downsample, self.downsample_bias = weights[f"{stack}/shrink/kernel"], weights[f"{stack}/shrink/b"]
            self.last = self.half if stack == "vertical" else 0
            upsampling = tf.unstack(weights[f"{stack}/grow/kernel"])[::-1]
            self.upsample = [_upsample_taps(kernel, self.last) for kernel in upsampling]
            self.upsample_bias = weights[f"{stack}/grow/b"][::-1]

    def run(
        self,
        level: int,
        value: tf.Tensor,
        conv1: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        conv2: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        run_lower_levels: Callable[[tf.Tensor], tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Run the residual blocks of a level.

        Args:
          level: 0 is full resolution.
          value: features, (…, num_filters).
          conv1, conv2: the convolutions of a block, given its index on this level and its input.
          run_lower_levels: maps the last features of the down path to the first ones of the up path; not called on the
            lowest level.

        Returns:
          The level's last features; the inputs of the blocks' first and second convolutions, (blocks, …,
          activated_channels).
        """
        down, up = len(self.blocks[level].down), len(self.blocks[level].up)
        empty = tf.zeros((down + up, *value.shape[:-1], self.config.activated_channels))

        def block(
            index: tf.Tensor, skip: tf.Tensor | float, value: tf.Tensor, first: tf.Tensor, second: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            active = self.activate(value)
            inner = self.activate(conv1(index, active) + skip)
            update, gate_logits = tf.split(conv2(index, inner), 2, axis=-1)
            return value + update * tf.sigmoid(gate_logits), _put(first, active, index), _put(second, inner, index)

        def up_block(index: tf.Tensor, *features: tf.Tensor) -> tuple[tf.Tensor, ...]:
            skip = _multiply(_at(skips, len(self.blocks[level].up) - 1 - index), _at(self.skip_up[level], index))
            return index + 1, *block(down + index, skip, *features)

        _, value, first, second = tf.while_loop(
            lambda index, *_: index < down,
            lambda index, *features: (index + 1, *block(index, 0.0, *features)),
            (0, value, empty, empty),
            maximum_iterations=down,
        )
        # Skip connections to the up path: last in, first out. On the lowest level the up path starts from the last one.
        skips = first[:down]
        if level < self.lowest:
            skips = tf.concat([skips, self.activate(value)[tf.newaxis]], axis=0)
            value = run_lower_levels(value)
        _, value, first, second = tf.while_loop(
            lambda index, *_: index < up, up_block, (0, value, first, second), maximum_iterations=up
        )
        return value, first, second


class _Vertical(_Stack):
    """The vertical stack, computed by rows: features are (columns, drawings, channels)."""

    def __init__(self, config: Config, weights: network.Parameters, condition: tf.Tensor | None, size: int) -> None:
        super().__init__(config, weights, condition, size, "vertical")
        self.init, self.init_bias = weights["init/vertical/kernel"][0], weights["init/vertical/b"][0]
        self.skip_bias = weights["vertical/skip_up/b"]
        # The skip connections to the first convolutions of the horizontal blocks.
        down, up = weights["horizontal/skip_down/kernel"], weights["horizontal/skip_up/kernel"]
        skip_across = tf.concat([down, up[:, : config.activated_channels]], axis=0)
        bias = tf.concat([weights["horizontal/skip_down/b"], weights["horizontal/skip_up/b"]], axis=0)
        bias += weights["horizontal/conv1/b"]
        self.skip_across = [tf.gather(skip_across, [*blocks.down, *blocks.up]) for blocks in self.blocks]
        self.skip_across_bias = [tf.gather(bias, [*blocks.down, *blocks.up]) for blocks in self.blocks]
        for level, blocks in enumerate(self.blocks):
            skip_bias = self.skip_bias[blocks.num_up_before : blocks.num_up_before + len(blocks.up)]
            self.conv1_bias[level] += tf.pad(skip_bias, [[len(blocks.down), 0], [0, 0]])[:, tf.newaxis]

    def empty_cache(self) -> list[_Cache]:
        """The caches before the first row: zeros, like the padding."""
        above = self.config.receptive_field_dims[0] - 2
        caches = []
        for width, kernels in zip(self.widths, self.conv1, strict=True):
            active = tf.zeros((kernels.shape[0], above, width, self.size, self.config.activated_channels))
            value = tf.zeros((above, width, self.size, self.filters))
            caches.append(_Cache(active, active, value, tf.zeros((above // 2 + 1, *value.shape[1:]))))
        return caches

    def row(self, row: tf.Tensor, rows_above: tf.Tensor, caches: list[_Cache]) -> tuple[list[tf.Tensor], list[_Cache]]:
        """Compute the features of a row.

        Args:
          row: index of the row of pixels.
          rows_above: (rows - 1, padded columns, drawings, channels), pixels of the images.
          caches: by level, from the rows above.

        Returns:
          By level, what the features add to the horizontal blocks' first convolutions, (blocks, columns, drawings,
          num_filters), unused if the level's grid does not include the row; and the caches for the next row.
        """
        value = _multiply(_windows(rows_above, self.widths[0]), _matrix(self.init)) + self.init_bias
        return self._level(0, row, value, caches)

    def _level(
        self, level: int, row: tf.Tensor, value: tf.Tensor, caches: list[_Cache]
    ) -> tuple[list[tf.Tensor], list[_Cache]]:
        cache, width = caches[level], self.widths[level]
        conv1, conv2 = _matrix(self.conv1[level]), _matrix(self.conv2[level])
        padding = [[0, 0], [self.half, self.half], [0, 0], [0, 0]]

        def windows(above: tf.Tensor, x: tf.Tensor, step: int = 1) -> tf.Tensor:
            return _windows(tf.pad(tf.concat([above, x[tf.newaxis]], axis=0), padding), width, step)

        def first(index: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            inputs = windows(_at(cache.first, index), x)
            return _multiply(inputs, _at(conv1, index)) + _at(self.conv1_bias[level], index)

        def second(index: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            inputs = windows(_at(cache.second, index), x)
            return _multiply(inputs, _at(conv2, index)) + _at(self.conv2_bias[level], index)

        down_out: list[tf.Tensor] = []
        lower_skips: list[tf.Tensor] = []
        lower_caches: list[_Cache] = []

        def run_lower_levels(value: tf.Tensor) -> tf.Tensor:
            def compute() -> tuple[list[tf.Tensor], list[_Cache]]:
                inputs = windows(cache.down_out, value, 2)
                x = _multiply(inputs, _matrix(self.downsample[level])) + self.downsample_bias[level]
                return self._level(level + 1, row // 2, x, caches)

            def skip() -> tuple[list[tf.Tensor], list[_Cache]]:
                sizes = zip(self.skip_across[level + 1 :], self.widths[level + 1 :], strict=True)
                return [tf.zeros((x.shape[0], w, self.size, self.filters)) for x, w in sizes], caches[level + 1 :]

            skips, new_caches = tf.cond(row % 2 == 0, compute, skip)
            down_out.append(value)
            lower_skips.extend(skips)
            lower_caches.extend(new_caches)
            up_out = tf.pad(new_caches[0].up_out, padding)
            by_parity = []
            for odd, kernel in enumerate(tf.unstack(_at(self.upsample[level], row % 2))):
                # The kernel's last column is (odd + self.last) // 2 columns to the right of the output's column.
                start = self.half + (odd + self.last) // 2 - (kernel.shape[1] - 1)
                inputs = _windows(up_out[:, start:], width // 2, 1, kernel.shape[1])
                by_parity.append(_multiply(inputs, _matrix(kernel)))
            upsampled = tf.reshape(tf.stack(by_parity, axis=1), [width, *by_parity[0].shape[1:]])
            return upsampled + self.upsample_bias[level]

        value, first_inputs, second_inputs = self.run(level, value, first, second, run_lower_levels)
        outputs = tf.concat([first_inputs[1:], self.activate(value)[tf.newaxis]], axis=0)
        if level < self.lowest:
            # The up path does not start from the last features of the down path, so no block has them as input.
            down = len(self.blocks[level].down)
            last_down = self.activate(down_out[0])[tf.newaxis]
            outputs = tf.concat([outputs[: down - 1], last_down, outputs[down:]], axis=0)
        bias = self.skip_across_bias[level][:, tf.newaxis, tf.newaxis]
        skip_across = _multiply(outputs, self.skip_across[level]) + bias
        new_cache = _Cache(
            tf.concat([cache.first, first_inputs[:, tf.newaxis]], axis=1)[:, 1:],
            tf.concat([cache.second, second_inputs[:, tf.newaxis]], axis=1)[:, 1:],
            tf.concat([cache.down_out, (down_out[0] if down_out else value)[tf.newaxis]], axis=0)[1:],
            tf.concat([cache.up_out, value[tf.newaxis]], axis=0)[1:],
        )
        return [skip_across, *lower_skips], [new_cache, *lower_caches]


class _Horizontal(_Stack):
    """The horizontal stack, computed by pixels: features are (drawings, channels)."""

    def __init__(self, config: Config, weights: network.Parameters, condition: tf.Tensor | None, size: int) -> None:
        super().__init__(config, weights, condition, size, "horizontal")
        self.up, self.left = weights["init/up/kernel"][0, 0], weights["init/left/kernel"][0]
        self.init_bias = weights["init/up/b"][0] + weights["init/left/b"][0]
        self.output, self.output_bias = weights["output/kernel"][0], weights["output/b"][0]

    def empty_cache(self) -> list[_Cache]:
        """The caches before the first row: zeros, like the padding."""
        caches = []
        for width, kernels in zip(self.widths, self.conv1, strict=True):
            columns = self.half + width + 1
            active = tf.zeros((kernels.shape[0], columns, self.size, self.config.activated_channels))
            value = tf.zeros((columns, self.size, self.filters))
            caches.append(_Cache(active, active, value, value))
        return caches

    def init_from_above(self, row_above: tf.Tensor) -> tf.Tensor:
        """What the row above, (padded columns, drawings, channels), and the bias contribute to the first layer."""
        kernel = self.up + tf.pad(self.left[0], [[0, self.half + 1], [0, 0], [0, 0]])
        return _multiply(_windows(row_above[tf.newaxis], self.widths[0]), _matrix(kernel[tf.newaxis])) + self.init_bias

    def row_inputs(self, level: int, cache: _Cache, skip_across: tf.Tensor) -> _RowInputs:
        """The inputs that are computed for a whole row; unused if the level's grid does not include the row."""
        width = self.widths[level]

        def from_above(features: tf.Tensor, kernels: tf.Tensor) -> tf.Tensor:
            return sum(_multiply(features[:, tap : tap + width], kernels[:, 0, tap]) for tap in range(self.half + 1))

        first = from_above(cache.first, self.conv1[level]) + skip_across
        second = from_above(cache.second, self.conv2[level]) + self.conv2_bias[level][:, tf.newaxis]
        if level == self.lowest:
            return _RowInputs(first, second, tf.zeros(()))
        inputs = _windows(cache.down_out[tf.newaxis], width, 2, self.half + 1)
        downsample = _multiply(inputs, _matrix(self.downsample[level, :1])) + self.downsample_bias[level]
        return _RowInputs(first, second, downsample)

    def pixel(
        self,
        row: tf.Tensor,
        column: tf.Tensor,
        pixels: tf.Tensor,
        init: tf.Tensor,
        row_inputs: list[_RowInputs],
        caches: list[_Cache],
    ) -> tuple[tf.Tensor, list[_Cache]]:
        """The network's outputs at a pixel, (drawings, num_outputs), and its features: a column for each cache."""
        value = _at(init, column)
        value += sum(_multiply(_at(pixels, column + tap), self.left[1, tap]) for tap in range(self.half))
        features = self._level(0, row, column, value, row_inputs, caches)
        return _multiply(tf.nn.elu(features[0].up_out), self.output) + self.output_bias, features

    def _level(
        self,
        level: int,
        row: tf.Tensor,
        column: tf.Tensor,
        value: tf.Tensor,
        row_inputs: list[_RowInputs],
        caches: list[_Cache],
    ) -> list[_Cache]:
        conv1, conv2 = self.conv1[level][:, 1], self.conv2[level][:, 1]

        def from_left(features: tf.Tensor, kernels: tf.Tensor, from_above: tf.Tensor) -> tf.Tensor:
            """What the columns to the left, and the row above, contribute to all blocks."""
            taps = [_multiply(_column(features, column + tap), kernels[:, tap]) for tap in range(self.half)]
            return sum(taps, _column(from_above, column))

        first_context = from_left(caches[level].first, conv1, row_inputs[level].first)
        second_context = from_left(caches[level].second, conv2, row_inputs[level].second)

        def first(index: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            return _multiply(x, _at(conv1[:, -1], index)) + _at(first_context, index)

        def second(index: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            return _multiply(x, _at(conv2[:, -1], index)) + _at(second_context, index)

        down_out: list[tf.Tensor] = []
        lower_features: list[_Cache] = []

        def run_lower_levels(value: tf.Tensor) -> tf.Tensor:
            lower_column, on_grid = column // 2, (row % 2 == 0) & (column % 2 == 0)

            def compute() -> list[_Cache]:
                inputs = [*(_at(caches[level].down_out, column + tap) for tap in range(self.half)), value]
                x = sum(_multiply(features, self.downsample[level, 1, tap]) for tap, features in enumerate(inputs))
                x += _at(row_inputs[level].downsample, lower_column)
                return self._level(level + 1, row // 2, lower_column, x, row_inputs, caches)

            def skip() -> list[_Cache]:
                value, channels = tf.zeros((self.size, self.filters)), self.config.activated_channels
                active = [tf.zeros((x.shape[0], self.size, channels)) for x in self.conv1[level + 1 :]]
                return [_Cache(x, x, value, value) for x in active]

            down_out.append(value)
            lower_features.extend(tf.cond(on_grid, compute, skip))
            kernel = _at(self.upsample[level], row % 2, column % 2)[0]
            distances = range(kernel.shape[0] - 1, 0, -1)
            inputs = [_at(caches[level + 1].up_out, lower_column + self.half - distance) for distance in distances]
            cached = _at(caches[level + 1].up_out, lower_column + self.half)
            inputs.append(tf.where(on_grid, lower_features[0].up_out, cached))
            upsampled = sum(_multiply(features, kernel[tap]) for tap, features in enumerate(inputs))
            return upsampled + self.upsample_bias[level]

        value, first_inputs, second_inputs = self.run(level, value, first, second, run_lower_levels)
        return [_Cache(first_inputs, second_inputs, down_out[0] if down_out else value, value), *lower_features]

    def update_caches(
        self, row: tf.Tensor, column: tf.Tensor, caches: list[_Cache], features: list[_Cache]
    ) -> list[_Cache]:
        """The caches with a pixel's features written to them."""
        updated = []
        for level, (cache, new) in enumerate(zip(caches, features, strict=True)):
            on_grid = (row % 2**level == 0) & (column % 2**level == 0)
            index = self.half + tf.where(on_grid, column // 2**level, self.widths[level])
            updated.append(
                _Cache(
                    xla.dynamic_update_slice(cache.first, new.first[:, tf.newaxis], [0, index, 0, 0]),
                    xla.dynamic_update_slice(cache.second, new.second[:, tf.newaxis], [0, index, 0, 0]),
                    _put(cache.down_out, new.down_out, index),
                    _put(cache.up_out, new.up_out, index),
                )
            )
        return updated


def _upsample_taps(kernel: tf.Tensor, last: int) -> tf.Tensor:
    """The taps of an upsampling kernel as kernels of convolutions, by the parity of row and column.

    Output position p is reached from input position i by tap p - 2i: from the last position that reaches it by tap
    p % 2, from the one before by tap p % 2 + 2, and so on. If the other parity has one more tap, a zero is added.

    Args:
      kernel: (rows, columns, out, in).
      last: the tap by which input column i reaches output column 2i.

    Returns:
      (2, 2, rows, columns, in, out).
    """
    rows, columns = (-(-length // 2) for length in kernel.shape[:2])

    def taps_of(row: int, column: int) -> tf.Tensor:
        taps = tf.reverse(kernel[row::2, (column + last) % 2 :: 2], [0, 1])
        return tf.pad(taps, [[rows - taps.shape[0], 0], [columns - taps.shape[1], 0], [0, 0], [0, 0]])

    by_parity = tf.stack([tf.stack([taps_of(row, column) for column in (0, 1)]) for row in (0, 1)])
    return tf.transpose(by_parity, [0, 1, 2, 3, 5, 4])


def _windows(x: tf.Tensor, width: int, step: int = 1, columns: int | None = None) -> tf.Tensor:
    """Cut the inputs of a convolution at each output pixel of a row out of the rows that it reads.

    Args:
      x: (rows, padded columns, drawings, channels).
      width: of the row, in pixels, without the padding.
      step: the stride.
      columns: of the kernel; all that the padding allows by default.

    Returns:
      (width // step, drawings, taps): the values under the kernel, in the order of `_matrix`.
    """
    columns = x.shape[1] - width + 1 if columns is None else columns
    return tf.concat([line[tap : tap + width : step] for line in tf.unstack(x) for tap in range(columns)], axis=-1)


def _matrix(kernel: tf.Tensor) -> tf.Tensor:
    """(…, rows, columns, in, out) as matrices for `_windows`: (…, taps, out)."""
    *blocks, rows, columns, inputs, outputs = kernel.shape
    return tf.reshape(kernel, [*blocks, rows * columns * inputs, outputs])


def _multiply(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """(…, in) by (in, out), or (blocks, …, in) by (blocks, in, out)."""
    blocks = kernel.shape[:-2]
    out = tf.matmul(tf.reshape(x, [*blocks, -1, x.shape[-1]]), kernel)
    return tf.reshape(out, [*x.shape[:-1], kernel.shape[-1]])


def _at(x: tf.Tensor, *index: tf.Tensor) -> tf.Tensor:
    """x[index]."""
    rest = x.shape[len(index) :]
    starts = [*index, *(0 for _ in rest)]
    return tf.reshape(xla.dynamic_slice(x, starts, [*(1 for _ in index), *rest]), rest)


def _column(x: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
    """x[:, column]."""
    blocks, _, *rest = x.shape
    return tf.reshape(xla.dynamic_slice(x, [0, column, 0, 0], [blocks, 1, *rest]), [blocks, *rest])


def _put(x: tf.Tensor, value: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """x with x[index] = value."""
    return xla.dynamic_update_slice(x, value[tf.newaxis], [index, *(0 for _ in value.shape)])


def _sample_pixels(
    config: Config, quantised: bool, outputs: tf.Tensor, gumbel: tf.Tensor, logistic: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """`noise.PixelSampler` in TensorFlow: the pixels (drawings, channels), from low to high and from -1 to 1."""
    channels = config.num_channels
    parts = tf.reshape(outputs, [outputs.shape[0], config.num_logistic_mix, -1])
    component = tf.argmax(parts[..., 0] + gumbel, axis=-1, output_type=tf.int32)
    chosen = tf.reduce_sum(parts * tf.one_hot(component, config.num_logistic_mix)[..., tf.newaxis], axis=1)
    scales = tf.nn.softplus(chosen[:, 1 + channels : 1 + 2 * channels]) + MIN_SCALE
    sampled = tf.unstack(chosen[:, 1 : 1 + channels] + scales * logistic, axis=-1)
    coeffs = iter(tf.unstack(chosen[:, 1 + 2 * channels :], axis=-1))
    values, observed = list[tf.Tensor](), list[tf.Tensor]()
    for value in sampled:
        for earlier in observed:
            value += next(coeffs) * earlier
        scaled = tf.clip_by_value(value, -1.0, 1.0)
        values.append(_to_pixels(config, scaled))
        observed.append(scale_pixels(config, tf.round(values[-1])) if quantised else scaled)
    return tf.stack(values, axis=-1), tf.stack(observed, axis=-1)


def _to_pixels(config: Config, scaled: tf.Tensor) -> tf.Tensor:
    return (scaled + 1.0) * ((config.high - config.low) / 2) + config.low
