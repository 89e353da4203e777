"""Select the drawings of the chosen classes, read their pixels, and hold some out from training.

reads    data/extract/, and the mirror for the pixels (pixels fetched before are cached on this machine)
writes   data/filter/images.npy         (M, 28, 28, 1) uint8, in the order of the index
         data/filter/drawings.parquet   one row per drawing, in the same order: position, label, name, row, heldout
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
    """Raise `StageError` if the index has fewer than two drawings of a class: one to train on and one to hold out."""
    counts = index["name"].value_counts()
    for name in classes:
        if (count := int(counts.get(name, 0))) > 1:
            continue
        available = mirror.counts()
        if name not in available:
            raise StageError(f"classes: {name!r} is not a class of the mirror.{did_you_mean(name, available)}")
        raise StageError(
            f"classes: {count} of the first {len(index)} drawings {'is' if count == 1 else 'are'} of {name!r}; "
            "expected: at least 2; raise num_drawings "
            f"(the mirror has {available[name]} of them in {sum(available.values())} drawings)"
        )


def select_classes(index: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return the drawings of these classes, in the order of the index."""
    drawings = index[index["name"].isin(classes)].reset_index(drop=True)
    return drawings.assign(name=drawings["name"].cat.remove_unused_categories())


def choose_heldout(drawings: pd.DataFrame, share: float) -> pd.Series[bool]:
    """Choose the held-out drawings: every (1 / share)th drawing of each class, and at least one.

    The choice depends only on a drawing's position within its class, so it stays the same with more drawings or more
    classes. The first drawing of a class is never held out.

    Args:
      drawings: in the order of the index, with the columns name and position.
      share: of each class, from 0.01 to 0.5.
    """
    fraction = Fraction(str(share)).limit_denominator(10**6)
    by_class = drawings.groupby("name", observed=True)["position"]
    rank = by_class.cumcount()
    numerator, denominator = fraction.numerator, fraction.denominator
    heldout = (rank + 1) * numerator // denominator > rank * numerator // denominator
    last = rank == by_class.transform("size") - 1
    return heldout | (last & ~heldout.groupby(drawings["name"], observed=True).transform("any"))


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="num_drawings, or choose fewer classes"))
