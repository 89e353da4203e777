"""Pictures in CSV files: a label and the pixels in each line, or the strokes of Quick, Draw!'s tables."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.importing import pixels
from pipeline.importing.arrays import Batch, Notify
from pipeline.importing.options import Options, PictureError
from pipeline.importing.strokes import draw
from stages.common.errors import counted, one_line

LABEL_COLUMNS = ("label", "labels", "class", "target", "y", "word")
ROWS_AT_ONCE = 2048


def read_csv(path: Path, options: Options, notify: Notify) -> Iterator[Batch]:
    """The pictures of a CSV file, with or without names of the columns."""
    import pandas as pd

    try:
        start = pd.read_csv(path, nrows=1, header=None, dtype=str, keep_default_na=False)
        has_names = any(not _is_number(cell) for cell in start.iloc[0, 1:])
        with pd.read_csv(path, header=0 if has_names else None, chunksize=ROWS_AT_ONCE, low_memory=False) as chunks:
            if has_names and {"word", "drawing"} <= set(start.iloc[0]):
                yield from _strokes(path, chunks, options, notify)
            else:
                yield from _pixels(path, chunks, options, notify)
    # `ValueError` is also an error of pandas' parser; the last three are those of gzip.
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise PictureError(f"{path}: it cannot be read ({one_line(error)})") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _strokes(path: Path, chunks: Iterable[Any], options: Options, notify: Notify) -> Iterator[Batch]:
    skipped = 0
    for chunk in chunks:
        for name, rows in chunk.groupby("word", sort=False):
            drawings = []
            for text in rows["drawing"]:
                try:
                    drawings.append(draw(json.loads(text), options.size or (28, 28)))
                except (TypeError, ValueError, IndexError, RecursionError, OverflowError):
                    skipped += 1
            if drawings:
                yield options.class_name or str(name), np.stack(drawings)
    if skipped:
        notify(f"{path.name}: {counted(skipped, 'line')} left out, whose strokes cannot be drawn")


def _pixels(path: Path, chunks: Iterable[Any], options: Options, notify: Notify) -> Iterator[Batch]:
    """The scale of the values is that of the first lines: a whole file may not fit into memory."""
    scale: tuple[float, float, str] | None = None
    label = None
    for chunk in chunks:
        if scale is None:
            label = _label_column(path, chunk, options, notify)
            order = pixels.layout((len(chunk), chunk.shape[1] - (label is not None)))
        values = chunk.drop(columns=[] if label is None else [label]).to_numpy()
        if values.dtype.kind not in "biuf":
            raise PictureError(f"{path}: its columns beside {one_line(repr(label))} are not numbers")
        if scale is None:
            scale = pixels.scale(values.dtype, float(values.min()), float(values.max()))
            if scale[2]:
                notify(f"{path.name}: {scale[2]}")
        elif not np.isfinite(values).all():
            raise PictureError(f"{path}: it has values that are not numbers")
        arranged = pixels.rescale(pixels.arrange(values, order), *scale[:2])
        if label is None:
            yield str(options.class_name), arranged
            continue
        codes, names = chunk[label].map(_class_name).factorize()  # NumPy takes texts for equal but for NULs at the end
        for code, name in enumerate(names):
            yield name, arranged[codes == code]
    if scale is None:
        raise PictureError(f"{path}: it has no lines")


def _label_column(path: Path, lines: Any, options: Options, notify: Notify) -> Any:
    """The column of the labels, from the first lines; None if `class_name` is the label of all.

    It is the column with a usual name, or else the first; but the last if the first has one value, as a corner of
    drawings has, and the last has several.
    """
    first, last = lines.columns[0], lines.columns[-1]
    if options.labels:
        columns = {str(column): column for column in lines.columns} | {"first": first, "last": last}
        if options.labels not in columns:
            raise PictureError(
                f"{path}: it has no column {one_line(repr(options.labels))}; expected: a name in its first line, first "
                "or last"
            )
        return columns[options.labels]
    if named := [column for column in lines.columns if str(column).casefold() in LABEL_COLUMNS]:
        return named[0]
    if options.class_name:
        return None
    if lines[first].nunique() == 1 < lines[last].nunique():
        notify(f"{path.name}: the labels are in the last column, because the first has one value")
        return last
    return first


def _class_name(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
