"""Sampling on a GPU: one program for whole images, every feature computed once.

A GPU takes a few microseconds to be told of each of the ten thousands of small steps of an image; told of all of them
at once, as one compiled program, it does not wait. The schedule is that of `cached`, as loops over rows, over the
pixels of a row and over the residual blocks of a level: the program does not grow with depth, nor the time to compile
it. A branch leaves out the levels that a pixel does not lie on. What the row above and the columns to the left give is
computed for all blocks of a level at once: a block after the other waits only for what is new at the pixel.
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
from stages.pixelcnn.likelihood import scale_pixels
from stages.pixelcnn.network import Config
from stages.pixelcnn.noise import SMALLEST_SCALE, Floats
from stages.pixelcnn.schedule import blocks_of


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
    """Images before the last rounding, low to high: (height, width, drawings, channels).

    Args:
      config: the architecture.
      weights: plain kernels and biases.
      gumbel: (height, width, drawings, num_logistic_mix), noise times temperature.
      logistic: (height, width, drawings, channels), noise times temperature.
      condition: (drawings, conditional_size), or None; of twice as many drawings where `guidance` leads the outputs
        under the first half from those under the second.
      guidance: of no use where there is nothing to lead away from.
      known: (height, width, drawings, 1), where the pixel is given.
      given: (height, width, drawings, channels), pixels on the network's scale of -1 to 1.
      quantised: whether the network sees a pixel rounded.
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
        row: tf.Tensor, images: tf.Tensor, values: tf.Tensor, kept: list[_Cache], caches: list[_Cache]
    ) -> tuple[Any, ...]:
        lines = xla.dynamic_slice(images, [row, 0, 0, 0], [above, *images.shape[1:]])
        added, kept = vertical.row(row, lines, kept)
        start = horizontal.start(lines[-1])
        ready = [horizontal.ready(level, caches[level], given) for level, given in enumerate(added)]

        def one_pixel(column: tf.Tensor, line: tf.Tensor, drawn: tf.Tensor, caches: list[_Cache]) -> tuple[Any, ...]:
            outputs, news = horizontal.pixel(row, column, line, start, ready, caches)
            if copies == 2:
                own, reference = tf.split(outputs, 2)
                outputs = reference + guidance * (own - reference)
            value, scaled = _draw(config, quantised, outputs, _at(gumbel, row, column), _at(logistic, row, column))
            stays, pixel = _at(known, row, column), _at(given, row, column)
            value, scaled = tf.where(stays, _to_pixels(config, pixel), value), tf.where(stays, pixel, scaled)
            seen = tf.concat([tf.tile(scaled, [copies, 1]), _at(line, column + half)[:, channels:]], axis=-1)
            line, drawn = _put(line, seen, column + half), _put(drawn, value, column)
            return column + 1, line, drawn, horizontal.keep(row, column, caches, news)

        loop = (0, _at(images, row + above), tf.zeros((width, size, channels)), caches)
        _, line, drawn, caches = tf.while_loop(
            lambda column, *_: column < width, one_pixel, loop, maximum_iterations=width
        )
        return row + 1, _put(images, line, row + above), _put(values, drawn, row), kept, caches

    images = tf.tile(network.position_channels(config)[:, :, tf.newaxis], [1, 1, copies * size, 1])
    images = tf.pad(images, [[above, 0], [half, half], [0, 0], [channels, 0]])  # the pixels' own channels come first
    loop = (0, images, tf.zeros((height, width, size, channels)), vertical.nothing(), horizontal.nothing())
    return tf.while_loop(lambda row, *_: row < height, one_row, loop, maximum_iterations=height)[2]


class _Cache(NamedTuple):
    """What convolutions still have to see of one level's features of a stack.

    Of the vertical stack (rows above, columns, drawings, channels). Of the horizontal one (columns, drawings,
    channels): up to the pixel its row, behind it still the row above, and a column more for what is of no use, as
    writing it there is cheaper than not to write.

    Attributes:
      first, second: what the two convolutions of the blocks see, (blocks, …).
      sent: the way down's last features, for the next level.
      brought: the way up's last features, for the level before.
    """

    first: tf.Tensor
    second: tf.Tensor
    sent: tf.Tensor
    brought: tf.Tensor


class _RowInputs(NamedTuple):
    """What a row's pixels find ready for a level's convolutions: (blocks, columns, drawings, out); `shrink` is one."""

    first: tf.Tensor
    second: tf.Tensor
    shrink: tf.Tensor


