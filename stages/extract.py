"""Which drawings the run is about: the first `num_drawings` of a mirror, in the order of TensorFlow Datasets.

reads    the mirror: the row counts of its classes (of the public bucket they are known; no network is needed)
writes   data/extract/index.parquet   one row a drawing, in order: position, label, name, row
         data/extract/images.npy      with `prefetch` their pixels, (N, 28, 28, 1) uint8
command  python -m stages.extract
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stages import command
from stages.common import files
from stages.common.errors import SettingsError, StageError
from stages.outputs.index import FOLDER, IMAGES, TABLE
from stages.params import Params

if TYPE_CHECKING:
    import pandas as pd
MAX_DRAWINGS = (
    2**31
)  # drawings of a mirror; the public bucket has 50 million. All have to be hashed, and nobody waits for more


def main(settings: Params) -> None:
    """Run the stage."""
    from stages.quickdraw import images, sources

    mirror = sources.open_mirror(settings.mirror, files.repository_root())
    source = sources.open_source(mirror, settings.source, settings.data_dir, files.repository_root())
    counts = mirror.counts()
    check_num_drawings(settings.num_drawings, counts)
    drawings = build_index(counts, settings.num_drawings)
    with files.atomic_folder(FOLDER) as folder:
        drawings.to_parquet(folder / TABLE, index=False)
        if settings.prefetch:
            images.write(folder / IMAGES, drawings, source)


def check_num_drawings(number: int, counts: Mapping[str, int]) -> None:
    """Raise `SettingsError` where the mirror holds fewer drawings, `StageError` where it claims absurdly many."""
    if (total := sum(counts.values())) > MAX_DRAWINGS:
        raise StageError(
            f"mirror: it says that it holds {total:,} drawings; more than {MAX_DRAWINGS:,} are not put in order"
        )
    if number > total:
        raise SettingsError(f"num_drawings is {number}, and the mirror holds {total} drawings; permitted: 1 to {total}")


def build_index(counts: Mapping[str, int], number: int) -> pd.DataFrame:
    """The first `number` drawings of classes with `counts` drawings each: position, label, name and row, in order."""
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
