"""Select the drawings of the chosen classes, read their pixels, and hold some out from training.

reads    data/extract/, and the mirror for the pixels (pixels fetched before are cached on this machine)
writes   data/filter/images.npy         (M, 28, 28, 1) uint8, in the order of the index
         data/filter/drawings.parquet   one row per drawing, in the same order: position, label, name, row, heldout
command  python -m stages.filter
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from stages import command
from stages.common import files
from stages.common.errors import StageError, counted, list_names
from stages.outputs import index
from stages.outputs.dataset import FOLDER, IMAGES, TABLE
from stages.params import Params
from stages.quickdraw.labels import as_yaml, explain_unknown

if TYPE_CHECKING:
    import pandas as pd

    from stages.quickdraw.mirrors import Mirror

BLOCK = 8192  # drawings whose pixels are checked together


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
        check_pixels(folder / IMAGES, drawings)
        drawings.to_parquet(folder / TABLE, index=False)


def check_pixels(path: Path, drawings: pd.DataFrame) -> None:
    """Check that the images of drawings can be learned from. What is only suspicious is a warning.

    Args:
      path: the images, (M, 28, 28, 1), in the order of `drawings`.
      drawings: with the column name.

    Raises:
      StageError: they cannot.
    """
    from stages.common import tables
    from stages.quickdraw.pixel_checks import PixelCheck

    images = tables.open_memmap(path).reshape(len(drawings), -1)
    check = PixelCheck()
    for start in range(0, len(drawings), BLOCK):
        names, block = drawings["name"].iloc[start : start + BLOCK], images[start : start + BLOCK]
        for name in names.unique():
            check.add(name, block[(names == name).to_numpy()])
    problems = check.problems()
    for problem in problems:
        if problem.is_error:
            raise StageError(f"mirror: {problem.message}")
    for problem in problems:
        print(f"WARNING: mirror: {problem.message}", file=sys.stderr, flush=True)


def check_classes(classes: Sequence[str], index: pd.DataFrame, mirror: Mirror) -> None:
    """Check that the index has two drawings of each class: one to train on and one to hold out.

    Raises:
      StageError: it has not. The message names every such class, and says what to do.
    """
    counts = index["name"].value_counts()
    scarce = {name: count for name in classes if (count := int(counts.get(name, 0))) < 2}
    if scarce:
        raise StageError(f"classes: {_explain_scarce(scarce, len(index), mirror.counts())}")


def _explain_scarce(scarce: Mapping[str, int], listed: int, available: Mapping[str, int]) -> str:
    """Explain in one line why classes have too few drawings.

    Args:
      scarce: the number of drawings of each such class in the index.
      listed: the number of drawings in the index.
      available: the number of drawings of each class of the mirror.
    """
    explanations = []
    if unknown := [name for name in scarce if name not in available]:
        example = as_yaml(list(available)[:2])
        explanations.append(
            f"{explain_unknown(unknown, available, 'the mirror')} It has {list_names(available, 10)}. Choose from its "
            f"classes: make run SET='classes={example}', or -S 'classes={example}'"
        )
    if few := {name: available[name] for name in scarce if available.get(name, 2) < 2}:
        explanations.append(
            f"the mirror has {_list_counts(few)}; expected: at least 2 of each class; add drawings, or choose other "
            "classes"
        )
    if late := {name: count for name, count in scarce.items() if available.get(name, 0) > 1}:
        explanations.append(
            f"the index of {counted(listed, 'drawing')} has {_list_counts(late)}; expected: at least 2 of each class; "
            f"raise num_drawings (the mirror has {_list_counts({name: available[name] for name in late})} in "
            f"{counted(sum(available.values()), 'drawing')})"
        )
    return ". Also, ".join(explanations)


def _list_counts(counts: Mapping[str, int]) -> str:
    """Return `0 of 'bee', 1 of 'sun'`."""
    return ", ".join(f"{count} of {name!r}" for name, count in counts.items())


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
