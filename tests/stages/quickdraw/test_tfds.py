import io
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages import extract
from stages.common.errors import StageError
from stages.quickdraw import tfds
from stages.quickdraw.labels import labels, numbered
from stages.quickdraw.mirrors import Pixels
from stages.quickdraw.tfds import PreparedDataset
from tests.stages.drawings import noise

COUNTS = {"bee": 30, "tree": 25}
DRAWINGS = {name: noise(name, rows) for name, rows in COUNTS.items()}
LENGTHS = [20, 0, 18, 17]  # drawings in each file


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80, value >> 7]) if value > 127 else bytes([value])


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.reshape(28, 28)).save(file, "PNG")
    return file.getvalue()


def example(image: bytes, label: int) -> bytes:
    """A serialised `tf.train.Example`, as the published format says."""
    entries = {b"image": field(1, field(1, image)), b"label": field(3, field(1, varint(label)))}
    return field(1, b"".join(field(1, field(1, name) + field(2, feature)) for name, feature in entries.items()))


def tfrecord(records: list[bytes]) -> bytes:
    return b"".join(struct.pack("<QI", len(record), 0) + record + bytes(4) for record in records)


@pytest.fixture
def index() -> pd.DataFrame:
    return extract.build_index(dict(sorted(COUNTS.items())), sum(COUNTS.values()))


@pytest.fixture
def folder(tmp_path: Path, index: pd.DataFrame) -> Path:
    return prepare(tmp_path, DRAWINGS, index, LENGTHS)


def prepare(data_dir: Path, drawings: Mapping[str, Pixels], index: pd.DataFrame, lengths: Sequence[int]) -> Path:
    """A prepared directory, written by hand: what TensorFlow Datasets writes is tested with itself elsewhere."""
    folder = data_dir / "quickdraw_bitmap" / "3.0.0"
    folder.mkdir(parents=True)
    info = {
        "name": "quickdraw_bitmap",
        "version": "3.0.0",
        "fileFormat": "tfrecord",
        "splits": [{"name": "train", "shardLengths": [str(length) for length in lengths]}],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "label.labels.txt").write_text("\n".join(labels()) + "\n")
    records = [
        example(png(drawings[name][row]), numbered(drawings)[name])
        for name, row in zip(index["name"], index["row"], strict=True)
    ]
    start = 0
    for shard, length in enumerate(lengths):
        write(folder, shard, tfrecord(records[start : start + length]), len(lengths))
        start += length
    return folder


def write(folder: Path, shard: int, content: bytes, shards: int = len(LENGTHS)) -> None:
    (folder / f"quickdraw_bitmap-train.tfrecord-{shard:05d}-of-{shards:05d}").write_bytes(content)


def test_pixels_come_by_position_from_the_files_that_are_needed(folder: Path, index: pd.DataFrame) -> None:
    expected = np.array([DRAWINGS[name][row] for name, row in zip(index["name"], index["row"], strict=True)])
    for place in (folder, folder.parent, folder.parent.parent):
        assert np.array_equal(PreparedDataset(place, COUNTS).pixels(index), expected)
    (folder / "quickdraw_bitmap-train.tfrecord-00000-of-00004").unlink()
    some = index.iloc[[54, 20, 40, 21]]
    assert np.array_equal(PreparedDataset(folder, COUNTS).pixels(some), expected[[54, 20, 40, 21]])
    with pytest.raises(StageError, match=r"tfrecord-00000-of-00004 is not there"):
        PreparedDataset(folder, COUNTS).pixels(index)


def filtered(pixels: Pixels, kinds: list[int]) -> Pixels:
    """PNG lines of an image with a filter each, by the formulas of the specification, a byte at a time."""
    image = pixels.reshape(28, 28).astype(int)
    lines = np.zeros((28, 29), np.uint8)
    for y in range(28):
        lines[y, 0] = kinds[y]
        for x in range(28):
            left = image[y, x - 1] if x else 0
            above = image[y - 1, x] if y else 0
            corner = image[y - 1, x - 1] if x and y else 0
            estimate = left + above - corner
            nearest = min((abs(estimate - value), order, value) for order, value in enumerate((left, above, corner)))[2]
            predicted = [0, left, above, (left + above) // 2, nearest][kinds[y]]
            lines[y, 1 + x] = (image[y, x] - predicted) % 256
    return lines


def test_every_filter_of_a_png() -> None:
    random = np.random.default_rng(0)
    lines = [filtered(image, random.integers(0, 5, 28).tolist()) for image in DRAWINGS["bee"]]
    assert np.array_equal(tfds.unfiltered(np.stack(lines)), DRAWINGS["bee"])
    lines[3][5, 0] = 5
    with pytest.raises(StageError, match="a PNG has a filter 5"):
        tfds.unfiltered(np.stack(lines))


def change(folder: Path, **changes: object) -> None:
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | changes))


