"""Sampling on a CPU with NumPy; every feature is computed once.

Each row starts with its vertical features, which depend only on the rows above. Each pixel then needs its horizontal
features on the levels whose grid includes it. The features that later convolutions read are cached as (columns, rows,
channels, drawings). The taps of a convolution, which cover neighbouring columns and the last few rows, are then
consecutive rows of one matrix whose columns are the drawings. So the convolution at a pixel is one product of two
matrices, and no inputs are copied.

A drawing is the same to the bit in any batch and at any position in it. A BLAS library may round differently depending
on the width of a product and, in a wide product, on the column. Features are therefore (…, tiles, channels, width): one
tile as wide as the batch if the BLAS library rounds such products in the same way as those of 16 columns, else tiles
of 16.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from stages.pixelcnn import network
from stages.pixelcnn.levels import active_levels, blocks_of
from stages.pixelcnn.network import Config
from stages.pixelcnn.noise import Floats

# An array, because NumPy takes longer to convert a Python number than to add it.
ONE = np.ones((), np.float32)
NARROW = 16  # number of floats in the widest registers of a processor
HALF = np.float32(0.5)

# A position in a row: the column of a pixel, or all columns.
Position = int | slice
ALL_COLUMNS = slice(None)


class Matrices:
    """The network's kernels as the matrices that the sampler multiplies by; computed once for all batches.

    The taps and the inputs of a kernel form one axis, in the order in which `FeatureCache` stores them: a matrix (out,
    columns * rows * in). For a repeated layer there is a list of matrices.
    """

    def __init__(self, config: Config, weights: network.Parameters) -> None:
        plain: dict[str, Floats] = {name: np.asarray(value, np.float32) for name, value in weights.items()}
        rows, columns = config.receptive_field_dims
        half = columns // 2

        def matrix(kernel: Floats) -> Floats:
            rows, columns, inputs, outputs = kernel.shape
            return kernel.transpose(3, 1, 0, 2).reshape(outputs, columns * rows * inputs)

        def matrices(name: str) -> list[Floats]:
            return [matrix(kernel) for kernel in plain[f"{name}/kernel"]]

        def dense(kernels: Floats) -> Floats:
            return kernels.swapaxes(-1, -2).copy()

        def bias(name: str) -> Floats:
            return plain[f"{name}/b"][..., np.newaxis]

        # The first layers, as one kernel per stack over the rows above and the current row: the taps that must not be
        # seen are zeros.
        inputs = plain["init/up/kernel"].shape[3]
        first = {stack: np.zeros((rows, columns, inputs, config.num_filters), np.float32) for stack in network.STACKS}
        first["vertical"][:-1] = plain["init/vertical/kernel"][0]
        first["horizontal"][-2] = plain["init/up/kernel"][0, 0]
        first["horizontal"][-2:, :half] += plain["init/left/kernel"][0]
        self.init = {stack: matrix(kernel) for stack, kernel in first.items()}
        self.init_bias = {"vertical": bias("init/vertical")[0], "horizontal": bias("init/up")[0] + bias("init/left")[0]}

        self.conv1 = {stack: matrices(f"{stack}/conv1") for stack in network.STACKS}
        self.conv1_bias = {stack: bias(f"{stack}/conv1") for stack in network.STACKS}
        # A gate is a * sigmoid(b) = a / 2 * (1 + tanh(b / 2)): its kernels and biases are halved here, which is exact.
        self.conv2 = {stack: [kernel * HALF for kernel in matrices(f"{stack}/conv2")] for stack in network.STACKS}
        self.conv2_bias = {stack: bias(f"{stack}/conv2") * HALF for stack in network.STACKS}
        self.condition: dict[str, Floats] = {}
        if config.conditional_shape is not None:
            self.condition = {stack: dense(plain[f"{stack}/condition/kernel"]) * HALF for stack in network.STACKS}
            for stack in network.STACKS:
                self.conv2_bias[stack] += bias(f"{stack}/condition") * HALF
        # Skip connections by block: from the vertical to the horizontal stack, and from the down path to the up path.
        down, up = dense(plain["horizontal/skip_down/kernel"]), dense(plain["horizontal/skip_up/kernel"])
        self.skip_across = [*down, *(matrix[:, : config.activated_channels] for matrix in up)]
        self.skip_up = {
            "vertical": dense(plain["vertical/skip_up/kernel"]),
            "horizontal": up[..., config.activated_channels :].copy(),
        }
        # Skip connections are added to the first convolutions, so their biases are added to those convolutions' biases.
        self.conv1_bias["horizontal"] = self.conv1_bias["horizontal"] + np.concatenate(
            [bias("horizontal/skip_down"), bias("horizontal/skip_up")]
        )
        self.conv1_bias["vertical"] = self.conv1_bias["vertical"].copy()
        self.conv1_bias["vertical"][len(down) :] += bias("vertical/skip_up")

        self.downsample: dict[str, list[Floats]] = {}
        self.downsample_bias: dict[str, Floats] = {}
        self.upsample: dict[str, list[list[list[Floats]]]] = {}
        self.upsample_bias: dict[str, Floats] = {}
        for stack in network.STACKS if config.num_hierarchies > 1 else ():
            self.downsample[stack], self.downsample_bias[stack] = matrices(f"{stack}/shrink"), bias(f"{stack}/shrink")
            # Indexed by the level of the output, by the parity of the row and by the parity of the column.
            shift = half if stack == "vertical" else 0
            upsampling = plain[f"{stack}/grow/kernel"][::-1].swapaxes(-1, -2)
            self.upsample[stack] = [
                [[matrix(_upsample_taps(kernel, row, column + shift)) for column in (0, 1)] for row in (0, 1)]
                for kernel in upsampling
            ]
            self.upsample_bias[stack] = bias(f"{stack}/grow")[::-1]
        self.position = np.asarray(network.position_channels(config))[..., np.newaxis]
        self.output, self.output_bias = dense(plain["output/kernel"])[0], bias("output")[0]

    def shapes(self) -> frozenset[tuple[int, int]]:
        """The shapes of all matrices that features are multiplied by."""
        kinds: tuple[Mapping[Any, Iterable[Any]], ...]
        kinds = self.conv1, self.conv2, self.skip_up, self.downsample, self.condition
        repeated = itertools.chain(self.skip_across, *(matrices for kind in kinds for matrices in kind.values()))
        upsample = (matrix for levels in self.upsample.values() for level in levels for row in level for matrix in row)
        return frozenset(matrix.shape for matrix in (*self.init.values(), *repeated, *upsample, self.output))


class Tiles(NamedTuple):
    """How the drawings of a batch are arranged as columns: `number` products of `width` columns each."""

    number: int
    width: int

    @classmethod
    def of(cls, matrices: Matrices, size: int) -> Tiles:
        """The tiles for a batch of this size."""
        number = -(-size // NARROW)
        return cls(1, number * NARROW) if _rounds_as_narrow(matrices.shapes(), number * NARROW) else cls(number, NARROW)

    def split(self, x: Floats) -> Floats:
        """Rearrange (channels, drawings) to (tiles, channels, width), padded with zeros."""
        channels, size = x.shape
        padded = np.zeros((channels, self.number * self.width), np.float32)
        padded[:, :size] = x
        return np.ascontiguousarray(padded.reshape(channels, self.number, self.width).swapaxes(0, 1))


@functools.lru_cache
def _rounds_as_narrow(shapes: frozenset[tuple[int, int]], width: int) -> bool:
    """Whether BLAS rounds every column of a product of this width in the same way as in a product of `NARROW` columns.

    OpenBLAS 0.3.31 does not on AVX2, where the outer eight columns differ. On AVX-512 it does, unless only the wide
    product takes more than 1,000,000 multiplications: its sums of more than 320 terms are then split.
    """
    random = np.random.default_rng(0)
    for outputs, inputs in sorted(shapes):
        matrix = random.standard_normal((outputs, inputs), np.float32)
        column = random.standard_normal((inputs, 1), np.float32)
        wide, narrow = (matrix @ np.repeat(column, columns, axis=1) for columns in (width, NARROW))
        if (wide != narrow[:, :1]).any():
            return False
    return True


def _upsample_taps(kernel: Floats, row: int, column: int) -> Floats:
    """The taps of an upsampling kernel that reach rows and columns of one parity, as the kernel of a convolution.

    Output position p is reached from input position i by tap p - 2i: from the last position that reaches it by tap
    p % 2, from the one before by tap p % 2 + 2, and so on. If the other parity has more rows of taps, zeros are added.
    """
    taps = kernel[row % 2 :: 2, column % 2 :: 2][::-1, ::-1]
    missing_rows = (len(kernel) + 1) // 2 - len(taps)
    return np.concatenate([np.zeros((missing_rows, *taps.shape[1:]), np.float32), taps])


class FeatureCache:
    """The last rows of a feature map, for the convolutions that read them: the newest last, padded on both sides.

    Attributes:
      newest: (columns, tiles, channels, width), the newest row.
      first_half, second_half: the newest row, of which each has half of the channels.
    """

    def __init__(self, columns: int, rows: int, channels: int, tiles: Tiles, padding: int) -> None:
        shape = (tiles.number, padding + columns + padding, rows, channels, tiles.width)
        self.rows = np.zeros(shape, np.float32)
        self.padding = padding
        self.newest = self.rows[:, padding : padding + columns, -1].swapaxes(0, 1)
        self.first_half, self.second_half = np.split(self.newest, [channels // 2], axis=2)

    def windows(self, taps: int, last: int, step: int) -> Floats:
        """The inputs of a convolution at each of its columns: (columns // step, tiles, taps, width).

        Args:
          taps: number of values of one drawing in a window.
          last: offset of a window's rightmost column from the convolution's column.
          step: distance between two columns of the convolution.
        """
        tiles, _, rows, channels, width = self.rows.shape
        start = self.rows.reshape(tiles, -1, width)[:, (self.padding + last + 1) * rows * channels - taps :]
        by_tile, by_column, _, by_tap, by_drawing = self.rows.strides
        shape = (len(self.newest) // step, tiles, taps, width)
        strides = (step * by_column, by_tile, by_tap, by_drawing)
        return np.lib.stride_tricks.as_strided(start, shape, strides, writeable=False)

    def next_row(self) -> None:
        """Discard the oldest row, to make room for a new one."""
        self.rows[:, :, :-1] = self.rows[:, :, 1:]


class Convolution:
    """A convolution at any column of the newest row, or at all of them."""

    def __init__(self, source: FeatureCache, matrix: Floats, bias: Floats, last: int, step: int = 1) -> None:
        self.source, self.matrix = source, matrix
        self.windows = source.windows(matrix.shape[1], last, step)
        self.bias = np.broadcast_to(bias, (*self.windows.shape[:2], *bias.shape[-2:]))

    def __call__(self, position: Position, out: Floats) -> None:
        """Compute (…, tiles, out, width)."""
        np.matmul(self.matrix, self.windows[position], out=out)
        out += self.bias[position]


class Scratch:
    """Buffers in which the features of a pixel, or of a row, are computed: (…, tiles, channels, width)."""

    def __init__(self, columns: tuple[int, ...], filters: int, tiles: Tiles) -> None:
        shape = (*columns, tiles.number, filters, tiles.width)
        self.value, self.negated, self.tail, self.x = (np.empty(shape, np.float32) for _ in range(4))
        self.gated = np.empty((*columns, tiles.number, 2 * filters, tiles.width), np.float32)
        self.update, self.gate = self.gated[..., :filters, :], self.gated[..., filters:, :]

    def elu_tail(self, x: Floats) -> Floats:
        """exp(-|x|) - 1, and -x in `negated`: elu(x) is the maximum of the tail and x, elu(-x) of the tail and -x."""
        # expm1 would be more precise by less than 1e-7, and five times slower.
        np.negative(x, out=self.negated)
        np.minimum(x, self.negated, out=self.tail)
        np.exp(self.tail, out=self.tail)
        self.tail -= ONE
        return self.tail


class StackBlock(NamedTuple):
    """A residual block of one stack: its convolutions and its skip connections.

    Attributes:
      conv1, conv2: read the activated features of the block before, and those of conv1.
      skip_up: matrix for the features of the down path that the block reads, if it is on the up path.
      skip_across: matrix by which a vertical block's features are added to the horizontal block's conv1.
      skip_out: where a vertical block writes its product with `skip_across`.
    """

    conv1: Convolution
    conv2: Convolution
    skip_up: Floats | None
    skip_across: Floats
    skip_out: Floats | None


class Stack:
    """The features of one stack for a batch of drawings: the vertical one by rows, the horizontal one by pixels.

    Args:
      condition: (tiles, conditional_size, width), or None.
      horizontal: the horizontal stack, which reads the features of this one; None if this is the horizontal stack.
    """

    def __init__(
        self,
        config: Config,
        matrices: Matrices,
        condition: Floats | None,
        tiles: Tiles,
        horizontal: Stack | None = None,
    ) -> None:
        rows, columns = config.receptive_field_dims
        half, width, filters = columns // 2, config.image_shape[1], config.num_filters
        stack: network.StackName = "horizontal" if horizontal is None else "vertical"
        rows, last = (2, 0) if horizontal is None else (rows - 1, half)
        levels = range(config.num_hierarchies)
        self.activation = config.resnet_activation
        self.scratch = [Scratch((width >> level,) if horizontal else (), filters, tiles) for level in levels]
        self.caches: list[list[FeatureCache]] = [[] for _ in levels]

        def new_cache(level: int, rows: int, channels: int) -> FeatureCache:
            cache = FeatureCache(width >> level, rows, channels, tiles, half)
            self.caches[level].append(cache)
            return cache

        conv2_bias = matrices.conv2_bias[stack][:, np.newaxis]
        if condition is not None:
            conv2_bias = conv2_bias + matrices.condition[stack][:, np.newaxis] @ condition
        # What the vertical features and the biases add to conv1 of each horizontal block in the current row.
        self.row_inputs: list[Floats] = []
        if horizontal is None:
            shape = (tiles.number, filters, tiles.width)
            self.row_inputs = [np.empty((width >> level, *shape), np.float32) for level, _ in config.blocks]

        def block(index: int) -> StackBlock:
            level, up = config.blocks[index]
            bias = matrices.conv1_bias[stack][index] if horizontal else self.row_inputs[index]
            first, second = (new_cache(level, rows, config.activated_channels) for _ in range(2))
            return StackBlock(
                Convolution(first, matrices.conv1[stack][index], bias, last),
                Convolution(second, matrices.conv2[stack][index], conv2_bias[index], last),
                matrices.skip_up[stack][index - len(config.blocks)] if up else None,
                matrices.skip_across[index],
                horizontal.row_inputs[index] if horizontal else None,
            )

        by_level = [blocks_of(config, level) for level in levels]
        self.down = [[block(index) for index in blocks.down] for blocks in by_level]
        self.up = [[block(index) for index in blocks.up] for blocks in by_level]
        # Where the last block of a level's path writes its activation.
        self.last = [new_cache(level, 1, config.activated_channels) for level in levels]
        # From a level to the next lower one, and back; `upsample` is also indexed by the parity of row and column.
        self.downsample: list[Convolution] = []
        self.upsample: list[list[list[Convolution]]] = []
        for level in levels[:-1]:
            down_out, up_out = new_cache(level, rows, filters), new_cache(level + 1, (rows + 1) // 2, filters)
            bias = matrices.downsample_bias[stack][level]
            self.downsample.append(Convolution(down_out, matrices.downsample[stack][level], bias, last, 2))
            bias = matrices.upsample_bias[stack][level]
            self.upsample.append(
                [
                    [Convolution(up_out, matrix, bias, (odd + last) // 2) for odd, matrix in enumerate(by_column)]
                    for by_column in matrices.upsample[stack][level]
                ]
            )

    def next_row(self, active: int) -> None:
        """Make room for a row in which the first `active` levels have features."""
        for level in self.caches[:active]:
            for cache in level:
                cache.next_row()

    def run(self, level: int, row: int, position: Position) -> None:
        """Compute the features of a level and of the levels below it, in place in the scratch's `value`.

        Args:
          level: 0 is full resolution.
          row: on the grid of the level.
          position: the column on the grid of the level, or all columns.
        """
        scratch, down, up = self.scratch[level], self.down[level], self.up[level]
        lowest = level == len(self.scratch) - 1
        # Skip connections to the up path: last in, first out. On the lowest level the up path starts from the last one.
        skips = [*(block.conv1.source for block in down), up[0].conv1.source if lowest else self.last[level]]
        self._activate(scratch, scratch.value, skips[0], position)
        for block, destination in zip(down, skips[1:], strict=True):
            self._block(scratch, block, destination, position)
        if lowest:
            skips.pop()
        else:
            self._run_lower_levels(level, row, position)
            self._activate(scratch, scratch.value, up[0].conv1.source, position)
        for block, following in itertools.pairwise(up):
            self._block(scratch, block, following.conv1.source, position, skips.pop())
        self._block(scratch, up[-1], self.last[level] if up[-1].skip_out is not None else None, position, skips.pop())

    def _run_lower_levels(self, level: int, row: int, position: Position) -> None:
        """Compute the lower levels' features, if the position is on the next level's grid, and upsample them."""
        value, lower_value = self.scratch[level].value, self.scratch[level + 1].value
        lower_position, odd = (position, 0) if isinstance(position, slice) else (position // 2, position % 2)
        downsample, upsample = self.downsample[level], self.upsample[level][row % 2]
        downsample.source.newest[position] = value
        if row % 2 == 0 and odd == 0:
            downsample(lower_position, lower_value)
            self.run(level + 1, row // 2, lower_position)
            upsample[0].source.newest[lower_position] = lower_value
        if isinstance(position, slice):
            upsample[0](lower_position, value[0::2])
            upsample[1](lower_position, value[1::2])
        else:
            upsample[odd](lower_position, value)

    def _block(
        self,
        scratch: Scratch,
        block: StackBlock,
        destination: FeatureCache | None,
        position: Position,
        skip: FeatureCache | None = None,
    ) -> None:
        """Run a gated residual block on `value`, whose activation is cached; write the result's to `destination`."""
        value, x, gated, gate = scratch.value, scratch.x, scratch.gated, scratch.gate
        block.conv1(position, x)
        if skip is not None and block.skip_up is not None:
            np.matmul(block.skip_up, skip.newest[position], out=scratch.negated)
            x += scratch.negated
        self._activate(scratch, x, block.conv2.source, position)
        block.conv2(position, gated)
        np.tanh(gate, out=gate)
        gate += ONE
        gate *= scratch.update
        value += gate
        if destination is not None:
            self._activate(scratch, value, destination, position)
            if block.skip_out is not None:
                np.matmul(block.skip_across, destination.newest, out=block.skip_out)

    def _activate(self, scratch: Scratch, x: Floats, out: FeatureCache, position: Position) -> None:
        """Write the activation of x to a cache."""
        if self.activation == "relu":
            np.maximum(x, 0, out=out.newest[position])
            return
        tail = scratch.elu_tail(x)
        if self.activation == "elu":
            np.maximum(x, tail, out=out.newest[position])
        else:
            np.maximum(x, tail, out=out.first_half[position])
            np.maximum(scratch.negated, tail, out=out.second_half[position])


class Batch:
    """A batch of drawings to sample: call `begin_row` for each row, then `outputs` and `put` for each of its pixels."""

    def __init__(self, config: Config, matrices: Matrices, condition: Floats | None, size: int) -> None:
        _, width, channels = config.image_shape
        rows, columns = config.receptive_field_dims
        half, tiles = columns // 2, Tiles.of(matrices, size)
        self.config, self.matrices, self.tiles, self.size = config, matrices, tiles, size
        if condition is not None:
            condition = tiles.split(condition.reshape(size, -1).T)
        self.horizontal = Stack(config, matrices, condition, tiles)
        self.vertical = Stack(config, matrices, condition, tiles, self.horizontal)
        self.images = FeatureCache(width, rows, channels + network.POSITIONS[config.position], tiles, half)
        self.init = {
            stack: Convolution(self.images, matrices.init[stack], matrices.init_bias[stack], half)
            for stack in network.STACKS
        }
        self.row = 0

    def begin_row(self, row: int) -> None:
        """Compute the vertical features of a row. All pixels above it must have been put."""
        self.row = row
        active = active_levels(self.config, row)
        self.images.next_row()
        self.images.newest[...] = 0
        self.images.newest[:, :, self.config.num_channels :] = self.matrices.position[row][:, np.newaxis]
        self.horizontal.next_row(active)
        self.vertical.next_row(active)
        self.init["vertical"](ALL_COLUMNS, self.vertical.scratch[0].value)
        self.vertical.run(0, row, ALL_COLUMNS)
        for index, (level, _) in enumerate(self.config.blocks):
            if level < active:
                self.horizontal.row_inputs[index] += self.matrices.conv1_bias["horizontal"][index]

    def outputs(self, column: int) -> Floats:
        """The outputs at a pixel of the row, (num_outputs, drawings). All earlier pixels must have been put."""
        scratch = self.horizontal.scratch[0]
        value = scratch.value
        self.init["horizontal"](column, value)
        self.horizontal.run(0, self.row, column)
        np.maximum(value, scratch.elu_tail(value), out=value)
        outputs = np.matmul(self.matrices.output, value) + self.matrices.output_bias
        return outputs.swapaxes(0, 1).reshape(len(self.matrices.output), -1)[:, : self.size]

    def put(self, column: int, scaled: Floats) -> None:
        """Set a pixel of the row, (channels, drawings), from -1 to 1."""
        self.images.newest[column, :, : len(scaled)] = self.tiles.split(scaled)
