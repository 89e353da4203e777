"""List the first drawings of the source, in the order of TensorFlow Datasets.

reads    the source: the row counts of its classes (those of the public bucket are known, so no network is needed)
writes   data/extract/index.parquet   one row per drawing, in order: position, label, name, row
         data/extract/images.npy      with `prefetch`, the pixels, (N, height, width, channels) uint8
command  python -m stages.extract
"""

from __future__ import annotations

import sys

from stages import command
from stages.common import files
from stages.common.errors import counted
from stages.outputs.index import FOLDER, IMAGES, TABLE
from stages.params import Params


def main(settings: Params) -> None:
    """Run the stage."""
    from stages.quickdraw import images, selection, sources

    source = sources.open_source(settings.source, files.repository_root())
    counts = source.counts()
    number = selection.resolve_num_drawings(settings.num_drawings, counts)
    if settings.num_drawings != "all" and number < settings.num_drawings:
        print(
            f"WARNING: num_drawings is {settings.num_drawings:,}, but the source has only "
            f"{counted(number, 'drawing')}: this run uses all that there are",
            file=sys.stderr,
            flush=True,
        )
    drawings = source.index(number)
    with files.atomic_folder(FOLDER) as folder:
        drawings.to_parquet(folder / TABLE, index=False)
        if settings.prefetch:
            images.write(folder / IMAGES, drawings, source)


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="num_drawings"))