class _Stack:
    """The weights of one stack by level, and how its blocks run."""

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
        own = skip_up if stack == "vertical" else skip_up[:, config.activated :]
        self.across = [own[b.ups_before : b.ups_before + len(b.up)] for b in self.blocks]
        if self.lowest:
            self.shrink, self.shrink_bias = weights[f"{stack}/shrink/kernel"], weights[f"{stack}/shrink/b"]
            self.last = self.half if stack == "vertical" else 0
            self.grow = [_grow_taps(kernel, self.last) for kernel in tf.unstack(weights[f"{stack}/grow/kernel"])[::-1]]
            self.grow_bias = weights[f"{stack}/grow/b"][::-1]

    def run(
        self,
        level: int,
        value: tf.Tensor,
        conv1: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        conv2: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        visit_below: Callable[[tf.Tensor], tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Runs a level's residual blocks.

        Args:
          level: 0 is full resolution.
          value: features, (…, num_filters).
          conv1, conv2: a block's convolutions: its number on this level, its input.
          visit_below: from the way down's last features to the way up's first; not called on the lowest level.

        Returns:
          the level's last features; what the blocks' first and second convolutions saw, (blocks, …, activated).
        """
        down, up = len(self.blocks[level].down), len(self.blocks[level].up)
        room = tf.zeros((down + up, *value.shape[:-1], self.config.activated))

        def block(
            index: tf.Tensor, skip: tf.Tensor | float, value: tf.Tensor, first: tf.Tensor, second: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            active = self.activate(value)
            inner = self.activate(conv1(index, active) + skip)
            left, opening = tf.split(conv2(index, inner), 2, axis=-1)
            return value + left * tf.sigmoid(opening), _put(first, active, index), _put(second, inner, index)

        def on_the_way_up(number: tf.Tensor, *features: tf.Tensor) -> tuple[tf.Tensor, ...]:
            skip = _multiply(_at(passed, len(self.blocks[level].up) - 1 - number), _at(self.across[level], number))
            return number + 1, *block(down + number, skip, *features)

        _, value, first, second = tf.while_loop(
            lambda index, *_: index < down,
            lambda index, *features: (index + 1, *block(index, 0.0, *features)),
            (0, value, room, room),
            maximum_iterations=down,
        )
        # What the way up meets again, last in first out. At the lowest level the last is where the way up starts.
        passed = first[:down]
        if level < self.lowest:
            passed = tf.concat([passed, self.activate(value)[tf.newaxis]], axis=0)
            value = visit_below(value)
        _, value, first, second = tf.while_loop(
            lambda number, *_: number < up, on_the_way_up, (0, value, first, second), maximum_iterations=up
        )
        return value, first, second


class _Vertical(_Stack):
    """The vertical stack by rows: features are (columns, drawings, channels)."""

    def __init__(self, config: Config, weights: network.Parameters, condition: tf.Tensor | None, size: int) -> None:
        super().__init__(config, weights, condition, size, "vertical")
        self.init, self.init_bias = weights["init/vertical/kernel"][0], weights["init/vertical/b"][0]
        self.skip_bias = weights["vertical/skip_up/b"]
        # What the features add to the first convolution of the horizontal blocks.
        down, up = weights["horizontal/skip_down/kernel"], weights["horizontal/skip_up/kernel"]
        give = tf.concat([down, up[:, : config.activated]], axis=0)
        bias = tf.concat([weights["horizontal/skip_down/b"], weights["horizontal/skip_up/b"]], axis=0)
        bias += weights["horizontal/conv1/b"]
        self.give = [tf.gather(give, [*blocks.down, *blocks.up]) for blocks in self.blocks]
        self.give_bias = [tf.gather(bias, [*blocks.down, *blocks.up]) for blocks in self.blocks]
        for level, blocks in enumerate(self.blocks):
            skips = self.skip_bias[blocks.ups_before : blocks.ups_before + len(blocks.up)]
            self.conv1_bias[level] += tf.pad(skips, [[len(blocks.down), 0], [0, 0]])[:, tf.newaxis]

    def nothing(self) -> list[_Cache]:
        """What is kept above the first row: zeros, like the padding."""
        above = self.config.receptive_field_dims[0] - 2
        found = []
        for width, kernels in zip(self.widths, self.conv1, strict=True):
            active = tf.zeros((kernels.shape[0], above, width, self.size, self.config.activated))
            value = tf.zeros((above, width, self.size, self.filters))
            found.append(_Cache(active, active, value, tf.zeros((above // 2 + 1, *value.shape[1:]))))
        return found

    def row(self, row: tf.Tensor, lines: tf.Tensor, kept: list[_Cache]) -> tuple[list[tf.Tensor], list[_Cache]]:
        """A row's features.

        Args:
          row: of pixels.
          lines: (rows - 1, padded columns, drawings, channels), the images above.
          kept: of the rows above.

        Returns:
          by level what they add to the horizontal blocks' first convolutions, (blocks, columns, drawings, num_filters),
          of no use where the level has no such row; and what to keep for the next row.
        """
        value = _multiply(_windows(lines, self.widths[0]), _matrix(self.init)) + self.init_bias
        return self._level(0, row, value, kept)

    def _level(
        self, level: int, row: tf.Tensor, value: tf.Tensor, kept: list[_Cache]
    ) -> tuple[list[tf.Tensor], list[_Cache]]:
        mine, width = kept[level], self.widths[level]
        conv1, conv2 = _matrix(self.conv1[level]), _matrix(self.conv2[level])
        padding = [[0, 0], [self.half, self.half], [0, 0], [0, 0]]

        def windows(above: tf.Tensor, x: tf.Tensor, step: int = 1) -> tf.Tensor:
            return _windows(tf.pad(tf.concat([above, x[tf.newaxis]], axis=0), padding), width, step)

        def first(index: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            seen = windows(_at(mine.first, index), x)
            return _multiply(seen, _at(conv1, index)) + _at(self.conv1_bias[level], index)

        def second(index: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            return _multiply(windows(_at(mine.second, index), x), _at(conv2, index)) + _at(
                self.conv2_bias[level], index
            )

        sent: list[tf.Tensor] = []
        added: list[tf.Tensor] = []
        lower: list[_Cache] = []

        def visit_below(value: tf.Tensor) -> tf.Tensor:
            def visit() -> tuple[list[tf.Tensor], list[_Cache]]:
                x = _multiply(windows(mine.sent, value, 2), _matrix(self.shrink[level])) + self.shrink_bias[level]
                return self._level(level + 1, row // 2, x, kept)

            def stay() -> tuple[list[tf.Tensor], list[_Cache]]:
                sizes = zip(self.give[level + 1 :], self.widths[level + 1 :], strict=True)
                return [tf.zeros((x.shape[0], w, self.size, self.filters)) for x, w in sizes], kept[level + 1 :]

            found, following = tf.cond(row % 2 == 0, visit, stay)
            sent.append(value)
            added.extend(found)
            lower.extend(following)
            brought = tf.pad(following[0].brought, padding)
            grown = []
            for odd, kernel in enumerate(tf.unstack(_at(self.grow[level], row % 2))):
                # The last of a kernel's columns lies so far to the right of its place.
                start = self.half + (odd + self.last) // 2 - (kernel.shape[1] - 1)
                grown.append(_multiply(_windows(brought[:, start:], width // 2, 1, kernel.shape[1]), _matrix(kernel)))
            return tf.reshape(tf.stack(grown, axis=1), [width, *grown[0].shape[1:]]) + self.grow_bias[level]

        value, seen1, seen2 = self.run(level, value, first, second, visit_below)
        outputs = tf.concat([seen1[1:], self.activate(value)[tf.newaxis]], axis=0)
        if level < self.lowest:
            # The way up does not start with the way down's last features, which nothing but `passed` has seen.
            down = len(self.blocks[level].down)
            ends = self.activate(sent[0])[tf.newaxis]
            outputs = tf.concat([outputs[: down - 1], ends, outputs[down:]], axis=0)
        give = _multiply(outputs, self.give[level]) + self.give_bias[level][:, tf.newaxis, tf.newaxis]
        news = _Cache(
            tf.concat([mine.first, seen1[:, tf.newaxis]], axis=1)[:, 1:],
            tf.concat([mine.second, seen2[:, tf.newaxis]], axis=1)[:, 1:],
            tf.concat([mine.sent, (sent[0] if sent else value)[tf.newaxis]], axis=0)[1:],
            tf.concat([mine.brought, value[tf.newaxis]], axis=0)[1:],
        )
        return [give, *added], [news, *lower]


class _Horizontal(_Stack):
    """The horizontal stack by pixels: features are (drawings, channels)."""

    def __init__(self, config: Config, weights: network.Parameters, condition: tf.Tensor | None, size: int) -> None:
        super().__init__(config, weights, condition, size, "horizontal")
        self.up, self.left = weights["init/up/kernel"][0, 0], weights["init/left/kernel"][0]
        self.init_bias = weights["init/up/b"][0] + weights["init/left/b"][0]
        self.output, self.output_bias = weights["output/kernel"][0], weights["output/b"][0]

    def nothing(self) -> list[_Cache]:
        """What is kept above the first row: zeros, like the padding."""
        found = []
        for width, kernels in zip(self.widths, self.conv1, strict=True):
            columns = self.half + width + 1
            active = tf.zeros((kernels.shape[0], columns, self.size, self.config.activated))
            value = tf.zeros((columns, self.size, self.filters))
            found.append(_Cache(active, active, value, value))
        return found

    def start(self, line: tf.Tensor) -> tf.Tensor:
        """The first layer as far as the row above, (padded columns, drawings, channels), gives it to a row."""
        kernel = self.up + tf.pad(self.left[0], [[0, self.half + 1], [0, 0], [0, 0]])
        return _multiply(_windows(line[tf.newaxis], self.widths[0]), _matrix(kernel[tf.newaxis])) + self.init_bias

    def ready(self, level: int, kept: _Cache, given: tf.Tensor) -> _RowInputs:
        """What a row's pixels find ready; of no use where the level has no such row."""
        width = self.widths[level]

        def above(seen: tf.Tensor, kernels: tf.Tensor) -> tf.Tensor:
            return sum(_multiply(seen[:, tap : tap + width], kernels[:, 0, tap]) for tap in range(self.half + 1))

        first = above(kept.first, self.conv1[level]) + given
        second = above(kept.second, self.conv2[level]) + self.conv2_bias[level][:, tf.newaxis]
        if level == self.lowest:
            return _RowInputs(first, second, tf.zeros(()))
        sent = _windows(kept.sent[tf.newaxis], width, 2, self.half + 1)
        return _RowInputs(first, second, _multiply(sent, _matrix(self.shrink[level, :1])) + self.shrink_bias[level])

    def pixel(
        self,
        row: tf.Tensor,
        column: tf.Tensor,
        line: tf.Tensor,
        start: tf.Tensor,
        ready: list[_RowInputs],
        caches: list[_Cache],
    ) -> tuple[tf.Tensor, list[_Cache]]:
        """The network's outputs at a pixel, (drawings, num_outputs), and its features: a column for each cache."""
        value = _at(start, column)
        value += sum(_multiply(_at(line, column + tap), self.left[1, tap]) for tap in range(self.half))
        news = self._level(0, row, column, value, ready, caches)
        return _multiply(tf.nn.elu(news[0].brought), self.output) + self.output_bias, news

    def _level(
        self,
        level: int,
        row: tf.Tensor,
        column: tf.Tensor,
        value: tf.Tensor,
        ready: list[_RowInputs],
        caches: list[_Cache],
    ) -> list[_Cache]:
        conv1, conv2 = self.conv1[level][:, 1], self.conv2[level][:, 1]

        def beside(seen: tf.Tensor, kernels: tf.Tensor, ready: tf.Tensor) -> tf.Tensor:
            """What the row above and the columns to the left give to every block."""
            taps = [_multiply(_column(seen, column + tap), kernels[:, tap]) for tap in range(self.half)]
            return sum(taps, _column(ready, column))

        first_ready = beside(caches[level].first, conv1, ready[level].first)
        second_ready = beside(caches[level].second, conv2, ready[level].second)

        def first(index: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            return _multiply(x, _at(conv1[:, -1], index)) + _at(first_ready, index)

        def second(index: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            return _multiply(x, _at(conv2[:, -1], index)) + _at(second_ready, index)

        sent: list[tf.Tensor] = []
        lower: list[_Cache] = []

        def visit_below(value: tf.Tensor) -> tf.Tensor:
            there, on_grid = column // 2, (row % 2 == 0) & (column % 2 == 0)

            def visit() -> list[_Cache]:
                taps = [*(_at(caches[level].sent, column + tap) for tap in range(self.half)), value]
                x = sum(_multiply(seen, self.shrink[level, 1, tap]) for tap, seen in enumerate(taps))
                return self._level(level + 1, row // 2, there, x + _at(ready[level].shrink, there), ready, caches)

            def stay() -> list[_Cache]:
                none = tf.zeros((self.size, self.filters))
                blocks = [tf.zeros((x.shape[0], self.size, self.config.activated)) for x in self.conv1[level + 1 :]]
                return [_Cache(x, x, none, none) for x in blocks]

            sent.append(value)
            lower.extend(tf.cond(on_grid, visit, stay))
            kernel = _at(self.grow[level], row % 2, column % 2)[0]
            before = range(kernel.shape[0] - 1, 0, -1)
            taps = [_at(caches[level + 1].brought, there + self.half - back) for back in before]
            newest = _at(caches[level + 1].brought, there + self.half)
            taps.append(tf.where(on_grid, lower[0].brought, newest))
            return sum(_multiply(seen, kernel[tap]) for tap, seen in enumerate(taps)) + self.grow_bias[level]

        value, seen1, seen2 = self.run(level, value, first, second, visit_below)
        return [_Cache(seen1, seen2, sent[0] if sent else value, value), *lower]

    def keep(self, row: tf.Tensor, column: tf.Tensor, caches: list[_Cache], news: list[_Cache]) -> list[_Cache]:
        """The caches with a pixel's features in them."""
        found = []
        for level, (cache, new) in enumerate(zip(caches, news, strict=True)):
            on_grid = (row % 2**level == 0) & (column % 2**level == 0)
            place = self.half + tf.where(on_grid, column // 2**level, self.widths[level])
            found.append(
                _Cache(
                    xla.dynamic_update_slice(cache.first, new.first[:, tf.newaxis], [0, place, 0, 0]),
                    xla.dynamic_update_slice(cache.second, new.second[:, tf.newaxis], [0, place, 0, 0]),
                    _put(cache.sent, new.sent, place),
                    _put(cache.brought, new.brought, place),
                )
            )
        return found


def _grow_taps(kernel: tf.Tensor, last: int) -> tf.Tensor:
    """The taps of a change to twice the resolution as convolutions, by whether row and column are odd.

    Place p of the output is reached from place i of the input by tap p - 2i: from the last place that reaches it by tap
    p % 2, from the one before by tap p % 2 + 2, and so on; where the other parity has a tap more, there is a zero.

    Args:
      kernel: (rows, columns, out, in).
      last: the tap that reaches a column from the one of its own number, twice over.

    Returns:
      (2, 2, rows, columns, in, out).
    """
    rows, columns = (-(-length // 2) for length in kernel.shape[:2])

    def taken(row: int, column: int) -> tf.Tensor:
        taps = tf.reverse(kernel[row::2, (column + last) % 2 :: 2], [0, 1])
        return tf.pad(taps, [[rows - taps.shape[0], 0], [columns - taps.shape[1], 0], [0, 0], [0, 0]])

    by_parity = tf.stack([tf.stack([taken(row, column) for column in (0, 1)]) for row in (0, 1)])
    return tf.transpose(by_parity, [0, 1, 2, 3, 5, 4])


def _windows(x: tf.Tensor, width: int, step: int = 1, columns: int | None = None) -> tf.Tensor:
    """What a convolution sees of (rows, padded columns, drawings, channels): (width // step, drawings, taps)."""
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


def _draw(
    config: Config, quantised: bool, outputs: tf.Tensor, gumbel: tf.Tensor, logistic: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """`mixture.Drawer` in TensorFlow: (drawings, channels), from low to high and, as the network sees it, -1 to 1."""
    channels = config.num_channels
    parts = tf.reshape(outputs, [outputs.shape[0], config.num_logistic_mix, -1])
    component = tf.argmax(parts[..., 0] + gumbel, axis=-1, output_type=tf.int32)
    chosen = tf.reduce_sum(parts * tf.one_hot(component, config.num_logistic_mix)[..., tf.newaxis], axis=1)
    scales = tf.nn.softplus(chosen[:, 1 + channels : 1 + 2 * channels]) + SMALLEST_SCALE
    drawn = tf.unstack(chosen[:, 1 : 1 + channels] + scales * logistic, axis=-1)
    coeffs = iter(tf.unstack(chosen[:, 1 + 2 * channels :], axis=-1))
    values, seen = list[tf.Tensor](), list[tf.Tensor]()
    for value in drawn:
        for earlier in seen:
            value += next(coeffs) * earlier
        scaled = tf.clip_by_value(value, -1.0, 1.0)
        values.append(_to_pixels(config, scaled))
        seen.append(scale_pixels(config, tf.round(values[-1])) if quantised else scaled)
    return tf.stack(values, axis=-1), tf.stack(seen, axis=-1)


def _to_pixels(config: Config, scaled: tf.Tensor) -> tf.Tensor:
    return (scaled + 1.0) * ((config.high - config.low) / 2) + config.low
