"""Pictures in CSV files: a label and the pixels in each line, or the strokes of Quick, Draw!'s tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
    except (ValueError, UnicodeError) as error:  # also those of pandas' parser
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
                except (TypeError, ValueError, IndexError, RecursionError):
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
            named = [column for column in chunk.columns if str(column).casefold() in LABEL_COLUMNS]
            label = named[0] if named else None if options.class_name else chunk.columns[0]
            order = pixels.layout((len(chunk), chunk.shape[1] - (label is not None)))
        values = chunk.drop(columns=[] if label is None else [label]).to_numpy()
        if values.dtype.kind not in "biuf":
            raise PictureError(f"{path}: its columns beside {label!r} are not numbers")
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
        names: npt.NDArray[np.object_] = chunk[label].map(_class_name).to_numpy(object)
        for name in dict.fromkeys(names):
            yield name, arranged[names == name]
    if scale is None:
        raise PictureError(f"{path}: it has no lines")


def _class_name(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