def one(image: bytes, label: int = 26) -> Callable[[Path], None]:
    return lambda folder: write(folder, 0, tfrecord([example(image, label)] * 20))


GOOD = png(DRAWINGS["bee"][0])


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda folder: (folder / "dataset_info.json").unlink(), r"holds no prepared quickdraw_bitmap 3.0.0"),
        (lambda folder: (folder / "dataset_info.json").write_text("{"), r"is not what TensorFlow Datasets writes"),
        (lambda folder: change(folder, splits=[]), r"is not what TensorFlow Datasets writes"),
        (lambda folder: change(folder, name="mnist"), r"is about mnist 3.0.0"),
        (
            lambda folder: change(folder, fileFormat="array_record"),
            r"3.0.0 as array_record; quickdraw_bitmap",
        ),
        (
            lambda folder: change(folder, splits=[{"name": "train", "shardLengths": [9]}]),
            r"9 drawings, and the mir",
        ),
        (
            lambda folder: change(folder, splits=[{"name": "train", "shardLengths": [math.inf]}]),
            r"is not what TensorFlow Datasets writes",
        ),
        (lambda folder: change(folder, name="\x1b[2J" + "a" * 9999), r"is about \ufffd\[2Ja+…; quickdraw_bitmap"),
        (lambda folder: (folder / "label.labels.txt").write_bytes(b"\xff"), r"numbers the classes in another way"),
        (lambda folder: (folder / "label.labels.txt").write_text("bee\n"), r"numbers the classes in another way"),
        (lambda folder: write(folder, 0, b""), r"00000-of-00004 is empty"),
        (lambda folder: write(folder, 0, tfrecord([b"x"] * 9)), r"is cut short: 9 records of 20"),
        (lambda folder: write(folder, 0, tfrecord([b"x"] * 21)), r"has 357 bytes, and its 20 records 340"),
        (lambda folder: write(folder, 0, b"\xff" * 400), r"is cut short: 1 records of 20"),
        (
            lambda folder: write(folder, 0, tfrecord([b"x"] * 20)),
            r"record 0 of .* cannot be read: no image with",
        ),
        (one(b"GIF89a"), r"cannot be read: not a PNG"),
        (one(GOOD[:-20]), r"cannot be read: "),
        (one(GOOD[:60] + bytes([GOOD[60] ^ 1]) + GOOD[61:]), r"cannot be read: a checksum does not fit"),
        (one(GOOD), r"has the label 26, and that of the mirror 323: they hold different drawings"),
        (one(GOOD, 344), r"has the label 344, and that of the mirror \d+: they hold different drawings"),
    ],
)
def test_what_cannot_be_used_is_said(
    folder: Path, index: pd.DataFrame, breaks: Callable[[Path], object], says: str
) -> None:
    breaks(folder)
    with pytest.raises(StageError, match=says) as caught:
        PreparedDataset(folder, COUNTS).pixels(index)
    assert str(caught.value).startswith("data_dir: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("position", [55, 10**9, -1])
def test_a_position_that_is_not_there(folder: Path, index: pd.DataFrame, position: int) -> None:
    index.loc[3, "position"] = position
    with pytest.raises(StageError, match=rf"^data_dir: .* holds 55 drawings, and row {position} is wanted"):
        PreparedDataset(folder, COUNTS).pixels(index)


def test_an_image_of_another_size_is_refused(folder: Path, index: pd.DataFrame) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((2800, 2800), np.uint8)).save(file, "PNG")
    write(folder, 0, tfrecord([example(file.getvalue(), 26)] * 20))
    with pytest.raises(StageError, match="not an image of 28 by 28 greys"):
        PreparedDataset(folder, COUNTS).pixels(index)
