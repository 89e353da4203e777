"""Fuzz tests of the readers of pictures: each reads a file, or rejects it with one line.

By hand, `FUZZ=2000000` tries 100,000 cases for each reader; see tests/test_fuzz.py.
"""

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.importing import arrays, folders, pixels, strokes, table
from pipeline.importing.command import Reader
from pipeline.importing.options import Options, PictureError
from tests.test_fuzz import CASES, Parser, attempt, fuzz

IMAGES = np.random.default_rng(0).integers(0, 200, (4, 8, 8), np.uint8)
LABELS = np.array([1, 0, 1, 0], np.uint8)


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def picture(kind: str, image: Any = IMAGES[0]) -> bytes:
    return saved(lambda file: Image.fromarray(image).save(file, kind))


def zip_of(members: dict[str, bytes]) -> bytes:
    def write(file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return saved(write)


IDX = struct.pack(">BBBB3I", 0, 0, 8, 3, *IMAGES.shape) + IMAGES.tobytes()
CSV = "label,a,b,c,d\n" + "".join(
    f"{label},{','.join(map(str, image.ravel()[:4]))}\n" for label, image in zip(LABELS, IMAGES, strict=True)
)
STROKES = [[[0, 10, 255], [5, 200, 7]], [[1], [2]]]
PICTURES = [picture(kind) for kind in folders.FORMATS] + [picture("PNG", np.dstack([IMAGES[0]] * 4))]

# The name of the file, its reader, and files to mutate.
READERS: dict[str, tuple[str, Reader, list[bytes]]] = {
    "npy": (
        "bee.npy",
        arrays.read_npy,
        [saved(lambda file: np.save(file, IMAGES)), saved(lambda file: np.save(file, IMAGES / 255.0))],
    ),
    "npz": (
        "a.npz",
        arrays.read_npz,
        [
            saved(lambda file: np.savez(file, x=IMAGES, y=LABELS)),
            saved(lambda file: np.savez_compressed(file, x=np.asfortranarray(IMAGES), y=LABELS.astype(str))),
        ],
    ),
    "idx": ("a-images-idx3-ubyte", arrays.read_idx, [IDX]),
    "idx.gz": ("a-images-idx3-ubyte.gz", arrays.read_idx, [gzip.compress(IDX)]),
    "csv": (
        "a.csv",
        table.read_csv,
        [CSV.encode(), f'word,drawing\nbee,"{json.dumps(STROKES)}"\n'.encode(), CSV.partition("\n")[2].encode()],
    ),
    "ndjson": ("a.ndjson", strokes.read_ndjson, [json.dumps({"word": "bee", "drawing": STROKES}).encode() + b"\n"] * 2),
    "picture": ("bee/a.png", folders.read_folder, PICTURES),
    "zip": ("a.zip", folders.read_zip, [zip_of({"bee/a.png": PICTURES[0], "cat/b.jpg": PICTURES[1]})]),
}


def parser(folder: Path, name: str) -> Parser:
    filename, reader, seeds = READERS[name]
    path = folder / filename
    path.parent.mkdir(exist_ok=True)
    options = Options(size=(8, 8), class_name="bee" if name in ("idx", "idx.gz") else None)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        batches: Iterator[arrays.Batch] = reader(folder if name == "picture" else path, options, lambda _: None)
        for class_name, images in batches:
            assert isinstance(class_name, str)
            assert images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in (1, 3, 4)
            prepared = pixels.prepare(images[:2], options)
            assert prepared.shape[1:3] == (8, 8) or not len(images)

    return Parser(read, seeds, PictureError)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_or_rejects_in_one_line(tmp_path: Path, name: str) -> None:
    checked = parser(tmp_path, name)
    for content in checked.seeds:
        checked.read(content)
    attempt(checked, b"")
    fuzz(checked, 60)


@pytest.mark.robustness
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_or_rejects_many_cases(tmp_path: Path, name: str) -> None:
    fuzz(parser(tmp_path, name), CASES // 20)
