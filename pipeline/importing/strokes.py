"""Drawings as strokes, in which Quick, Draw! publishes them too, drawn as its bitmaps are.

The authors draw a bitmap with cairo (issue 19 of googlecreativelab/quickdraw-dataset): the strokes of a simplified
drawing, from 0 to 255, are moved to the middle of a square of 256, with a margin for the pen, and drawn white on black
with round ends and joints, 16 units wide, at the scale of the bitmap, each stroke over those before. This module does
so with Pillow: the pixels of the nine drawings in its test differ from the published ones by 0.7 of 255 on average.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pipeline.importing.arrays import Batch, Notify
from pipeline.importing.options import Options, PictureError
from stages.common.errors import counted, one_line

SPAN, PEN, MARGIN = 256.0, 16.0, 16.0  # of a simplified drawing, in its units
FINER = 16  # a bitmap is drawn so many times larger, and averaged
EDGE = 0.375  # of a pixel of the larger bitmap: Pillow draws shapes wider than they are, on each side
MAX_LINE_BYTES = 4 << 20
MAX_POINTS = 100_000


def draw(strokes: Any, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Draw strokes, white on black.

    Args:
      strokes: for each stroke its x and its y; more, such as times, is ignored. Drawings that are larger than 256 are
        made smaller.
      size: height and width of the bitmap.

    Returns:
      (height, width, 1).

    Raises:
      ValueError: these are no strokes.
    """
    lines = [np.asarray(stroke[:2], np.float64) for stroke in strokes]
    if not lines or any(line.ndim != 2 or not line.shape[1] >= 1 for line in lines):
        raise ValueError("it has no strokes")
    if sum(line.shape[1] for line in lines) > MAX_POINTS or not all(np.isfinite(line).all() for line in lines):
        raise ValueError("its strokes are not those of a drawing")
    points = np.concatenate(lines, axis=1)
    corner, extent = points.min(axis=1), max(np.ptp(points, axis=1).max(), 1e-9)
    shrink = 1.0
    if corner.min() < 0 or points.max() >= SPAN:  # not a simplified drawing: bring it to the square's corner
        shrink = min(1.0, (SPAN - 1) / extent)
        lines = [(line - corner[:, np.newaxis]) * shrink for line in lines]
        points = np.concatenate(lines, axis=1)
    offset = (SPAN - points.max(axis=1)) / 2

    side = min(size)
    scale = side * FINER / (SPAN + 2 * MARGIN + PEN)
    border = (np.array([size[1], size[0]]) - side) * FINER / 2
    radius = PEN * scale / 2 - EDGE
    paper = np.ones(size)  # the share of each pixel that no stroke covers
    for line in lines:
        canvas = Image.new("L", (size[1] * FINER, size[0] * FINER))
        _draw_stroke(ImageDraw.Draw(canvas), (line.T + offset + MARGIN + PEN / 2) * scale + border, radius)
        paper *= 1 - np.asarray(canvas.reduce(FINER)) / 255
    return np.rint(255 * (1 - paper)).astype(np.uint8)[..., np.newaxis]


def _draw_stroke(pen: ImageDraw.ImageDraw, points: npt.NDArray[np.float64], radius: float) -> None:
    """Draw a line through points (N, 2), with round ends and joints."""
    path = points.tolist()
    for (x0, y0), (x1, y1) in itertools.pairwise(path):
        if length := np.hypot(x1 - x0, y1 - y0):
            dx, dy = -(y1 - y0) / length * radius, (x1 - x0) / length * radius
            pen.polygon([(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)], fill=255)
    for x, y in path:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)


def read_ndjson(path: Path, options: Options, notify: Notify) -> Iterator[Batch]:
    """The drawings of a file with one JSON object per line: `word` and `drawing`."""
    size = options.size or (28, 28)
    skipped, reason, drawn = 0, "", 0
    with open(path, "rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            try:
                if len(line) > MAX_LINE_BYTES:
                    raise ValueError("a line is too long")
                if not line.strip():
                    continue
                entry = json.loads(line)
                name = options.class_name or str(entry["word"])
                drawing = draw(entry["drawing"], size)
            except (KeyError, TypeError, ValueError, IndexError, RecursionError, OverflowError) as error:
                skipped, reason = skipped + 1, reason or one_line(f"{type(error).__name__}: {error}")
                while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n") and line:
                    line = file.readline(MAX_LINE_BYTES + 1)
                continue
            drawn += 1
            yield name, drawing[np.newaxis]
    if skipped and not drawn:
        raise PictureError(f"{path}: no line is a drawing with the keys word and drawing ({reason})")
    if skipped:
        notify(f"{path.name}: {counted(skipped, 'line')} left out, the first because of {reason}")
