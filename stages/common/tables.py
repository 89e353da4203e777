"""Readers of untrusted tables (Parquet) and arrays (.npy), which accept only plain values."""

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
    """Read columns of a Parquet file.

    A row takes more than one byte, even compressed. A file that claims more rows than it has bytes is rejected before
    memory is allocated for them.

    Args:
      path: the file.
      columns: the pandas type of each column to read, by name. The values of a "category" must be texts.

    Raises:
      ValueError: it is not a Parquet file, or lacks a column or a value. The message can follow the file's name.
      OSError: the file cannot be opened.
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
            # The metadata of pandas is not needed, and is untrusted.
            table: pd.DataFrame = file.read(columns=list(columns)).to_pandas(ignore_metadata=True)
    except (ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk, not of the content
        raise ValueError(one_line(error, 200)) from None
    for name, dtype in columns.items():
        column = table[name]
        valid = str(column.dtype) == dtype and not column.isna().any()
        if valid and dtype == "category":
            valid = all(isinstance(text, str) for text in column.cat.categories)
        if not valid:
            missing_values = ", with missing values" if column.isna().any() else ""
            raise ValueError(f"its column {name!r} is {column.dtype}{missing_values}; expected: {dtype}")
    return table


def open_memmap(path: Path) -> npt.NDArray[np.uint8]:
    """Memory-map the uint8 array of a .npy file, read-only.

    Raises:
      ValueError: it is not a uint8 array, or its length does not match its header. The message starts
        after the file's name, for example `it holds float64`.
      OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        try:
            if (version := np.lib.format.read_magic(file)) != (1, 0):
                raise ValueError(f"it is a .npy file of version {version}; expected: (1, 0)")
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        except Exception as error:  # NumPy parses the header as a Python literal, which can fail in many ways
            raise ValueError(one_line(error, 200)) from None
        offset, size = file.tell(), path.stat().st_size
    if dtype != np.uint8 or fortran_order:
        order = " in Fortran order" if fortran_order else ""
        raise ValueError(f"it holds {one_line(dtype)}{order} of shape {one_line(shape)}; expected: uint8 in C order")
    if min(shape, default=1) < 0 or offset + math.prod(shape) != size:
        raise ValueError(f"its {size:,} bytes do not match its shape {one_line(shape)}")
    if not math.prod(shape):
        return np.empty(shape, np.uint8)
    return np.memmap(path, np.uint8, "r", offset, shape)
