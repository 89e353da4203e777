"""Tables (Parquet) and arrays (.npy) between the stages, which may come from anybody: plain values and no more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stages.common.errors import one_line

if TYPE_CHECKING:
    import pandas as pd


def read(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """Some columns of a file, each with the type that pandas gives it; a category is one of texts.

    A row of drawings takes more than a byte, however well it is packed: a file that claims more rows than it has bytes
    would have memory taken for what is not there, and is refused before any of it is.

    Raises:
      ValueError: it is no Parquet file, has no such columns, or lacks values, in words that can follow its name.
      OSError: it cannot be opened.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with path.open("rb") as opened, ParquetFile(opened) as file:
            rows, size = file.metadata.num_rows, path.stat().st_size
            if not 0 <= rows <= size:
                raise ValueError(f"it claims {rows:,} rows in {size:,} bytes")
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise ValueError(f"it has no column {missing[0]!r}")
            # What pandas wrote of its own into the file says nothing more, and could name anything.
            table: pd.DataFrame = file.read(columns=list(columns)).to_pandas(ignore_metadata=True)
    except (ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the content's
        raise ValueError(one_line(error, 200)) from None
    for name, kind in columns.items():
        column = table[name]
        fits = str(column.dtype) == kind and not column.isna().any()
        if fits and kind == "category":
            fits = all(isinstance(text, str) for text in column.cat.categories)
        if not fits:
            raise ValueError(f"its column {name!r} is {column.dtype} of other values than {kind}")
    return table


def open_memmap(path: Path) -> npt.NDArray[np.uint8]:
    """An array of bytes, left on the disk until it is looked at.

    Raises:
      ValueError: it is none, or not as long as its header says, in words that can follow its name.
      OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        try:
            if (version := np.lib.format.read_magic(file)) != (1, 0):
                raise ValueError(f"it is a .npy file of version {version}")
            shape, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
        except Exception as error:  # NumPy reads a header as Python's text, which fails in many ways
            raise ValueError(one_line(error, 200)) from None
        offset, size = file.tell(), path.stat().st_size
    if dtype != np.uint8 or columns_first:
        raise ValueError(f"it holds {one_line(dtype)} of shape {one_line(shape)}, and not uint8, row after row")
    if min(shape, default=1) < 0 or offset + math.prod(shape) != size:
        raise ValueError(f"it is cut short, or lies: {size:,} bytes, and the shape {one_line(shape)}")
    if not math.prod(shape):
        return np.empty(shape, np.uint8)
    return np.memmap(path, np.uint8, "r", offset, shape)
