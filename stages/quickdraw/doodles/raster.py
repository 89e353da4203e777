"""Renders strokes as bitmaps in Google's way: fitted to the middle 23.5 of 28 pixels, with lines 1.47 pixels wide."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.quickdraw import SIDE
from stages.quickdraw.doodles.pen import Bools, Floats

Pixels: TypeAlias = npt.NDArray[np.floating[Any]]  # single precision is enough, and takes half the memory

# Google draws on 256 units with a line width of 16 and a margin of 24 units on each side, and scales that to 28 pixels.
_UNIT = SIDE / (256 + 2 * 24)
_EXTENT, _HALF_LINE = 255 * _UNIT, 8 * _UNIT
# A line can put ink on a pixel if their distance, to the pixel's centre, is below _REACH. The ink of a piece of line of
# at most the length _PIECE falls within the 5 × 5 pixels around the middle of the piece.
_REACH = _HALF_LINE + 0.71
_PIECE = 2 * (2.5 - _REACH)
_AROUND = np.arange(5, dtype=np.float32)
_TINY = np.float32(1e-12)


def fit(x: Floats, y: Floats, drawn: Bools) -> tuple[Floats, Floats]:
    """Scale and centre each drawing, as large as possible.

    Returns:
      The points x and y, (n, t), in pixels; 0 is the centre of the first pixel.
    """
    used = np.pad(drawn, ((0, 0), (1, 0))) | np.pad(drawn, ((0, 0), (0, 1)))
    lows = [np.min(axis, axis=1, keepdims=True, where=used, initial=np.inf) for axis in (x, y)]
    highs = [np.max(axis, axis=1, keepdims=True, where=used, initial=-np.inf) for axis in (x, y)]
    scale = _EXTENT / np.maximum(highs[0] - lows[0], highs[1] - lows[1])
    fitted_x, fitted_y = (
        (axis - (low + high) / 2) * scale + (SIDE - 1) / 2 for axis, low, high in zip((x, y), lows, highs, strict=True)
    )
    return fitted_x, fitted_y


def render(x: Floats, y: Floats, drawn: Bools) -> npt.NDArray[np.uint8]:
    """Render drawings as bitmaps (n, 784), 0 = paper, 255 = stroke.

    If several lines cover parts of a pixel, the largest part counts.

    Args:
      x: of the points, from `fit`, (n, t).
      y: likewise.
      drawn: whether the pen is down between each point and the next, (n, t - 1).
    """
    row, x0, y0, dx, dy = _pieces(x, y, drawn)
    left, top = np.rint(x0 + dx / 2) - 2, np.rint(y0 + dy / 2) - 2
    to_x, to_y = (left - x0)[:, None, None] + _AROUND, (top - y0)[:, None, None] + _AROUND[:, None]
    dx, dy = dx[:, None, None], dy[:, None, None]
    along = np.clip((to_x * dx + to_y * dy) / np.maximum(dx * dx + dy * dy, _TINY), 0, 1)
    off_x, off_y = to_x - along * dx, to_y - along * dy
    away = np.sqrt(off_x * off_x + off_y * off_y)
    near = np.flatnonzero(away < _REACH)
    share = _coverage(off_x.ravel()[near], off_y.ravel()[near], away.ravel()[near])
    corner = (row * SIDE + top.astype(np.intp)) * SIDE + left.astype(np.intp)
    piece, pixel = near // 25, near % 25
    bitmaps = np.zeros(len(x) * SIDE * SIDE, np.float32)
    np.maximum.at(bitmaps, corner[piece] + pixel // 5 * SIDE + pixel % 5, share)
    return np.rint(bitmaps * 255).astype(np.uint8).reshape(len(x), SIDE * SIDE)


def _pieces(x: Floats, y: Floats, drawn: Bools) -> tuple[npt.NDArray[np.intp], Pixels, Pixels, Pixels, Pixels]:
    """Cut the drawn lines into pieces of at most `_PIECE`: the drawing, start x, y and extent dx, dy of each piece."""
    row, start = np.nonzero(drawn)
    x, y = x.astype(np.float32), y.astype(np.float32)
    x0, y0 = x[row, start], y[row, start]
    dx, dy = x[row, start + 1] - x0, y[row, start + 1] - y0
    cuts = np.maximum(np.ceil(np.sqrt(dx * dx + dy * dy) / _PIECE), 1)
    counts = cuts.astype(np.intp)
    line = np.repeat(np.arange(len(row)), counts)  # of each piece
    nth = (np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.float32)
    dx, dy = (dx / cuts)[line], (dy / cuts)[line]
    return row[line], x0[line] + dx * nth, y0[line] + dy * nth, dx, dy


def _coverage(off_x: Pixels, off_y: Pixels, away: Pixels) -> Pixels:
    """The share of a pixel that a line covers.

    The edge of the line cuts the unit square of the pixel at a right angle to (off_x, off_y) / away. The share behind
    the cut is the distribution function of a sum of two uniform random numbers, as wide as that normal's components.

    Args:
      off_x: from the line's nearest point to the centre of the pixel, (k,).
      off_y: likewise.
      away: the length of (off_x, off_y), (k,).
    """
    away = np.maximum(away, _TINY)
    wide, high = np.abs(off_x) / away, np.abs(off_y) / away
    most, least = np.maximum(np.maximum(wide, high), np.float32(0.5)), np.minimum(wide, high)
    inside = _HALF_LINE - away
    beyond = np.maximum((most + least) / 2 - np.abs(inside), 0)
    corner = beyond * beyond / np.maximum(2 * most * least, _TINY)
    tail = np.where(beyond < least, corner, (beyond - least / 2) / most)
    share: Pixels = np.where(inside > 0, 1 - tail, tail)
    return share
