"""From strokes to bitmaps as Google makes them: fitted to the middle 23.5 of 28 pixels, with lines 1.47 pixels wide."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.quickdraw import SIDE
from stages.quickdraw.doodles.pen import Bools, Floats

Pixels: TypeAlias = npt.NDArray[np.floating[Any]]  # of single precision, which is enough and half the memory

# Google draws on 256 units with a line of 16 and 24 units of margin on each side, and then shrinks to 28 pixels.
_UNIT = SIDE / (256 + 2 * 24)
_EXTENT, _HALF_LINE = 255 * _UNIT, 8 * _UNIT
# How far from a line its ink reaches the middle of a pixel; and how long a piece of line may be for all its ink to fall
# on the 5 × 5 pixels about the piece's middle.
_REACH = _HALF_LINE + 0.71
_PIECE = 2 * (2.5 - _REACH)
_AROUND = np.arange(5, dtype=np.float32)
_TINY = np.float32(1e-12)


def fitted(x: Floats, y: Floats, drawn: Bools) -> tuple[Floats, Floats]:
    """The points in pixels, the middle of the first one being 0: each drawing as large as it may be, in the centre."""
    used = np.pad(drawn, ((0, 0), (1, 0))) | np.pad(drawn, ((0, 0), (0, 1)))
    lows = [np.min(axis, axis=1, keepdims=True, where=used, initial=np.inf) for axis in (x, y)]
    highs = [np.max(axis, axis=1, keepdims=True, where=used, initial=-np.inf) for axis in (x, y)]
    scale = _EXTENT / np.maximum(highs[0] - lows[0], highs[1] - lows[1])
    at_x, at_y = (
        (axis - (low + high) / 2) * scale + (SIDE - 1) / 2 for axis, low, high in zip((x, y), lows, highs, strict=True)
    )
    return at_x, at_y


def rendered(x: Floats, y: Floats, drawn: Bools) -> npt.NDArray[np.uint8]:
    """Bitmaps (n, 784), 0 = paper, 255 = stroke, of fitted points (n, t); `drawn` (n, t - 1) as `Pen.drawing` has it.

    Where lines overlap on a pixel, the one that covers more of it counts.
    """
    row, x0, y0, dx, dy = _pieces(x, y, drawn)
    left, top = np.rint(x0 + dx / 2) - 2, np.rint(y0 + dy / 2) - 2
    to_x, to_y = (left - x0)[:, None, None] + _AROUND, (top - y0)[:, None, None] + _AROUND[:, None]
    dx, dy = dx[:, None, None], dy[:, None, None]
    along = np.clip((to_x * dx + to_y * dy) / np.maximum(dx * dx + dy * dy, _TINY), 0, 1)
    off_x, off_y = to_x - along * dx, to_y - along * dy
    away = np.sqrt(off_x * off_x + off_y * off_y)
    near = np.flatnonzero(away < _REACH)
    share = _covered(off_x.ravel()[near], off_y.ravel()[near], away.ravel()[near])
    corner = (row * SIDE + top.astype(np.intp)) * SIDE + left.astype(np.intp)
    piece, place = near // 25, near % 25
    bitmaps = np.zeros(len(x) * SIDE * SIDE, np.float32)
    np.maximum.at(bitmaps, corner[piece] + place // 5 * SIDE + place % 5, share)
    return np.rint(bitmaps * 255).astype(np.uint8).reshape(len(x), SIDE * SIDE)


def _pieces(x: Floats, y: Floats, drawn: Bools) -> tuple[npt.NDArray[np.intp], Pixels, Pixels, Pixels, Pixels]:
    """The drawn lines cut into pieces that are short enough: each one's drawing, start, and way to its end."""
    row, at = np.nonzero(drawn)
    x, y = x.astype(np.float32), y.astype(np.float32)
    x0, y0 = x[row, at], y[row, at]
    dx, dy = x[row, at + 1] - x0, y[row, at + 1] - y0
    cuts = np.maximum(np.ceil(np.sqrt(dx * dx + dy * dy) / _PIECE), 1)
    counts = cuts.astype(np.intp)
    of = np.repeat(np.arange(len(row)), counts)
    nth = (np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.float32)
    dx, dy = (dx / cuts)[of], (dy / cuts)[of]
    return row[of], x0[of] + dx * nth, y0[of] + dy * nth, dx, dy


def _covered(off_x: Pixels, off_y: Pixels, away: Pixels) -> Pixels:
    """The share of a pixel that a line covers, by the way from its nearest point to the pixel's middle.

    The edge of the line cuts the unit square with the normal (off_x, off_y) / away; the share behind such a cut is the
    distribution of a sum of two uniform numbers, as wide as the normal's components.
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
