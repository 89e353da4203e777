"""Import pictures into a folder that the pipeline learns from, and say what was done."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pipeline.importing import arrays, folders, pixels, strokes, table
from pipeline.importing.arrays import Batch, Notify
from pipeline.importing.options import Options, PictureError
from pipeline.importing.writer import Writer
from stages.common import files
from stages.common.errors import counted, printable
from stages.quickdraw import contact_sheet
from stages.quickdraw.labels import as_yaml
from stages.quickdraw.npy_header import describe_shape

SHEET = "sheet.png"
SHEET_CLASSES = 50
# Between 5% and 29% of a class of Quick, Draw! is ink, which is white; of a picture on white paper, most is white.
MOST_INK = 0.5

Reader = Callable[[Path, Options, Notify], Iterator[Batch]]


def import_pictures(what: Path, folder: Path, options: Options, notify: Notify = print) -> None:
    """Write the pictures of a file or a folder into a new folder: a `<class>.npy` file of each class, and a sheet.

    Args:
      what: the file or the folder.
      folder: must be new or empty. If the import fails or is killed, it is as it was.
      options: the options.
      notify: called with lines for a person.

    Raises:
      PictureError: something cannot be imported.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PictureError(f"{folder} is not empty; choose a new folder")
    read = reader(what)

    def notify_safely(line: str) -> None:  # it may contain names that are in a file
        notify(printable(line))

    with files.atomic_folder(folder) as temporary:
        writer = Writer(temporary)
        for name, images in read(what, options, notify_safely):
            if len(images):
                writer.add(name, pixels.prepare(images, options), str(what))
        if not sum(writer.counts.values()):
            raise PictureError(f"{what}: it holds no pictures")
        writer.finish()
        shown = [np.stack(pictures) for pictures in writer.first.values()]
        contact_sheet.write(temporary / SHEET, shown[:SHEET_CLASSES])
    _report(writer, folder, options, notify)


def reader(what: Path) -> Reader:
    """The reader for a file or a folder, by its name. Raises `PictureError` if there is none."""
    if what.is_dir():
        return folders.read_folder
    if not what.exists():
        raise PictureError(f"{what} does not exist")
    match what.suffix.lower():
        case ".gz" if what.name.lower().endswith(".csv.gz"):
            return table.read_csv  # pandas unpacks it
        case ".npy":
            return arrays.read_npy
        case ".npz":
            return arrays.read_npz
        case ".csv":
            return table.read_csv
        case ".ndjson":
            return strokes.read_ndjson
        case ".zip":
            return folders.read_zip
        case suffix if suffix in folders.SUFFIXES:
            return folders.read_sheet
    if "ubyte" in what.name or "idx" in what.name:
        return arrays.read_idx
    raise PictureError(
        f"{what}: unknown kind of file; expected: a folder or a .zip of class folders, a picture, .npy, .npz, .csv, "
        ".csv.gz, .ndjson, or an IDX file such as train-images-idx3-ubyte.gz"
    )


def _report(writer: Writer, folder: Path, options: Options, notify: Notify) -> None:
    assert writer.shape is not None
    pictures, classes = sum(writer.counts.values()), len(writer.counts)
    of_classes = "1 class" if classes == 1 else f"{classes:,} classes"
    notify(f"{counted(pictures, 'picture')} of {describe_shape(writer.shape)}, of {of_classes}:")
    for name, count in list(writer.counts.items())[:SHEET_CLASSES]:
        notify(f"  {name}: {count:,}")
    if len(writer.counts) > SHEET_CLASSES:
        notify(f"  and {len(writer.counts) - SHEET_CLASSES} more")
    notify(f"the first of each class: {folder / SHEET}")
    if writer.ink > MOST_INK and writer.shape[2] == 1:
        remedy = "without --invert" if options.invert else "with --invert"
        notify(
            f"WARNING: {writer.ink:.0%} of the paper is white. The pipeline draws white on black, and people's "
            f"drawings have 5% to 29%. If these are dark drawings on light paper, import them again {remedy}"
        )
    chosen = shlex.quote(f"classes={as_yaml(list(writer.counts)[:20])}")
    notify(f"Learn from them: python -m pipeline run --profile quick --source {shlex.quote(str(folder))} -S {chosen}")
