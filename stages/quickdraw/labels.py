"""The 345 classes of Quick, Draw!: their labels in TensorFlow Datasets, and their files in the public bucket.

Both lists are part of the tensorflow-datasets package. They are read as files, because importing that package imports
TensorFlow, which takes seconds.
"""

import functools
import importlib.util
import json
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from stages.common.errors import StageError, counted, did_you_mean, list_names, one_line

DOODLES = "doodles"  # the source of drawings that the project generates itself
DIGITS = "digits"  # the source of handwritten digits that scikit-learn ships
TFDS = "tfds:"  # before the name of a dataset of TensorFlow Datasets
TFDS_BITMAP = f"{TFDS}quickdraw_bitmap"  # the drawings of the public bucket
MAX_SLIPS = 3  # unknown classes for which a similar one is suggested
BUCKET = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap"


class PublishedFile(NamedTuple):
    """The size in bytes and the SHA-256 of a class's file in the public bucket."""

    size: int
    sha256: str

    @property
    def rows(self) -> int:
        """The number of drawings in it: 784 bytes each, after a header of 80."""
        return (self.size - 80) // 784


def is_dataset(source: str) -> bool:
    """Whether a value of the setting `source` is `tfds:` and the name of a dataset: `mnist`, `emnist/letters`."""
    return re.fullmatch(rf"{TFDS}[a-z]\w*(/\w[\w.+-]*)?(:\d+\.\d+\.\d+)?", source) is not None


def is_folder(source: str) -> bool:
    """Whether a value of the setting `source` is a folder, and not a URL, a dataset or a name."""
    return "://" not in source and not source.startswith(TFDS) and source not in (DOODLES, DIGITS)


@functools.cache
def labels() -> tuple[str, ...]:
    """The class names in the order of their labels, 0 to 344, which is the order of the lines of labels.txt."""
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
    """The label of each of a source's classes, in ascending order of the labels.

    A published class has its published label. Other classes (a user's own drawings) are numbered from 345 in
    alphabetical order.
    """
    names = set(classes)
    published_labels = {name: label for label, name in enumerate(labels()) if name in names}
    other_names = sorted(names - published_labels.keys())
    return published_labels | {name: label for label, name in enumerate(other_names, len(labels()))}


def check_name(name: str) -> str:
    """Return the name of a class in Unicode's composed form (NFC): macOS and other systems write `é` differently.

    Raises:
      ValueError: it cannot name a class, as it is not one line of text, or not a valid file name on any system.
    """
    name = unicodedata.normalize("NFC", name)
    printable = name.isprintable() and name == name.strip()
    if not name or not printable or name.startswith(".") or set(name) & set('/\\:*?"<>|') or len(name.encode()) > 200:
        raise ValueError(f"{one_line(repr(name))} cannot be the name of a class, which must be a valid file name")
    return name


def decomposed(name: str) -> str:
    """The name of a class in Unicode's decomposed form (NFD), which files from macOS can have."""
    return unicodedata.normalize("NFD", name)


def probable_class(stem: str) -> str:
    """The class that a file's name says, without what the bucket's web page or a browser adds to it.

    Args:
      stem: the name without `.npy`: `full_numpy_bitmap_cat`, `full%2Fnumpy_bitmap%2Fcat` or `cat (1)` for `cat`.
    """
    name = unquote(stem).rpartition("/")[2]
    return re.sub(r"^(full|simplified)?_?numpy_bitmap_| ?\(\d+\)$", "", name)


def files_by_class(stems: Iterable[str]) -> dict[str, str]:
    """The files of a mirror by class, each without `.npy`. Hidden files, such as `._cat` of macOS, are not classes.

    Raises:
      ValueError: a file cannot name a class, or two files name the same class.
    """
    by_class: dict[str, str] = {}
    for stem in stems:
        if not stem or stem.startswith("."):  # `.npy` itself is hidden
            continue
        if by_class.setdefault(name := check_name(stem), stem) != stem:
            raise ValueError(f"{one_line(repr(name))} has two files, in two forms of Unicode; delete one of them")
    return by_class


def as_yaml(names: Iterable[str]) -> str:
    """The names of classes as a list in YAML, `[bee, "7"]`: in quotes if one could be a number, for example."""

    def quoted(name: str) -> str:
        is_plain = re.fullmatch(r"[^\W\d][\w ]*", name) and name.lower() not in ("true", "false", "null")
        return name if is_plain else json.dumps(name, ensure_ascii=False)

    return f"[{', '.join(map(quoted, names))}]"


def explain_unknown(names: Collection[str], known: Iterable[str], owner: str) -> str:
    """Say which classes are unknown: `'bycicle' is not a class of Quick, Draw!. Did you mean 'bicycle'?`

    Args:
      names: the unknown classes.
      known: the classes of the owner.
      owner: who has the known classes: `Quick, Draw!` or `the source`.
    """
    known = list(known)
    verb = "is not a class" if len(names) == 1 else "are not classes"
    explanation = f"{list_names(names)} {verb} of {owner}."
    if misnamed := {name: stem for name in names for stem in known if _is_misnamed(stem, name)}:
        name, stem = next(iter(misnamed.items()))
        others = f", and {counted(len(misnamed) - 1, 'other file')} likewise" if len(misnamed) > 1 else ""
        return f"{explanation} Rename {one_line(f'{stem}.npy')!r} to {f'{name}.npy'!r}{others}."
    # Many unknown classes are those of another source, not slips of the keyboard.
    return explanation + "".join(did_you_mean(name, known) for name in names if len(names) <= MAX_SLIPS)


def _is_misnamed(stem: str, name: str) -> bool:
    """Whether a file, whose name without `.npy` is `stem`, is probably the file of the class `name`."""
    return re.fullmatch(f"(.*[_/])?{re.escape(name)}", probable_class(stem), re.IGNORECASE) is not None and (
        stem.casefold() != name.casefold()
    )


def _folder() -> Path:
    package = importlib.util.find_spec("tensorflow_datasets")
    if package is None or not package.submodule_search_locations:
        raise StageError("tensorflow-datasets, which contains the class names, is not installed: run pip install -e .")
    return Path(package.submodule_search_locations[0], "datasets", "quickdraw_bitmap")
