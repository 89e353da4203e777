"""The index of drawings that extract writes, data/extract/index.parquet, and with `prefetch` images.npy, the pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.common.errors import StageError

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path("data/extract")
TABLE = "index.parquet"
IMAGES = "images.npy"


def read(path: Path = FOLDER / TABLE) -> pd.DataFrame:
    """Read the index of drawings.

    Returns:
      One row per drawing, in order: position, label, name and row.

    Raises:
      StageError: the file is missing or cannot be used.
    """
    from stages.common import tables  # imports NumPy, which extract does not need at its start

    columns = {"position": "int64", "label": "int16", "name": "category", "row": "int32"}
    try:
        index = tables.read(path, columns)
        lowest = index[["position", "label", "row"]].to_numpy().min(initial=0)
        if lowest < 0:
            raise ValueError(f"it has a negative value, {lowest}")
    except FileNotFoundError:
        raise StageError(f"{path} is missing: run the stage extract first") from None
    except ValueError as error:
        raise StageError(f"{path} cannot be used ({error}): run the stage extract again") from None
    return index
