"""Sampling on a CPU: every feature computed once, in NumPy.

A row begins with its vertical features, which see the rows above only. A pixel then needs its horizontal features, of
the levels whose grid it lies on. What a convolution still has to see is kept as (columns, rows, channels, drawings):
its taps, over neighbouring columns and the last few rows, are then consecutive rows of one matrix with the drawings as
columns, and the convolution at a pixel is one product of two matrices, with nothing copied together.

A drawing comes out the same to the bit in whatever batch, at whatever place in it. How a BLAS library rounds may depend
on the width of a product, and in a wide one on the column. So features are (…, tiles, channels, width): one tile, as
wide as the batch, where the library at hand rounds such products as it does those of 16 columns, else tiles of 16.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from stages.pixelcnn import network
from stages.pixelcnn.network import Config
from stages.pixelcnn.noise import Floats
from stages.pixelcnn.schedule import active_levels, blocks_of

# Arrays: a Python number would take longer to convert than to add.
ONE = np.ones((), np.float32)
NARROW = 16  # as many floats as the widest registers of a processor hold
HALF = np.float32(0.5)

# A place in a row: the column of a pixel, or all of the row.
Place = int | slice
WHOLE = slice(None)


class Matrices:
    """The network's kernels as the sampler multiplies by them, made once for any number of batches.

    The taps of a kernel make one axis with its inputs, in the order in which `Taps` has them: a matrix (out, columns *
    rows * in). For a layer that repeats, a list of them.
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

        # The first layers as one kernel each over the rows above and the current one: zeros stand for what a pixel must
        # not see.
        seen = plain["init/up/kernel"].shape[3]
        first = {stack: np.zeros((rows, columns, seen, config.num_filters), np.float32) for stack in network.STACKS}
        first["vertical"][:-1] = plain["init/vertical/kernel"][0]
        first["horizontal"][-2] = plain["init/up/kernel"][0, 0]
        first["horizontal"][-2:, :half] += plain["init/left/kernel"][0]
        self.init = {stack: matrix(kernel) for stack, kernel in first.items()}
        self.init_bias = {"vertical": bias("init/vertical")[0], "horizontal": bias("init/up")[0] + bias("init/left")[0]}

        self.conv1 = {stack: matrices(f"{stack}/conv1") for stack in network.STACKS}
        self.conv1_bias = {stack: bias(f"{stack}/conv1") for stack in network.STACKS}
        # A gate is a * sigmoid(b) = a / 2 * (1 + tanh(b / 2)): all that leads to it is halved here, exactly.
        self.conv2 = {stack: [kernel * HALF for kernel in matrices(f"{stack}/conv2")] for stack in network.STACKS}
        self.conv2_bias = {stack: bias(f"{stack}/conv2") * HALF for stack in network.STACKS}
        self.condition: dict[str, Floats] = {}
        if config.conditional_shape is not None:
            self.condition = {stack: dense(plain[f"{stack}/condition/kernel"]) * HALF for stack in network.STACKS}
            for stack in network.STACKS:
                self.conv2_bias[stack] += bias(f"{stack}/condition") * HALF
        # What the vertical stack gives to the horizontal one, by block, and what the way down gives to the way up.
        down, up = dense(plain["horizontal/skip_down/kernel"]), dense(plain["horizontal/skip_up/kernel"])
        self.give = [*down, *(matrix[:, : config.activated] for matrix in up)]
        self.across = {
            "vertical": dense(plain["vertical/skip_up/kernel"]),
            "horizontal": up[..., config.activated :].copy(),
        }
        # All of that is added to the first convolutions, and so are its biases.
        self.conv1_bias["horizontal"] = self.conv1_bias["horizontal"] + np.concatenate(
            [bias("horizontal/skip_down"), bias("horizontal/skip_up")]
        )
        self.conv1_bias["vertical"] = self.conv1_bias["vertical"].copy()
        self.conv1_bias["vertical"][len(down) :] += bias("vertical/skip_up")

        self.shrink: dict[str, list[Floats]] = {}
        self.shrink_bias: dict[str, Floats] = {}
        self.grow: dict[str, list[list[list[Floats]]]] = {}
        self.grow_bias: dict[str, Floats] = {}
        for stack in network.STACKS if config.num_hierarchies > 1 else ():
            self.shrink[stack], self.shrink_bias[stack] = matrices(f"{stack}/shrink"), bias(f"{stack}/shrink")
            # By the level that they lead to, by row and by column: whether it is odd.
            left = half if stack == "vertical" else 0
            upwards = plain[f"{stack}/grow/kernel"][::-1].swapaxes(-1, -2)
            self.grow[stack] = [
                [[matrix(_grow_taps(kernel, row, column + left)) for column in (0, 1)] for row in (0, 1)]
                for kernel in upwards
            ]
            self.grow_bias[stack] = bias(f"{stack}/grow")[::-1]
        self.position = np.asarray(network.position_channels(config))[..., np.newaxis]
        self.output, self.output_bias = dense(plain["output/kernel"])[0], bias("output")[0]

    def shapes(self) -> frozenset[tuple[int, int]]:
        """Those of all matrices that features are multiplied by."""
        kinds: tuple[Mapping[Any, Iterable[Any]], ...]
        kinds = self.conv1, self.conv2, self.across, self.shrink, self.condition
        many = itertools.chain(self.give, *(matrices for kind in kinds for matrices in kind.values()))
        grown = (matrix for kind in self.grow.values() for level in kind for row in level for matrix in row)
        return frozenset(matrix.shape for matrix in (*self.init.values(), *many, *grown, self.output))


