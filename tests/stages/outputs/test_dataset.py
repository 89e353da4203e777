import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.common.errors import StageError
from stages.outputs import dataset
from stages.outputs.model import Class


def write(folder: Path, number: int = 4) -> None:
    np.save(folder / dataset.IMAGES, np.arange(number * 784, dtype=np.uint8).reshape(number, 28, 28, 1))
    table = pd.DataFrame(
        {
            "label": np.array([26, 323] * (number // 2), np.int16),
            "name": pd.Categorical(["bee", "tree"] * (number // 2)),
            "heldout": np.arange(number) == 1,
        }
    )
    table.to_parquet(folder / dataset.TABLE)


def test_drawings_are_read_and_selected(tmp_path: Path) -> None:
    write(tmp_path)
    data = dataset.load(tmp_path)
    training = data.where(~data.heldout)
    assert training.labels.tolist() == [26, 26, 323]
    np.testing.assert_array_equal(training.images[:], data.images[[0, 2, 3]])
    assert data.classes(["tree", "bee"]) == (Class(323, "tree"), Class(26, "bee"))


def test_selected_images_are_read_when_they_are_indexed(tmp_path: Path) -> None:
    write(tmp_path, 6)
    data = dataset.load(tmp_path)
    assert isinstance(data.images, np.memmap), "a mapped file"
    bees = data.where(data.labels == 26)
    later = bees.where(np.array([False, True, True]))
    assert isinstance(later.images, dataset.SelectedImages) and later.images.images is data.images
    assert later.images.shape == (2, 28, 28, 1) and len(later.images) == 2 and later.images.dtype == np.uint8
    np.testing.assert_array_equal(later.images[1], data.images[4])
    np.testing.assert_array_equal(later.images[np.array([True, False])], data.images[[2]])
    selected = later.images[:]
    assert type(selected) is np.ndarray or not isinstance(selected.base, np.memmap)
    np.testing.assert_array_equal(selected, data.images[[2, 4]])


def test_the_fingerprint_is_of_the_drawings_and_their_labels(tmp_path: Path) -> None:
    write(tmp_path)
    data = dataset.load(tmp_path)
    images, labels = np.asarray(data.images).copy(), data.labels.copy()
    assert data.fingerprint() == replace(data, images=images.copy(), labels=labels.astype(np.int64)).fingerprint()
    images[3, 27, 27] ^= 1
    labels[3] = 26
    others = [
        replace(data, images=images),
        replace(data, labels=labels),
        data.where(np.array([True, True, True, False])),
        data.where(np.zeros(4, bool)),
    ]
    fingerprints = {drawings.fingerprint() for drawings in (data, *others)}
    assert len(fingerprints) == 5
    assert all(re.fullmatch(r"[0-9a-f]{8}", fingerprint) for fingerprint in fingerprints)


def test_the_error_names_a_class_without_drawings(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(StageError, match="'swan'"):
        dataset.load(tmp_path).classes(["bee", "swan"])


@pytest.mark.parametrize("missing", [dataset.IMAGES, dataset.TABLE])
def test_a_missing_file_names_the_stage_to_run(tmp_path: Path, missing: str) -> None:
    write(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(StageError, match=rf"{missing} is missing: run the stage filter first"):
        dataset.load(tmp_path)


def test_images_that_do_not_match_the_table_are_rejected(tmp_path: Path) -> None:
    write(tmp_path)
    np.save(tmp_path / dataset.IMAGES, np.zeros((3, 28, 28, 1), np.uint8))
    with pytest.raises(StageError, match=r"expected: \(4, height, width, channels\)\): run the stage filter again"):
        dataset.load(tmp_path)


def test_a_pickled_object_is_rejected(tmp_path: Path) -> None:
    write(tmp_path)
    np.save(tmp_path / dataset.IMAGES, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(StageError, match="run the stage filter again"):
        dataset.load(tmp_path)
