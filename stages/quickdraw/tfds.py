"""Drawings out of a data directory that TensorFlow Datasets has prepared, without TensorFlow.

`quickdraw_bitmap` lies there as TFRecord files of protocol buffers with a PNG and a label each, in the order that the
index follows: a drawing's position says in which file it is, and where. The other files are not opened.
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
from stages.quickdraw import SIDE
from stages.quickdraw.labels import labels
from stages.quickdraw.mirrors import Pixels, check_rows
from stages.quickdraw.npy_header import PIXELS

if TYPE_CHECKING:
    import pandas as pd

NAME = "quickdraw_bitmap"
VERSION = "3.0.0"
NUMBER = rb"[\x80-\xff]{0,9}[\x00-\x7f]"  # of a protocol buffer, such as the length of what follows
IMAGE = re.compile(rb"\n\x05image\x12%(n)b\n%(n)b\n(%(n)b)" % {b"n": NUMBER})
LABEL = re.compile(rb"\n\x05label\x12%(n)b\x1a%(n)b(?:\n[\x01\x02]|\x08)(%(n)b)" % {b"n": NUMBER})
FRAME = struct.Struct("<QI")  # before a record: its length, and a checksum of that; after it a checksum of 4 bytes
HEADER = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)  # of a PNG of 28 × 28 greys of 8 bits, not interlaced


class PreparedDataset:
    """A prepared data directory.

    Args:
      data_dir: what TensorFlow Datasets calls so, or the folder of the version in it.
      counts: the drawings of each class that it is expected to hold.
    """

    def __init__(self, data_dir: Path, counts: Mapping[str, int]) -> None:
        folders = [data_dir, data_dir / VERSION, data_dir / NAME / VERSION]
        found = [folder for folder in folders if (folder / "dataset_info.json").is_file()]
        if not found:
            raise StageError(f"data_dir: {data_dir} holds no prepared {NAME} {VERSION}: there is no dataset_info.json")
        self.folder = found[0]
        lengths = self._lengths()
        self._ends = np.cumsum(lengths)
        self._records: dict[int, _Records] = {}
        total, expected = int(self._ends[-1]), sum(counts.values())
        if total != expected:
            raise StageError(f"data_dir: {self.folder} holds {total:,} drawings, and the mirror {expected:,}")

    def prepare(self, drawings: pd.DataFrame) -> None:
        """They are on this machine."""

    def pixels(self, drawings: pd.DataFrame) -> Pixels:
        """The pixels `(len(drawings), 784)` of drawings by `position`; their labels must be the drawings' own."""
        pixels = np.empty((len(drawings), PIXELS), np.uint8)
        found = np.empty(len(drawings), np.int64)
        positions, expected = drawings["position"].to_numpy(), drawings["label"].to_numpy()
        check_rows(f"data_dir: {self.folder}", positions, int(self._ends[-1]))
        shards = np.searchsorted(self._ends, positions, "right")
        for shard in np.unique(shards):
            places = np.flatnonzero(shards == shard)
            records = self._open(int(shard))
            first = int(self._ends[shard]) - len(records)
            pixels[places], found[places] = records.read(positions[places] - first)
        if (differing := np.flatnonzero(found != expected)).size:
            at = differing[0]
            raise StageError(
                f"data_dir: drawing {positions[at]} of {self.folder} has the label {found[at]}, and that of the mirror "
                f"{expected[at]}: they hold different drawings"
            )
        return pixels

    def _open(self, shard: int) -> _Records:
        if shard not in self._records:
            length = int(self._ends[shard] - (self._ends[shard - 1] if shard else 0))
            path = self.folder / f"{NAME}-train.tfrecord-{shard:05d}-of-{len(self._ends):05d}"
            self._records = {shard: _Records(path, length)}  # drawings come in order: one file at a time is enough
        return self._records[shard]

    def _lengths(self) -> list[int]:
        """How many drawings each file holds, according to the directory's own account."""
        path = self.folder / "dataset_info.json"
        try:
            info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            (train,) = (split for split in info["splits"] if split["name"] == "train")
            lengths = [int(length) for length in train["shardLengths"]]
            name, version, form = info["name"], info["version"], info.get("fileFormat", "tfrecord")
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise StageError(f"data_dir: {path} is not what TensorFlow Datasets writes") from None
        if (name, version) != (NAME, VERSION) or form != "tfrecord" or not lengths or min(lengths) < 0:
            about = one_line(f"{name} {version} as {form}")
            raise StageError(f"data_dir: {path} is about {about}; {NAME} {VERSION} as tfrecord is read")
        names = self.folder / "label.labels.txt"
        if names.is_file() and tuple(names.read_text(encoding="utf-8", errors="replace").splitlines()) != labels():
            raise StageError(f"data_dir: {names} numbers the classes in another way")
        return lengths


