"""Arrays of pictures in `.npy`, `.npz` and IDX files, read in blocks. Nothing is ever unpickled."""

from __future__ import annotations

import gzip
import math
import re
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from pipeline.importing import pixels
from pipeline.importing.options import Options, PictureError
from stages.common.errors import list_names, one_line
from stages.quickdraw.file_types import START_BYTES, explain_no_npy
from stages.quickdraw.labels import probable_class

Array = npt.NDArray[np.generic]
Batch = tuple[str, pixels.Images]  # a class and some of its pictures, (N, height, width, channels)
Notify = Callable[[str], object]

BLOCK_BYTES = 16 << 20  # of an array that is in memory at a time
MAX_IN_MEMORY = 2 << 30  # of an array that cannot be read in blocks
IMAGE_NAMES = ("images", "image", "x", "pictures", "drawings", "data", "features", "arr_0")
LABEL_NAMES = ("labels", "label", "y", "targets", "target", "classes", "class", "arr_1")
PARTS = ("", "train", "test", "val", "valid", "validation")
# What the readers of NumPy and of archives raise for a damaged file.
DAMAGE = (
    OSError, EOFError, ValueError, TypeError, SyntaxError, OverflowError, RecursionError, NotImplementedError,
    RuntimeError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@dataclass(frozen=True)
class Source:
    """An array in a file.

    Attributes:
      name: of the file, and of the array in it.
      shape: of the array.
      dtype: of its values.
      blocks: starts anew, and yields parts of the array along its first axis.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    blocks: Callable[[], Iterator[Array]]

    def whole(self) -> Array:
        """The whole array."""
        if math.prod(self.shape) * self.dtype.itemsize > MAX_IN_MEMORY:
            raise PictureError(f"{self.name}: larger than {MAX_IN_MEMORY >> 30} GiB, and not in blocks of pictures")
        blocks = list(self.blocks())
        return np.concatenate(blocks) if blocks else np.empty(self.shape, self.dtype)


# --- Files ---


def npy(path: Path) -> Source:
    """The array of a `.npy` file."""
    with _errors_name(str(path)), open(path, "rb") as file:
        if explanation := explain_no_npy(file.read(START_BYTES)):
            raise PictureError(f"it {explanation}")
        file.seek(0)
        shape, fortran, dtype = _header(file)
        start, size = file.tell(), path.stat().st_size
        if start + math.prod(shape) * dtype.itemsize > size:
            raise PictureError(f"it is cut short: its header claims {shape[0]:,} entries")
        if not math.prod(shape):
            raise PictureError("it holds nothing")
        array = np.memmap(file, dtype, "r", start, shape, "F" if fortran else "C")
    return Source(str(path), shape, dtype, lambda: _parts(array))


def npz(path: Path) -> dict[str, Source]:
    """The arrays of an `.npz` file by name."""
    with _errors_name(str(path)), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
    if not names:
        raise PictureError(f"{path}: it holds no arrays")
    return {name.removesuffix(".npy"): _member(path, name) for name in names}


def _member(path: Path, name: str) -> Source:
    with _errors_name(f"{path}: {name}"), zipfile.ZipFile(path) as archive, archive.open(name) as file:
        shape, fortran, dtype = _header(file)

    def blocks() -> Iterator[Array]:
        with _errors_name(f"{path}: {name}"), zipfile.ZipFile(path) as archive, archive.open(name) as file:
            _header(file)
            # In Fortran order, the last axis is the slowest.
            for block in _read(file, shape[::-1] if fortran else shape, dtype):
                yield block.T if fortran else block

    if not fortran:
        return Source(f"{path}: {name}", shape, dtype, blocks)
    return Source(f"{path}: {name}", shape, dtype, lambda: iter([np.concatenate(list(blocks()), axis=-1)]))


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a header by Python 2
        shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise PictureError("it holds pickled objects, which are never loaded: they could run any code")
    if any(length < 0 for length in shape):
        raise PictureError("its header has a negative length")
    return shape or (1,), fortran, dtype


def idx(path: Path) -> Source:
    """The array of an IDX file, in which the MNIST family is published, also of one with gzip."""
    with _errors_name(str(path)), _open_idx(path) as file:
        start = file.read(4)
        if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in IDX_TYPES or not 1 <= start[3] <= 4:
            raise PictureError("it is not an IDX file")
        dtype, dimensions = np.dtype(IDX_TYPES[start[2]]), start[3]
        lengths = file.read(4 * dimensions)
        if len(lengths) < 4 * dimensions:
            raise PictureError("it is cut short in its header")
        shape = struct.unpack(f">{dimensions}I", lengths)

    def blocks() -> Iterator[Array]:
        with _errors_name(str(path)), _open_idx(path) as file:
            file.read(4 + 4 * dimensions)
            yield from _read(file, shape, dtype)

    return Source(str(path), shape, dtype, blocks)


@contextmanager
def _open_idx(path: Path) -> Iterator[IO[bytes]]:
    with open(path, "rb") as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.open(file, "rb") as unpacked:
            yield cast(IO[bytes], unpacked)


def _read(file: IO[bytes], shape: Sequence[int], dtype: np.dtype[np.generic]) -> Iterator[Array]:
    """Parts of an array in C order, read from a file whose header may claim more than it holds."""
    row = math.prod(shape[1:]) * dtype.itemsize
    if row > BLOCK_BYTES * 4:
        raise PictureError(f"a picture of {row:,} bytes")
    at_once = max(1, BLOCK_BYTES // max(row, 1))
    for start in range(0, shape[0], at_once):
        rows = min(at_once, shape[0] - start)
        content = file.read(rows * row)
        if len(content) < rows * row:
            raise PictureError(f"it is cut short: its header claims {shape[0]:,} entries")
        yield np.frombuffer(content, dtype).reshape(rows, *shape[1:])


def _parts(array: Array) -> Iterator[Array]:
    at_once = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
    return (array[start : start + at_once] for start in range(0, len(array), at_once))


@contextmanager
def _errors_name(name: str) -> Iterator[None]:
    """Raise what a damaged file causes as a `PictureError` that names it, and perhaps the array in it."""
    try:
        yield
    except PictureError as error:
        named = str(error).startswith(name.partition(": ")[0])
        raise PictureError(str(error) if named else f"{name}: {error}") from None
    except DAMAGE as error:
        raise PictureError(f"{name}: it cannot be read ({one_line(error)})") from None


# --- Pictures and labels ---


def read_npy(path: Path, options: Options, notify: Notify) -> Iterator[Batch]:
    """The pictures of a `.npy` file, whose name is that of their class."""
    yield from _batches(npy(path), None, options.class_name or class_of_file(path, notify), notify)


def class_of_file(path: Path, notify: Notify) -> str:
    """The class that a file's name says, without what the bucket's web page or a browser adds to it."""
    stem = path.name.removesuffix(".npy")
    name = probable_class(stem)
    if name != stem:
        notify(f"{path.name}: the class is {name}")
    return name


def read_npz(path: Path, options: Options, notify: Notify) -> Iterator[Batch]:
    """The pictures of an `.npz` file: of its training part, then of its other parts."""
    sources = npz(path)
    pairs = _pairs(path, sources, options)
    for images, labels in pairs:
        notify(f"{path.name}: pictures from {images}, labels from {labels or 'the option --class'}")
        yield from _batches(sources[images], sources[labels] if labels else None, options.class_name, notify)


def _pairs(path: Path, sources: dict[str, Source], options: Options) -> list[tuple[str, str | None]]:
    """The names of the arrays of pictures, and of the labels of each, or None if all are of one class."""
    for option, name in {"--images": options.images, "--labels": options.labels}.items():
        if name is not None and name not in sources:
            raise PictureError(f"{path}: {option} is {name!r}; it has the arrays {list_names(sources)}")
    folded = {name.casefold(): name for name in sources}
    pairs = []
    for part in PARTS:
        images = options.images or _named(folded, IMAGE_NAMES, part)
        labels = options.labels or _named(folded, LABEL_NAMES, part)
        if images and (labels or options.class_name) and (pair := (images, labels)) not in pairs:
            pairs.append(pair)
    if not pairs:
        raise PictureError(
            f"{path}: no pictures and labels were found in its arrays {list_names(sources)}; name them: "
            "--images NAME --labels NAME, or --class NAME in place of the labels"
        )
    return pairs


def _named(folded: dict[str, str], names: Sequence[str], part: str) -> str | None:
    for name in names:
        for spelling in {name} if not part else {f"{name}_{part}", f"{part}_{name}", f"{name}{part}", f"{part}{name}"}:
            if spelling in folded:
                return folded[spelling]
    return None


def read_idx(path: Path, options: Options, notify: Notify) -> Iterator[Batch]:
    """The pictures of an IDX file, with the labels of the file beside it."""
    images = idx(path)
    if len(images.shape) == 1:  # the file of the labels was named
        path = _partner(path, "labels", "images", 3)
        images = idx(path)
    labels = None
    if options.class_name is None:
        labels = idx(_partner(path, "images", "labels", 1))
        notify(f"labels from {labels.name}")
    yield from _batches(images, labels, options.class_name, notify)


def _partner(path: Path, this: str, other: str, dimensions: int) -> Path:
    """The file beside an IDX file whose name differs as the names of MNIST's do: `train-labels-idx1-ubyte`."""
    name = re.sub(r"idx\d", f"idx{dimensions}", path.name.replace(this, other))
    for candidate in (name, f"{name}.gz", name.removesuffix(".gz")):
        if candidate != path.name and path.with_name(candidate).is_file():
            return path.with_name(candidate)
    raise PictureError(f"{path}: there is no file {name} beside it; --class NAME gives all pictures one class")


def _batches(images: Source, labels: Source | None, class_name: str | None, notify: Notify) -> Iterator[Batch]:
    """The pictures by class, block by block."""
    names = None if labels is None else _class_names(labels)
    if names is None and class_name is None:
        raise PictureError(f"{images.name}: no labels; --class NAME gives all pictures one class")
    with _errors_name(images.name):
        if images.dtype.kind not in "biuf":
            raise PictureError(f"it holds values of type {one_line(images.dtype, 40)}; expected: numbers")
        order = pixels.layout(images.shape, None if names is None else len(names))
        number, blocks = images.shape[order.index("N")], images.blocks
        if not order.startswith("N"):  # a block of the first axis has no whole picture
            whole = pixels.arrange(images.whole(), order)
            order, blocks = "NHWC", lambda: _parts(whole)
        if names is not None and len(names) != number:
            raise PictureError(f"it has {number:,} pictures, and there are {len(names):,} labels")
        ranges = [(float(block.min()), float(block.max())) for block in blocks() if block.size]
        if not ranges:
            raise PictureError("it has no pictures")
        factor, summand, note = pixels.scale(
            images.dtype, min(low for low, _ in ranges), max(high for _, high in ranges)
        )
    if note:
        notify(f"{images.name}: {note}")
    start = 0
    for block in blocks():
        arranged = pixels.rescale(pixels.arrange(block, order), factor, summand)
        if names is None:
            yield str(class_name), arranged
            continue
        of_block = names[start : start + len(arranged)]
        start += len(arranged)
        for name in dict.fromkeys(of_block.tolist()):
            yield name, arranged[of_block == name]


def _class_names(labels: Source) -> npt.NDArray[np.str_]:
    """The class of each picture: text as it is, numbers as text, and of a one-hot vector the number of its 1."""
    values = labels.whole()
    if values.ndim == 2 and values.shape[1] > 1 and values.dtype.kind in "biuf":
        values = values.argmax(axis=1)
    values = values.reshape(-1)
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise PictureError(f"{labels.name}: labels that are not whole numbers")
    match values.dtype.kind:
        case "b" | "i" | "u" | "f":
            return values.astype(np.int64).astype(str)
        case "S":
            return np.char.decode(np.asarray(values, bytes), "utf-8", "replace")
        case "U":
            return np.asarray(values, str)
        case _:
            raise PictureError(f"{labels.name}: labels of type {values.dtype}; expected: numbers or texts")
