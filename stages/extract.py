"""List the first drawings of the mirror, in the order of TensorFlow Datasets.

reads    the mirror: the row counts of its classes (those of the public bucket are known, so no network is needed)
writes   data/extract/index.parquet   one row per drawing, in order: position, label, name, row
         data/extract/images.npy      with `prefetch`, the pixels, (N, height, width, channels) uint8
command  python -m stages.extract
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stages import command
from stages.common import files
from stages.common.errors import counted
from stages.outputs.index import FOLDER, IMAGES, TABLE
from stages.params import Params

if TYPE_CHECKING:
    import pandas as pd


def main(settings: Params) -> None:
    """Run the stage."""
    from stages.quickdraw import images, selection, sources

    mirror = sources.open_mirror(settings.mirror, files.repository_root())
    source = sources.open_source(mirror, settings.source, settings.data_dir, files.repository_root())
    counts = mirror.counts()
    number = selection.resolve_num_drawings(settings.num_drawings, counts)
    if settings.num_drawings != "all" and number < settings.num_drawings:
        print(
            f"WARNING: num_drawings is {settings.num_drawings:,}, but the mirror has only "
            f"{counted(number, 'drawing')}: this run uses all that there are",
            file=sys.stderr,
            flush=True,
        )
    drawings = build_index(counts, number)
    with files.atomic_folder(FOLDER) as folder:
        drawings.to_parquet(folder / TABLE, index=False)
        if settings.prefetch:
            images.write(folder / IMAGES, drawings, source)


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
