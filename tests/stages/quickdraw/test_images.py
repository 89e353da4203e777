from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.common.errors import StageError
from stages.quickdraw import images, mirrors
from tests.stages.drawings import COUNTS, make_mirror, noise


def test_write_joins_blocks_and_prefetched_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "BLOCK_BYTES", 7 * 784)
    mirror = mirrors.Folder(make_mirror(tmp_path / "mirror"))
    names, rows = ["tree", "bee", "zorro", "bee"] * 5, list(range(20))
    drawings = pd.DataFrame({"position": range(20), "name": pd.Categorical(names), "row": rows})
    images.write(tmp_path / "images.npy", drawings, mirror)
    written = np.load(tmp_path / "images.npy", allow_pickle=False)
    expected = np.stack([noise(name, COUNTS[name])[row] for name, row in zip(names, rows, strict=True)])
    assert written.dtype == np.uint8
    assert np.array_equal(written, expected.reshape(20, 28, 28, 1))

    selected = drawings.iloc[[3, 17, 8]]
    prefetched = images.Prefetched(tmp_path / "images.npy")
    assert prefetched.image_shape() == (28, 28, 1)
    assert np.array_equal(prefetched.pixels(selected), expected[[3, 17, 8]])


def test_images_have_the_shape_of_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "BLOCK_BYTES", 1)  # less than a drawing
    colours = np.random.default_rng(0).integers(0, 256, (3, 9, 8, 3), np.uint8)
    (tmp_path / "mirror").mkdir()
    np.save(tmp_path / "mirror" / "bee.npy", colours)
    drawings = pd.DataFrame({"position": range(3), "name": pd.Categorical(["bee"] * 3), "row": [2, 0, 1]})
    images.write(tmp_path / "images.npy", drawings, mirrors.Folder(tmp_path / "mirror"))
    assert np.array_equal(np.load(tmp_path / "images.npy", allow_pickle=False), colours[[2, 0, 1]])
    prefetched = images.Prefetched(tmp_path / "images.npy")
    assert prefetched.image_shape() == (9, 8, 3)
    assert np.array_equal(prefetched.pixels(drawings.iloc[[1]]), colours[[0]].reshape(1, -1))


def test_images_of_an_impossible_shape_are_one_error_line(tmp_path: Path) -> None:
    for shape in ((3, 784), (3, 28, 28), (3, 28, 28, 2), (3, 7, 28, 1)):
        np.save(tmp_path / "images.npy", np.zeros(shape, np.uint8))
        with pytest.raises(StageError, match=r"images.npy does not fit the index .*: run the stage extract again$"):
            images.Prefetched(tmp_path / "images.npy").image_shape()
