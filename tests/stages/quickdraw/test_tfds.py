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

from stages.common.errors import StageError
from stages.quickdraw import selection, tfds
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
    """A serialised `tf.train.Example`, written according to the published format."""
    entries = {b"image": field(1, field(1, image)), b"label": field(3, field(1, varint(label)))}
    return field(1, b"".join(field(1, field(1, name) + field(2, feature)) for name, feature in entries.items()))


def tfrecord(records: list[bytes]) -> bytes:
    return b"".join(struct.pack("<QI", len(record), 0) + record + bytes(4) for record in records)


@pytest.fixture
def index() -> pd.DataFrame:
    return selection.build_index(dict(sorted(COUNTS.items())), sum(COUNTS.values()))


@pytest.fixture
def folder(tmp_path: Path, index: pd.DataFrame) -> Path:
    return prepare(tmp_path, DRAWINGS, index, LENGTHS)


def prepare(data_dir: Path, drawings: Mapping[str, Pixels], index: pd.DataFrame, lengths: Sequence[int]) -> Path:
    """A prepared directory, written without TensorFlow Datasets, whose own directories test_oracle.py reads."""
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


def test_pixels_are_read_by_position_from_only_the_files_needed(folder: Path, index: pd.DataFrame) -> None:
    expected = np.array([DRAWINGS[name][row] for name, row in zip(index["name"], index["row"], strict=True)])
    for data_dir in (folder, folder.parent, folder.parent.parent):
        assert np.array_equal(PreparedDataset(data_dir, COUNTS).pixels(index), expected)
    (folder / "quickdraw_bitmap-train.tfrecord-00000-of-00004").unlink()
    selected = index.iloc[[54, 20, 40, 21]]
    assert np.array_equal(PreparedDataset(folder, COUNTS).pixels(selected), expected[[54, 20, 40, 21]])
    with pytest.raises(StageError, match=r"tfrecord-00000-of-00004 does not exist"):
        PreparedDataset(folder, COUNTS).pixels(index)


def filtered(pixels: Pixels, kinds: list[int]) -> Pixels:
    """Filter an image's lines for a PNG, byte by byte with the formulas of the specification."""
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


def test_every_png_filter_is_undone() -> None:
    random = np.random.default_rng(0)
    lines = [filtered(image, random.integers(0, 5, 28).tolist()) for image in DRAWINGS["bee"]]
    assert np.array_equal(tfds.unfilter(np.stack(lines)), DRAWINGS["bee"])
    lines[3][5, 0] = 5
    with pytest.raises(StageError, match="a PNG has the unknown filter 5"):
        tfds.unfilter(np.stack(lines))


def change(folder: Path, **changes: object) -> None:
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | changes))


def replace_records(image: bytes, label: int = 26) -> Callable[[Path], None]:
    return lambda folder: write(folder, 0, tfrecord([example(image, label)] * 20))


GOOD = png(DRAWINGS["bee"][0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "dataset_info.json").unlink(), r"holds no prepared quickdraw_bitmap 3.0.0"),
        (lambda folder: (folder / "dataset_info.json").write_text("{"), r"is not what TensorFlow Datasets writes"),
        (lambda folder: change(folder, splits=[]), r"is not what TensorFlow Datasets writes"),
        (lambda folder: change(folder, name="mnist"), r"describes mnist 3.0.0"),
        (
            lambda folder: change(folder, fileFormat="array_record"),
            r"3.0.0 as array_record; expected: quickdraw_bitmap",
        ),
        (
            lambda folder: change(folder, splits=[{"name": "train", "shardLengths": [9]}]),
            r"holds 9 drawings, but the public bucket holds 55",
        ),
        (
            lambda folder: change(folder, splits=[{"name": "train", "shardLengths": [math.inf]}]),
            r"is not what TensorFlow Datasets writes",
        ),
        (
            lambda folder: change(folder, name="\x1b[2J" + "a" * 9999),
            r"describes \ufffd\[2Ja+…; expected: quickdraw_bitmap",
        ),
        (
            lambda folder: (folder / "label.labels.txt").write_bytes(b"\xff"),
            r"lists other classes, or in another order",
        ),
        (lambda folder: (folder / "label.labels.txt").write_text("bee\n"), r"lists other classes, or in another order"),
        (lambda folder: write(folder, 0, b""), r"00000-of-00004 is empty"),
        (lambda folder: write(folder, 0, tfrecord([b"x"] * 9)), r"is cut short: 9 records of 20"),
        (lambda folder: write(folder, 0, tfrecord([b"x"] * 21)), r"has 357 bytes, but its 20 records 340"),
        (lambda folder: write(folder, 0, b"\xff" * 400), r"is cut short: 1 records of 20"),
        (
            lambda folder: write(folder, 0, tfrecord([b"x"] * 20)),
            r"record 0 of .* cannot be read: no image with",
        ),
        (replace_records(b"GIF89a"), r"cannot be read: not a PNG"),
        (replace_records(GOOD[:-20]), r"cannot be read: "),
        (replace_records(GOOD[:60] + bytes([GOOD[60] ^ 1]) + GOOD[61:]), r"cannot be read: a checksum does not match"),
        (replace_records(GOOD), r"has the label 26, but in the public bucket 323: they hold different drawings"),
        (replace_records(GOOD, 344), r"has the label 344, but in the public bucket \d+: they hold different drawings"),
    ],
)
def test_an_unusable_directory_is_one_error_line(
    folder: Path, index: pd.DataFrame, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    with pytest.raises(StageError, match=message) as caught:
        PreparedDataset(folder, COUNTS).pixels(index)
    assert str(caught.value).startswith("source: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("position", [55, 10**9, -1])
def test_a_position_outside_the_dataset_is_an_error(folder: Path, index: pd.DataFrame, position: int) -> None:
    index.loc[3, "position"] = position
    with pytest.raises(StageError, match=rf"^source: .* holds 55 drawings, and row {position} was requested"):
        PreparedDataset(folder, COUNTS).pixels(index)


def test_an_image_of_another_size_is_refused(folder: Path, index: pd.DataFrame) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((2800, 2800), np.uint8)).save(file, "PNG")
    write(folder, 0, tfrecord([example(file.getvalue(), 26)] * 20))
    with pytest.raises(StageError, match="not a greyscale image of 28 by 28 pixels"):
        PreparedDataset(folder, COUNTS).pixels(index)
