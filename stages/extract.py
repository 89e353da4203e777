"""List the first drawings of the mirror, in the order of TensorFlow Datasets.

reads    the mirror: the row counts of its classes (those of the public bucket are known, so no network is needed)
writes   data/extract/index.parquet   one row per drawing, in order: position, label, name, row
         data/extract/images.npy      with `prefetch`, the pixels, (N, 28, 28, 1) uint8
command  python -m stages.extract
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from stages import command
from stages.common import files
from stages.common.errors import StageError, counted
from stages.outputs.index import FOLDER, IMAGES, TABLE
from stages.params import Params

if TYPE_CHECKING:
    import pandas as pd

# Drawings of a mirror. The public bucket has 50 million; every drawing is hashed, so more would take too long.
MAX_DRAWINGS = 2**31


def main(settings: Params) -> None:
    """Run the stage."""
    from stages.quickdraw import images, sources

    mirror = sources.open_mirror(settings.mirror, files.repository_root())
    source = sources.open_source(mirror, settings.source, settings.data_dir, files.repository_root())
    counts = mirror.counts()
    drawings = build_index(counts, resolve_num_drawings(settings.num_drawings, counts))
    with files.atomic_folder(FOLDER) as folder:
        drawings.to_parquet(folder / TABLE, index=False)
        if settings.prefetch:
            images.write(folder / IMAGES, drawings, source)


def resolve_num_drawings(setting: int | Literal["all"], counts: Mapping[str, int]) -> int:
    """Return the number of drawings to list: all of the mirror if it has fewer than `setting`, with a warning.

    Args:
      setting: the setting `num_drawings`.
      counts: the number of drawings of each class of the mirror.

    Raises:
      StageError: the mirror has no drawings, or claims more than `MAX_DRAWINGS`.
    """
    total = sum(counts.values())
    if total > MAX_DRAWINGS:
        raise StageError(f"mirror: it claims {total:,} drawings; {MAX_DRAWINGS:,} is the maximum supported")
    if total == 0:
        raise StageError("mirror: it holds no drawings: its files have no rows")
    if setting == "all":
        return total
    if setting > total:
        print(
            f"WARNING: num_drawings is {setting:,}, but the mirror has only {counted(total, 'drawing')}: this run uses "
            "all that there are",
            file=sys.stderr,
            flush=True,
        )
    return min(setting, total)


def build_index(counts: Mapping[str, int], number: int) -> pd.DataFrame:
    """List the first `number` drawings in the order of TensorFlow Datasets.

    Args:
      counts: the number of drawings of each class of the mirror.
      number: at most the sum of `counts`.

    Returns:
      One row per drawing: position (int64), label (int16), name (category) and row (int32).
    """
    import numpy as np
    import pandas as pd

    from stages.quickdraw import tfds_order
    from stages.quickdraw.labels import numbered

    ranked = tfds_order.first(counts, number)
    labels = numbered(counts)
    return pd.DataFrame(
        {
            "position": np.arange(number, dtype=np.int64),
            "label": np.array([labels[name] for name in counts], np.int16)[ranked.group],
            "name": pd.Categorical.from_codes(ranked.group, pd.Index(list(counts))),
            "row": ranked.row,
        }
    )


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="num_drawings"))
