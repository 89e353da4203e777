"""The drawings of the chosen classes, with their pixels, and which of them training must not see.

reads    data/extract/, and the mirror for the pixels (those it has fetched before stay on this machine)
writes   data/filter/images.npy         (M, 28, 28, 1) uint8, in the order of the index
         data/filter/drawings.parquet   one row a drawing, in the same order: position, label, name, row, heldout
command  python -m stages.filter
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from stages import command
from stages.common import files
from stages.common.errors import StageError, did_you_mean
from stages.outputs import index
from stages.outputs.dataset import FOLDER, IMAGES, TABLE
from stages.params import Params

if TYPE_CHECKING:
    import pandas as pd

    from stages.quickdraw.mirrors import Mirror


def main(settings: Params) -> None:
    """Run the stage."""
    from stages.quickdraw import images, sources

    drawings_index = index.read()
    mirror = sources.open_mirror(settings.mirror, files.repository_root())
    check_classes(settings.classes, drawings_index, mirror)
    drawings = select_classes(drawings_index, settings.classes)
    drawings["heldout"] = choose_heldout(drawings, settings.holdout)
    source: images.Source
    if (prefetched := index.FOLDER / index.IMAGES).exists():
        source = images.Prefetched(prefetched)
    else:
        source = sources.open_source(mirror, settings.source, settings.data_dir, files.repository_root())
    with files.atomic_folder(FOLDER) as folder:
        images.write(folder / IMAGES, drawings, source)
        drawings.to_parquet(folder / TABLE, index=False)


def check_classes(classes: Sequence[str], index: pd.DataFrame, mirror: Mirror) -> None:
    """Raise `StageError` for a class of which the index has not two drawings, one to learn from and one to hold out."""
    counts = index["name"].value_counts()
    for name in classes:
        if (count := int(counts.get(name, 0))) > 1:
            continue
        there = mirror.counts()
        if name not in there:
            raise StageError(f"classes: the mirror holds no {name!r}.{did_you_mean(name, there)}")
        few = "is one drawing" if count else "is no drawing"
        raise StageError(
            f"classes: there {few} of {name!r} among the first {len(index)}, "
            f"and two are needed; raise num_drawings (the mirror holds {there[name]} of {sum(there.values())})"
        )


def select_classes(index: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The drawings of some classes, in the order of the index."""
    drawings = index[index["name"].isin(classes)].reset_index(drop=True)
    return drawings.assign(name=drawings["name"].cat.remove_unused_categories())


def choose_heldout(drawings: pd.DataFrame, share: float) -> pd.Series[bool]:
    """Which drawings are held out: of each class every (1 / share)th in the order of the index, and at least one.

    A drawing's place among those of its class decides, so more drawings or more classes leave it where it was. The
    first of a class is never held out.
    """
    exact = Fraction(str(share)).limit_denominator(10**6)
    by_class = drawings.groupby("name", observed=True)["position"]
    rank = by_class.cumcount()
    held = (rank + 1) * exact.numerator // exact.denominator > rank * exact.numerator // exact.denominator
    last = rank == by_class.transform("size") - 1
    return held | (last & ~held.groupby(drawings["name"], observed=True).transform("any"))


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="num_drawings, or name fewer classes"))