class Tiles(NamedTuple):
    """How the drawings of a batch are laid out as columns: so many to a product, in so many products."""

    number: int
    width: int

    @classmethod
    def of(cls, matrices: Matrices, size: int) -> Tiles:
        """For so many drawings."""
        number = -(-size // NARROW)
        return cls(1, number * NARROW) if _rounds_alike(matrices.shapes(), number * NARROW) else cls(number, NARROW)

    def cut(self, x: Floats) -> Floats:
        """From (channels, drawings) to (tiles, channels, width), filled up with zeros."""
        channels, size = x.shape
        padded = np.zeros((channels, self.number * self.width), np.float32)
        padded[:, :size] = x
        return np.ascontiguousarray(padded.reshape(channels, self.number, self.width).swapaxes(0, 1))


@functools.lru_cache
def _rounds_alike(shapes: frozenset[tuple[int, int]], width: int) -> bool:
    """Whether BLAS rounds every column of a product so wide as it does in a narrow one.

    OpenBLAS 0.3.31 does not on AVX2, where the outer eight columns differ. On AVX-512 it does, unless only the wide one
    takes more than 1,000,000 multiplications, and sums of more than 320 are then made in parts.
    """
    random = np.random.default_rng(0)
    for outputs, inputs in sorted(shapes):
        matrix = random.standard_normal((outputs, inputs), np.float32)
        column = random.standard_normal((inputs, 1), np.float32)
        wide, narrow = (matrix @ np.repeat(column, columns, axis=1) for columns in (width, NARROW))
        if (wide != narrow[:, :1]).any():
            return False
    return True


def _grow_taps(kernel: Floats, row: int, column: int) -> Floats:
    """The taps of a change to twice the resolution that reach rows and columns of one parity, as a convolution's.

    Place p of the output is reached from place i of the input by tap p - 2i: from the last place that reaches it by tap
    p % 2, from the one before by tap p % 2 + 2, and so on. Where the other parity has rows of taps more, zeros fill up.
    """
    taken = kernel[row % 2 :: 2, column % 2 :: 2][::-1, ::-1]
    missing = (len(kernel) + 1) // 2 - len(taken)
    return np.concatenate([np.zeros((missing, *taken.shape[1:]), np.float32), taken])


class Taps:
    """What convolutions still have to see of some features: rows of them, the newest last, padded on both sides.

    Attributes:
      line: (columns, tiles, channels, width), the newest row.
      upper, lower: the two halves of its channels.
    """

    def __init__(self, columns: int, rows: int, channels: int, tiles: Tiles, padding: int) -> None:
        shape = (tiles.number, padding + columns + padding, rows, channels, tiles.width)
        self.memory = np.zeros(shape, np.float32)
        self.padding = padding
        self.line = self.memory[:, padding : padding + columns, -1].swapaxes(0, 1)
        self.upper, self.lower = np.split(self.line, [channels // 2], axis=2)

    def windows(self, taps: int, last: int, step: int) -> Floats:
        """What a matrix multiplies for each column: (columns // step, tiles, taps, width).

        Args:
          taps: how many values of a drawing a window holds.
          last: the rightmost column of a window, from the one that it is for.
          step: between two columns that a window is for.
        """
        tiles, _, rows, channels, width = self.memory.shape
        start = self.memory.reshape(tiles, -1, width)[:, (self.padding + last + 1) * rows * channels - taps :]
        by_tile, by_column, _, by_tap, by_drawing = self.memory.strides
        shape = (len(self.line) // step, tiles, taps, width)
        strides = (step * by_column, by_tile, by_tap, by_drawing)
        return np.lib.stride_tricks.as_strided(start, shape, strides, writeable=False)

    def next_row(self) -> None:
        """Makes room for a row."""
        self.memory[:, :, :-1] = self.memory[:, :, 1:]


class Convolution:
    """A convolution at any column of the newest row, or at all of them."""

    def __init__(self, seen: Taps, matrix: Floats, bias: Floats, last: int, step: int = 1) -> None:
        self.seen, self.matrix = seen, matrix
        self.windows = seen.windows(matrix.shape[1], last, step)
        self.bias = np.broadcast_to(bias, (*self.windows.shape[:2], *bias.shape[-2:]))

    def __call__(self, place: Place, out: Floats) -> None:
        """Computes (…, tiles, out, width)."""
        np.matmul(self.matrix, self.windows[place], out=out)
        out += self.bias[place]


class Scratch:
    """Where the features of a pixel, or of a row, are computed: (…, tiles, channels, width)."""

    def __init__(self, columns: tuple[int, ...], filters: int, tiles: Tiles) -> None:
        shape = (*columns, tiles.number, filters, tiles.width)
        self.value, self.minus, self.below, self.x = (np.empty(shape, np.float32) for _ in range(4))
        self.gated = np.empty((*columns, tiles.number, 2 * filters, tiles.width), np.float32)
        self.left, self.opening = self.gated[..., :filters, :], self.gated[..., filters:, :]

    def below_zero(self, x: Floats) -> Floats:
        """exp(-|x|) - 1: elu(x) is the larger of it and x, elu(-x) that of it and -x, which is left in `minus`."""
        # expm1 would be closer by less than 1e-7, and five times slower.
        np.negative(x, out=self.minus)
        np.minimum(x, self.minus, out=self.below)
        np.exp(self.below, out=self.below)
        self.below -= ONE
        return self.below


class Block(NamedTuple):
    """A residual block: its convolutions, and the matrices for what reaches it and leaves it by the side.

    Attributes:
      conv1, conv2: see the activated features of the block before, and of conv1.
      across: of a block on the way up, for the features on the way down that it meets again.
      give, given: of a vertical block, how its features are added to the horizontal block's conv1, and where.
    """

    conv1: Convolution
    conv2: Convolution
    across: Floats | None
    give: Floats
    given: Floats | None


class Stack:
    """The features of one stack in a batch of drawings: of the vertical one by rows, of the horizontal one by pixels.

    Args:
      condition: (tiles, conditional_size, width), or None.
      horizontal: the horizontal stack, which takes from this one if it is the vertical stack.
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
        self.taps: list[list[Taps]] = [[] for _ in levels]

        def taps(level: int, rows: int, channels: int) -> Taps:
            made = Taps(width >> level, rows, channels, tiles, half)
            self.taps[level].append(made)
            return made

        conv2_bias = matrices.conv2_bias[stack][:, np.newaxis]
        if condition is not None:
            conv2_bias = conv2_bias + matrices.condition[stack][:, np.newaxis] @ condition
        # What the vertical features add to the first convolutions of the horizontal ones.
        self.ready: list[Floats] = []
        if horizontal is None:
            shape = (tiles.number, filters, tiles.width)
            self.ready = [np.empty((width >> level, *shape), np.float32) for level, _ in config.blocks]

        def block(index: int) -> Block:
            level, up = config.blocks[index]
            bias = matrices.conv1_bias[stack][index] if horizontal else self.ready[index]
            first, second = (taps(level, rows, config.activated) for _ in range(2))
            return Block(
                Convolution(first, matrices.conv1[stack][index], bias, last),
                Convolution(second, matrices.conv2[stack][index], conv2_bias[index], last),
                matrices.across[stack][index - len(config.blocks)] if up else None,
                matrices.give[index],
                horizontal.ready[index] if horizontal else None,
            )

        everything = [blocks_of(config, level) for level in levels]
        self.down = [[block(index) for index in blocks.down] for blocks in everything]
        self.up = [[block(index) for index in blocks.up] for blocks in everything]
        # Where the last block on a level's way leaves its activation.
        self.last = [taps(level, 1, config.activated) for level in levels]
        # From a level to the next lower one, and back: by whether the row is odd, by whether the column is.
        self.shrink: list[Convolution] = []
        self.grow: list[list[list[Convolution]]] = []
        for level in levels[:-1]:
            sent, brought = taps(level, rows, filters), taps(level + 1, (rows + 1) // 2, filters)
            bias = matrices.shrink_bias[stack][level]
            self.shrink.append(Convolution(sent, matrices.shrink[stack][level], bias, last, 2))
            bias = matrices.grow_bias[stack][level]
            self.grow.append(
                [
                    [Convolution(brought, matrix, bias, (odd + last) // 2) for odd, matrix in enumerate(by_column)]
                    for by_column in matrices.grow[stack][level]
                ]
            )

    def next_row(self, active: int) -> None:
        """Makes room for a row in which so many levels are active."""
        for level in self.taps[:active]:
            for taps in level:
                taps.next_row()

    def run(self, level: int, row: int, place: Place) -> None:
        """Computes a level's features and those of the levels below it, from the scratch's `value` to its `value`.

        Args:
          level: 0 is full resolution.
          row: on the grid of the level.
          place: the column on the grid of the level, or the whole row.
        """
        scratch, down, up = self.scratch[level], self.down[level], self.up[level]
        lowest = level == len(self.scratch) - 1
        # What the way up meets again, last in first out. At the lowest level the way up starts with the last of it.
        passed = [*(block.conv1.seen for block in down), up[0].conv1.seen if lowest else self.last[level]]
        self._activate(scratch, scratch.value, passed[0], place)
        for block, following in zip(down, passed[1:], strict=True):
            self._block(scratch, block, following, place)
        if lowest:
            passed.pop()
        else:
            self._visit_below(level, row, place)
            self._activate(scratch, scratch.value, up[0].conv1.seen, place)
        for block, next_one in itertools.pairwise(up):
            self._block(scratch, block, next_one.conv1.seen, place, passed.pop())
        self._block(scratch, up[-1], self.last[level] if up[-1].given is not None else None, place, passed.pop())

    def _visit_below(self, level: int, row: int, place: Place) -> None:
        """The next lower level's features, where the place is on its grid, and the way back from them."""
        value, below = self.scratch[level].value, self.scratch[level + 1].value
        there, odd = (place, 0) if isinstance(place, slice) else (place // 2, place % 2)
        shrink, grow = self.shrink[level], self.grow[level][row % 2]
        shrink.seen.line[place] = value
        if row % 2 == 0 and odd == 0:
            shrink(there, below)
            self.run(level + 1, row // 2, there)
            grow[0].seen.line[there] = below
        if isinstance(place, slice):
            grow[0](there, value[0::2])
            grow[1](there, value[1::2])
        else:
            grow[odd](there, value)

    def _block(
        self, scratch: Scratch, block: Block, following: Taps | None, place: Place, passed: Taps | None = None
    ) -> None:
        """A gated residual block on `value`, whose activation is there already; that of the result goes to the next."""
        value, x, gated, opening = scratch.value, scratch.x, scratch.gated, scratch.opening
        block.conv1(place, x)
        if passed is not None and block.across is not None:
            np.matmul(block.across, passed.line[place], out=scratch.minus)
            x += scratch.minus
        self._activate(scratch, x, block.conv2.seen, place)
        block.conv2(place, gated)
        np.tanh(opening, out=opening)
        opening += ONE
        opening *= scratch.left
        value += opening
        if following is not None:
            self._activate(scratch, value, following, place)
            if block.given is not None:
                np.matmul(block.give, following.line, out=block.given)

    def _activate(self, scratch: Scratch, x: Floats, out: Taps, place: Place) -> None:
        """Writes the activation of x where convolutions find it."""
        if self.activation == "relu":
            np.maximum(x, 0, out=out.line[place])
            return
        below = scratch.below_zero(x)
        if self.activation == "elu":
            np.maximum(x, below, out=out.line[place])
        else:
            np.maximum(x, below, out=out.upper[place])
            np.maximum(scratch.minus, below, out=out.lower[place])


class Batch:
    """Drawings in the making: for each row `begin_row`, then for each of its pixels `outputs` and `put`."""

    def __init__(self, config: Config, matrices: Matrices, condition: Floats | None, size: int) -> None:
        _, width, channels = config.image_shape
        rows, columns = config.receptive_field_dims
        half, tiles = columns // 2, Tiles.of(matrices, size)
        self.config, self.matrices, self.tiles, self.size = config, matrices, tiles, size
        if condition is not None:
            condition = tiles.cut(condition.reshape(size, -1).T)
        self.horizontal = Stack(config, matrices, condition, tiles)
        self.vertical = Stack(config, matrices, condition, tiles, self.horizontal)
        self.images = Taps(width, rows, channels + network.POSITIONS[config.position], tiles, half)
        self.init = {
            stack: Convolution(self.images, matrices.init[stack], matrices.init_bias[stack], half)
            for stack in network.STACKS
        }
        self.row = 0

    def begin_row(self, row: int) -> None:
        """Computes the row's vertical features. The pixels above have been put."""
        self.row = row
        active = active_levels(self.config, row)
        self.images.next_row()
        self.images.line[...] = 0
        self.images.line[:, :, self.config.num_channels :] = self.matrices.position[row][:, np.newaxis]
        self.horizontal.next_row(active)
        self.vertical.next_row(active)
        self.init["vertical"](WHOLE, self.vertical.scratch[0].value)
        self.vertical.run(0, row, WHOLE)
        for index, (level, _) in enumerate(self.config.blocks):
            if level < active:
                self.horizontal.ready[index] += self.matrices.conv1_bias["horizontal"][index]

    def outputs(self, column: int) -> Floats:
        """The network's outputs at the row's pixel, whose earlier pixels have been put: (num_outputs, drawings)."""
        scratch = self.horizontal.scratch[0]
        value = scratch.value
        self.init["horizontal"](column, value)
        self.horizontal.run(0, self.row, column)
        np.maximum(value, scratch.below_zero(value), out=value)
        outputs = np.matmul(self.matrices.output, value) + self.matrices.output_bias
        return outputs.swapaxes(0, 1).reshape(len(self.matrices.output), -1)[:, : self.size]

    def put(self, column: int, scaled: Floats) -> None:
        """Sets the pixel, (channels, drawings) from -1 to 1."""
        self.images.line[column, :, : len(scaled)] = self.tiles.cut(scaled)
