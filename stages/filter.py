"""The drawings of the chosen classes, with their pixels, and which of them training must not see.

reads    data/extract/, and the mirror for the pixels (those it has fetched before stay on this machine)
writes   data/filter/images.npy         (M, 28, 28, 1) uint8, in the order of the index
         data/filter/drawings.parquet   one row a drawing, in the same order: position, label, name, row, heldout
command  python -m stages.filter
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from stages import command, extract, files, tables
from stages.errors import StageError, did_you_mean
from stages.params import Params

if TYPE_CHECKING:
    import pandas as pd

    from stages.quickdraw.mirrors import Mirror

FOLDER = Path("data/filter")
IMAGES = "images.npy"
DRAWINGS = "drawings.parquet"


def main(settings: Params) -> None:
    """Run the stage."""
    from stages.quickdraw import images, sources

    index = read_index(extract.FOLDER / extract.INDEX)
    mirror = sources.open_mirror(settings.mirror, files.root())
    check_classes(settings.classes, index, mirror)
    drawings = chosen(index, settings.classes)
    drawings["heldout"] = heldout(drawings, settings.holdout)
    source: images.Source
    if (prefetched := extract.FOLDER / extract.IMAGES).exists():
        source = images.Prefetched(prefetched)
    else:
        source = sources.open_source(mirror, settings.source, settings.data_dir, files.root())
    with files.folder(FOLDER) as folder:
        images.write(folder / IMAGES, drawings, source)
        drawings.to_parquet(folder / DRAWINGS, index=False)


def read_index(path: Path) -> pd.DataFrame:
    """The index that extract wrote."""
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


def chosen(index: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The drawings of some classes, in the order of the index."""
    drawings = index[index["name"].isin(classes)].reset_index(drop=True)
    return drawings.assign(name=drawings["name"].cat.remove_unused_categories())


def heldout(drawings: pd.DataFrame, share: float) -> pd.Series[bool]:
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
