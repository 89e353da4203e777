"""Reads drawings from a data directory that TensorFlow Datasets has prepared, without TensorFlow.

`quickdraw_bitmap` is stored as TFRecord files. Each record is a protocol buffer with a PNG and a label. The records are
in the order of the index, so a drawing's position determines its file and record. Only the files needed are opened.
"""

from __future__ import annotations

import json
import mmap
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.common.errors import StageError, one_line
from stages.quickdraw import IMAGE_SHAPE, SIDE, selection
from stages.quickdraw.labels import labels, numbered
from stages.quickdraw.mirrors import Pixels, check_rows
from stages.quickdraw.npy_header import ImageShape

if TYPE_CHECKING:
    import pandas as pd

PIXELS = SIDE * SIDE
NAME = "quickdraw_bitmap"
VERSION = "3.0.0"
VARINT = rb"[\x80-\xff]{0,9}[\x00-\x7f]"  # an integer of a protocol buffer, such as the length of the next field
IMAGE = re.compile(rb"\n\x05image\x12%(n)b\n%(n)b\n(%(n)b)" % {b"n": VARINT})
LABEL = re.compile(rb"\n\x05label\x12%(n)b\x1a%(n)b(?:\n[\x01\x02]|\x08)(%(n)b)" % {b"n": VARINT})
FRAME = struct.Struct("<QI")  # before a record: its length and that number's checksum; after it: a checksum of 4 bytes
HEADER = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)  # of a PNG: 28 × 28, 8-bit grey, not interlaced


class PreparedDataset:
    """The dataset quickdraw_bitmap as TensorFlow Datasets has prepared it on this machine.

    Args:
      data_dir: the `data_dir` of TensorFlow Datasets, or the dataset's folder in it (quickdraw_bitmap/3.0.0).
      counts: the expected number of drawings, by class.

    Raises:
      StageError: the dataset is not prepared there, or has other numbers of drawings.
    """

    def __init__(self, data_dir: Path, counts: Mapping[str, int]) -> None:
        folders = [data_dir, data_dir / VERSION, data_dir / NAME / VERSION]
        prepared = [folder for folder in folders if (folder / "dataset_info.json").is_file()]
        if not prepared:
            raise StageError(
                f"source: {data_dir} holds no prepared {NAME} {VERSION}; set TFDS_DATA_DIR to the "
                "data directory of TensorFlow Datasets that does"
            )
        self.folder = prepared[0]
        self._counts = dict(counts)
        lengths = self._lengths()
        self._ends = np.cumsum(lengths)
        self._records: dict[int, _Records] = {}
        total, expected = int(self._ends[-1]), sum(counts.values())
        if total != expected:
            raise StageError(
                f"source: {self.folder} holds {total:,} drawings, but the public bucket holds {expected:,}: "
                "prepare the dataset again"
            )

    def counts(self) -> dict[str, int]:
        """The number of drawings of each class."""
        return {name: self._counts[name] for name in numbered(self._counts)}

    def index(self, number: int) -> pd.DataFrame:
        """The first `number` drawings, in the order in which they are stored: position, label, name and row."""
        return selection.build_index(self.counts(), number)

    def image_shape(self) -> ImageShape:
        """28×28 pixels, grey."""
        return IMAGE_SHAPE

    def prepare(self, drawings: pd.DataFrame) -> None:
        """Do nothing: the drawings are on this machine."""

    def pixels(self, drawings: pd.DataFrame) -> Pixels:
        """The pixels `(len(drawings), 784)` of drawings, found by `position`.

        Raises:
          StageError: a record cannot be read, or its label is not the drawing's `label`.
        """
        pixels = np.empty((len(drawings), PIXELS), np.uint8)
        actual = np.empty(len(drawings), np.int64)
        positions, expected = drawings["position"].to_numpy(), drawings["label"].to_numpy()
        check_rows(f"source: {self.folder}", positions, int(self._ends[-1]))
        shards = np.searchsorted(self._ends, positions, "right")
        for shard in np.unique(shards):
            indices = np.flatnonzero(shards == shard)
            records = self._open(int(shard))
            first = int(self._ends[shard]) - len(records)
            pixels[indices], actual[indices] = records.read(positions[indices] - first)
        if (mismatches := np.flatnonzero(actual != expected)).size:
            index = mismatches[0]
            raise StageError(
                f"source: drawing {positions[index]} of {self.folder} has the label {actual[index]}, but in "
                f"the public bucket {expected[index]}: they hold different drawings"
            )
        return pixels

    def _open(self, shard: int) -> _Records:
        if shard not in self._records:
            length = int(self._ends[shard] - (self._ends[shard - 1] if shard else 0))
            path = self.folder / f"{NAME}-train.tfrecord-{shard:05d}-of-{len(self._ends):05d}"
            self._records = {shard: _Records(path, length)}  # drawings are read in order, so one open file is enough
        return self._records[shard]

    def _lengths(self) -> list[int]:
        """The number of drawings in each file, read from dataset_info.json."""
        path = self.folder / "dataset_info.json"
        try:
            info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            (train,) = (split for split in info["splits"] if split["name"] == "train")
            lengths = [int(length) for length in train["shardLengths"]]
            name, version, file_format = info["name"], info["version"], info.get("fileFormat", "tfrecord")
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise StageError(f"source: {path} is not what TensorFlow Datasets writes") from None
        if (name, version) != (NAME, VERSION) or file_format != "tfrecord" or not lengths or min(lengths) < 0:
            dataset = one_line(f"{name} {version} as {file_format}")
            raise StageError(f"source: {path} describes {dataset}; expected: {NAME} {VERSION} as tfrecord")
        names_file = self.folder / "label.labels.txt"
        if names_file.is_file() and _read_lines(names_file) != labels():
            raise StageError(f"source: {names_file} lists other classes, or in another order")
        return lengths


