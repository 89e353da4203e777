"""The index that extract writes, data/extract/index.parquet, and with `prefetch` the pixels in images.npy."""

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
    """The index: position, label, name and row of each drawing, in order. Raises `StageError` if it is unusable."""
    from stages.common import tables  # brings NumPy, which extract does not need to start

    columns = {"position": "int64", "label": "int16", "name": "category", "row": "int32"}
    try:
        index = tables.read(path, columns)
        lowest = index[["position", "label", "row"]].to_numpy().min(initial=0)
        if lowest < 0:
            raise ValueError(f"it names a drawing {lowest}")
    except FileNotFoundError:
        raise StageError(f"{path} is not there: run the stage extract first") from None
    except ValueError as error:
        raise StageError(f"{path} cannot be used ({error}): run the stage extract again") from None
    return index