class _Records:
    """The records of one TFRecord file."""

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise StageError(f"data_dir: {path} is not there") from None
        except ValueError:
            raise StageError(f"data_dir: {path} is empty") from None
        at, end = 0, len(self._content)
        if length > end:
            raise StageError(f"data_dir: {path} has {end:,} bytes, too few for {length:,} records")
        self._starts = np.empty(length + 1, np.int64)
        for number in range(length):
            if at + FRAME.size > end:
                raise StageError(f"data_dir: {path} is cut short: {number} records of {length}")
            self._starts[number] = at
            at += FRAME.size + FRAME.unpack_from(self._content, at)[0] + 4
        if at != end:
            raise StageError(f"data_dir: {path} has {end:,} bytes, and its {length} records {at:,}")
        self._starts[length] = at

    def __len__(self) -> int:
        return len(self._starts) - 1

    def read(self, numbers: npt.NDArray[np.int64]) -> tuple[Pixels, npt.NDArray[np.int64]]:
        """The pixels `(len(numbers), 784)` and labels of some records."""
        lines = np.empty((len(numbers), SIDE, 1 + SIDE), np.uint8)
        found = np.empty(len(numbers), np.int64)
        for place, number in enumerate(numbers):
            start, end = self._starts[number] + FRAME.size, self._starts[number + 1] - 4
            try:
                image, found[place] = _example(self._content[start:end])
                lines[place] = np.frombuffer(_lines(image), np.uint8).reshape(SIDE, 1 + SIDE)
            except (ValueError, IndexError, OverflowError, struct.error, zlib.error) as error:
                raise StageError(f"data_dir: record {number} of {self.path} cannot be read: {error}") from None
        return unfiltered(lines), found


def _example(record: bytes) -> tuple[bytes, int]:
    """The `image` (PNG) and the `label` of a serialised `tf.train.Example`.

    A map's entry is a name and a Feature, which holds a list of bytes (field 1) or of whole numbers (field 3). Looking
    for the two names is twenty times as fast as taking the whole message apart; bytes that only look like them do not
    go unnoticed, for a PNG has checksums, and a label is compared.
    """
    image, label = IMAGE.search(record), LABEL.search(record)
    if not image or not label:
        raise ValueError("no image with a label")
    return record[image.end() : image.end() + _varint(image[1])], _varint(label[1])


def _varint(content: bytes) -> int:
    return sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(content))


def _lines(png: bytes) -> bytes:
    """The decompressed lines of a PNG of 28 × 28 greys, each with its filter before it. Checks every checksum."""
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("not a PNG")
    at, kind, compressed = 8, b"", b""
    while kind != b"IEND":
        (length,) = struct.unpack_from(">I", png, at)
        kind = png[at + 4 : at + 8]
        content = png[at + 8 : at + 8 + length]
        if zlib.crc32(content, zlib.crc32(kind)) != struct.unpack_from(">I", png, at + 8 + length)[0]:
            raise ValueError("a checksum does not fit")
        if kind == b"IHDR" and content != HEADER:
            raise ValueError("not an image of 28 by 28 greys")
        if kind == b"IDAT":
            compressed += content
        at += 12 + length
    size = SIDE * (1 + SIDE)
    lines = zlib.decompressobj().decompress(compressed, size + 1)
    if len(lines) != size:
        raise ValueError(f"{len(lines)} bytes of pixels, not {size}")
    return lines


def unfiltered(lines: Pixels) -> Pixels:
    """The pixels `(N, 784)` of PNG lines `(N, 28, 1 + 28)`, all images at once (PNG specification, 9.2)."""
    images = np.zeros((len(lines), 1 + SIDE, 1 + SIDE), np.uint8)  # a row above and a column to the left are zero
    images[:, 1:, 1:] = lines[:, :, 1:]
    for y in range(1, 1 + SIDE):
        filters = lines[:, y - 1, 0]
        for kind in np.unique(filters):
            some = np.flatnonzero(filters == kind)
            row, above = images[some, y], images[some, y - 1]
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
                raise StageError(f"data_dir: a PNG has a filter {kind}, which there is not")
            images[some, y] = row
    return images[:, 1:, 1:].reshape(len(lines), PIXELS)


def _paeth(left: Pixels, above: Pixels, corner: Pixels) -> Pixels:
    """Of the three neighbours the one nearest to left + above - corner, and the first of them where two are."""
    a, b, c = left.astype(np.int16), above.astype(np.int16), corner.astype(np.int16)
    to_left, to_above, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    nearest = np.where(to_above <= to_corner, above, corner)
    return np.where((to_left <= to_above) & (to_left <= to_corner), left, nearest)