def _read_lines(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8", errors="replace").splitlines())


class _Records:
    """The records of one TFRecord file."""

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise StageError(f"source: {path} does not exist") from None
        except ValueError:
            raise StageError(f"source: {path} is empty") from None
        offset, size = 0, len(self._content)
        if length > size:
            raise StageError(f"source: {path} has {size:,} bytes, too few for {length:,} records")
        self._starts = np.empty(length + 1, np.int64)
        for number in range(length):
            if offset + FRAME.size > size:
                raise StageError(f"source: {path} is cut short: {number} records of {length}")
            self._starts[number] = offset
            offset += FRAME.size + FRAME.unpack_from(self._content, offset)[0] + 4
        if offset != size:
            raise StageError(f"source: {path} has {size:,} bytes, but its {length} records {offset:,}")
        self._starts[length] = offset

    def __len__(self) -> int:
        return len(self._starts) - 1

    def read(self, numbers: npt.NDArray[np.int64]) -> tuple[Pixels, npt.NDArray[np.int64]]:
        """The pixels `(len(numbers), 784)` and labels `(len(numbers),)` of records, given by their numbers."""
        lines = np.empty((len(numbers), SIDE, 1 + SIDE), np.uint8)
        record_labels = np.empty(len(numbers), np.int64)
        for index, number in enumerate(numbers):
            start, end = self._starts[number] + FRAME.size, self._starts[number + 1] - 4
            try:
                image, record_labels[index] = _example(self._content[start:end])
                lines[index] = np.frombuffer(_lines(image), np.uint8).reshape(SIDE, 1 + SIDE)
            except (ValueError, IndexError, OverflowError, struct.error, zlib.error) as error:
                raise StageError(f"source: record {number} of {self.path} cannot be read: {error}") from None
        return unfilter(lines), record_labels


def _example(record: bytes) -> tuple[bytes, int]:
    """The `image` (PNG) and the `label` of a serialised `tf.train.Example`.

    An entry of the message's map is a name and a Feature, which holds a list of bytes (field 1) or of integers
    (field 3). Searching for the two names is twenty times as fast as parsing the whole message. A false match is
    detected, because a PNG has checksums, and the label is compared with the drawing's.

    Raises:
      ValueError: the record has no image or no label.
    """
    image, label = IMAGE.search(record), LABEL.search(record)
    if not image or not label:
        raise ValueError("no image with a label")
    return record[image.end() : image.end() + _varint(image[1])], _varint(label[1])


def _varint(content: bytes) -> int:
    return sum((byte & 0x7F) << (7 * index) for index, byte in enumerate(content))


def _lines(png: bytes) -> bytes:
    """The decompressed lines of a 28 × 28 greyscale PNG, each after the byte of its filter.

    Every checksum is verified. Raises `ValueError` for any other content.
    """
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("not a PNG")
    offset, kind, compressed = 8, b"", b""
    while kind != b"IEND":
        (length,) = struct.unpack_from(">I", png, offset)
        kind = png[offset + 4 : offset + 8]
        content = png[offset + 8 : offset + 8 + length]
        if zlib.crc32(content, zlib.crc32(kind)) != struct.unpack_from(">I", png, offset + 8 + length)[0]:
            raise ValueError("a checksum does not match")
        if kind == b"IHDR" and content != HEADER:
            raise ValueError("not a greyscale image of 28 by 28 pixels")
        if kind == b"IDAT":
            compressed += content
        offset += 12 + length
    size = SIDE * (1 + SIDE)
    lines = zlib.decompressobj().decompress(compressed, size + 1)
    if len(lines) != size:
        raise ValueError(f"{len(lines)} bytes of pixels, not {size}")
    return lines


def unfilter(lines: Pixels) -> Pixels:
    """Undo the filters of PNG lines `(N, 28, 1 + 28)` and return the pixels `(N, 784)` (PNG specification, 9.2)."""
    images = np.zeros((len(lines), 1 + SIDE, 1 + SIDE), np.uint8)  # with a row of zeros above and a column to the left
    images[:, 1:, 1:] = lines[:, :, 1:]
    for y in range(1, 1 + SIDE):
        filters = lines[:, y - 1, 0]
        for kind in np.unique(filters):
            indices = np.flatnonzero(filters == kind)
            row, above = images[indices, y], images[indices, y - 1]
            if kind == 1:  # Sub
                row = np.cumsum(row, axis=1, dtype=np.uint8)
            elif kind == 2:  # Up
                row += above
            elif kind == 3:  # Average
                for x in range(1, 1 + SIDE):
                    row[:, x] += ((row[:, x - 1].astype(np.uint16) + above[:, x]) // 2).astype(np.uint8)
            elif kind == 4:  # Paeth
                for x in range(1, 1 + SIDE):
                    row[:, x] += _paeth(row[:, x - 1], above[:, x], above[:, x - 1])
            elif kind:
                raise StageError(f"source: a PNG has the unknown filter {kind}")
            images[indices, y] = row
    return images[:, 1:, 1:].reshape(len(lines), PIXELS)


def _paeth(left: Pixels, above: Pixels, corner: Pixels) -> Pixels:
    """The neighbour nearest to left + above - corner; in a tie the first, in the order of the arguments."""
    a, b, c = left.astype(np.int16), above.astype(np.int16), corner.astype(np.int16)
    to_left, to_above, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    nearest = np.where(to_above <= to_corner, above, corner)
    return np.where((to_left <= to_above) & (to_left <= to_corner), left, nearest)
