"""The 345 classes of Quick, Draw!, as TensorFlow Datasets numbers them, and what the public bucket holds of each.

Both lists ship inside the tensorflow-datasets wheel. They are read as files: importing that package imports
TensorFlow, which takes seconds.
"""

import functools
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from stages.common.errors import StageError, one_line

DOODLES = "doodles"  # the source that the project draws itself
BUCKET = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap"


class PublishedFile(NamedTuple):
    """What a class's file in the public bucket is, according to the dataset's checksums."""

    size: int  # bytes
    sha256: str


@functools.cache
def labels() -> tuple[str, ...]:
    """The class names in the order of their labels, 0 to 344: a name's label is its line number in labels.txt."""
    return tuple((_folder() / "labels.txt").read_text(encoding="utf-8").splitlines())


@functools.cache
def published() -> dict[str, PublishedFile]:
    """The file of each class in the public bucket, by class name."""
    files = {}
    for line in (_folder() / "checksums.tsv").read_text(encoding="utf-8").splitlines():
        url, size, sha256, _ = line.split("\t")
        files[url.removeprefix(f"{BUCKET}/").removesuffix(".npy")] = PublishedFile(int(size), sha256)
    return files


def numbered(classes: Iterable[str]) -> dict[str, int]:
    """The label of each of a mirror's classes, in ascending order.

    A published name has its published label. Other names (a person's own drawings) are numbered from 345 on, in
    alphabetical order.
    """
    present = set(classes)
    known = {name: label for label, name in enumerate(labels()) if name in present}
    own = sorted(present - known.keys())
    return known | {name: len(labels()) + place for place, name in enumerate(own)}


def check_name(name: str) -> str:
    """`name`, where it can be that of a class: of one file on any machine, and of one line of text.

    Raises:
      ValueError: it cannot.
    """
    printable = name.isprintable() and name == name.strip()
    if not name or not printable or name.startswith(".") or set(name) & set('/\\:*?"<>|') or len(name.encode()) > 200:
        raise ValueError(f"{one_line(repr(name))} cannot be the name of a class, which is also that of a file")
    return name


def _folder() -> Path:
    package = importlib.util.find_spec("tensorflow_datasets")
    if package is None or not package.submodule_search_locations:
        raise StageError("tensorflow-datasets is not installed, and the class names come with it: pip install -e .")
    return Path(package.submodule_search_locations[0], "datasets", "quickdraw_bitmap")
