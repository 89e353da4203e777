"""Select the drawings of the chosen classes, read their pixels, and hold some out from training.

reads    data/extract/, and the source for the pixels (pixels fetched before are cached on this machine)
writes   data/filter/images.npy         (M, height, width, channels) uint8, in the order of the index
         data/filter/drawings.parquet   one row per drawing, in the same order: position, label, name, row, heldout
         reports/drawings.png           the first eight drawings of each class, a row for each, to look at
command  python -m stages.filter
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from stages import command
from stages.common import files
from stages.common.errors import StageError, list_names
from stages.outputs import index
from stages.outputs.dataset import FOLDER, IMAGES, TABLE
from stages.params import Params

if TYPE_CHECKING:
    import pandas as pd

    from stages.quickdraw.images import Pictures, Source

SHEET = Path("reports/drawings.png")
BLOCK = 8192  # drawings whose pixels are checked together


def main(settings: Params) -> None:
    """Run the stage."""
    from stages.quickdraw import images, sources

    drawings_index = index.read()
    source = sources.open_source(settings.source, files.repository_root())
    check_classes(settings.classes, drawings_index, source)
    drawings = select_classes(drawings_index, settings.classes)
    prefetched = index.FOLDER / index.IMAGES
    pictures: Pictures = images.Prefetched(prefetched) if prefetched.exists() else source
    if settings.holdout == "test":
        drawings, pictures = add_test_split(drawings, settings.classes, source), source
    else:
        drawings["heldout"] = choose_heldout(drawings, settings.holdout)
    with files.atomic_folder(FOLDER) as folder:
        images.write(folder / IMAGES, drawings, pictures)
        check_pixels(folder / IMAGES, drawings)
        drawings.to_parquet(folder / TABLE, index=False)
        with files.atomic_file(SHEET) as sheet:
            write_sheet(sheet, folder / IMAGES, drawings, settings.classes)
    print(f"what will be learned: {SHEET}", file=sys.stderr, flush=True)


def write_sheet(sheet: Path, path: Path, drawings: pd.DataFrame, classes: Sequence[str]) -> None:
    """Write the first drawings of each class as a picture.

    Args:
      sheet: the PNG file to write.
      path: the images, (M, height, width, channels), in the order of `drawings`.
      drawings: with the column name.
      classes: in the order of the rows.
    """
    from stages.common import tables
    from stages.quickdraw import contact_sheet

    images = tables.open_memmap(path)
    first = drawings.groupby("name", observed=True).head(contact_sheet.SHOWN)["name"]
    contact_sheet.write(sheet, [images[first.index[first == name].to_numpy()] for name in classes])


def check_pixels(path: Path, drawings: pd.DataFrame) -> None:
    """Check that the images of drawings can be learned from. What is only suspicious is a warning.

    Args:
      path: the images, (M, height, width, channels), in the order of `drawings`.
      drawings: with the column name.

    Raises:
      StageError: they cannot.
    """
    from stages.common import tables
    from stages.quickdraw.pixel_checks import PixelCheck

    images = tables.open_memmap(path)
    check = PixelCheck(grey=images.shape[-1] == 1)
    images = images.reshape(len(drawings), -1)
    for start in range(0, len(drawings), BLOCK):
        names, block = drawings["name"].iloc[start : start + BLOCK], images[start : start + BLOCK]
        for name in names.unique():
            check.add(name, block[(names == name).to_numpy()])
    problems = check.problems()
    for problem in problems:
        if problem.is_error:
            raise StageError(f"source: {problem.message}")
    for problem in problems:
        print(f"WARNING: source: {problem.message}", file=sys.stderr, flush=True)


def check_classes(classes: Sequence[str], index: pd.DataFrame, source: Source) -> None:
    """Check that the index has two drawings of each class: one to train on and one to hold out.

    Raises:
      StageError: it has not. The message names every such class, and says what to do.
    """
    from stages.quickdraw import selection

    listed = {str(name): count for name, count in index["name"].value_counts().items()}
    if scarce := selection.find_scarce(classes, listed):
        raise StageError(f"classes: {selection.explain_scarce(scarce, len(index), source.counts())}")


def select_classes(index: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return the drawings of these classes, in the order of the index."""
    drawings = index[index["name"].isin(classes)].reset_index(drop=True)
    return drawings.assign(name=drawings["name"].cat.remove_unused_categories())


def add_test_split(drawings: pd.DataFrame, classes: Sequence[str], source: Source) -> pd.DataFrame:
    """Return the drawings and those of the source's split `test`, which are held out.

    Raises:
      StageError: the source has no such split, or no drawing of a class in it.
    """
    import pandas as pd

    from stages.quickdraw.tfds_sets import TfdsSet

    if not isinstance(source, TfdsSet):
        raise StageError("holdout is test, but the source has no split test; set holdout to a number")
    tests = select_classes(source.test_index(), classes)
    if missing := [name for name in classes if not (tests["name"] == name).any()]:
        raise StageError(
            f"holdout is test, but the split test of {source.source} has no drawing of {list_names(missing)}; choose "
            "other classes, or set holdout to a number"
        )
    both = pd.concat([drawings.assign(heldout=False), tests.assign(heldout=True)], ignore_index=True)
    return both.assign(name=pd.Categorical(both["name"], drawings["name"].cat.categories))


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
