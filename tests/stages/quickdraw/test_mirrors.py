from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.common.errors import StageError
from stages.quickdraw import mirrors, sources
from tests.stages.drawings import COUNTS, make_mirror, noise


def test_a_folder_is_counted_in_the_order_of_the_labels(tmp_path: Path) -> None:
    mirror = sources.open_source("drawings", make_mirror(tmp_path / "drawings").parent)
    assert list(mirror.counts()) == ["bee", "sea turtle", "The Eiffel Tower", "tree", "abacus", "zorro"]
    assert mirror.counts() == COUNTS


def test_an_address_is_a_folder_or_a_file_url(tmp_path: Path) -> None:
    folder = make_mirror(tmp_path / "two words", {"bee": 3})
    for address in ("two words", str(folder), folder.as_uri(), f"{folder}/"):
        assert sources.open_source(address, tmp_path).counts() == {"bee": 3}


def test_pixels_are_in_the_order_of_the_drawings(tmp_path: Path) -> None:
    mirror = mirrors.Folder(make_mirror(tmp_path))
    names, rows = ["tree", "bee", "tree", "tree", "zorro"], [7, 0, 109, 7, 39]
    pixels = mirror.pixels(pd.DataFrame({"name": pd.Categorical(names), "row": rows}))
    assert np.array_equal(pixels, [noise(name, COUNTS[name])[row] for name, row in zip(names, rows, strict=True)])


@pytest.mark.parametrize(
    ("stored", "image_shape"),
    [((64,), (8, 8, 1)), ((20, 36), (20, 36, 1)), ((20, 36, 1), (20, 36, 1)), ((9, 8, 3), (9, 8, 3))],
)
def test_drawings_of_any_shape_are_read(tmp_path: Path, stored: tuple[int, ...], image_shape: tuple[int, ...]) -> None:
    drawings = {name: np.random.default_rng(0).integers(0, 256, (5, *stored), np.uint8) for name in ("bee", "tree")}
    for name, array in drawings.items():
        np.save(tmp_path / f"{name}.npy", array)
    mirror = mirrors.Folder(tmp_path)
    assert mirror.image_shape() == image_shape
    pixels = mirror.pixels(pd.DataFrame({"name": pd.Categorical(["tree", "bee"]), "row": [4, 2]}))
    assert np.array_equal(pixels.reshape(2, *stored), [drawings["tree"][4], drawings["bee"][2]])


def test_files_of_two_shapes_are_one_error_line(tmp_path: Path) -> None:
    mirror = mirrors.Folder(make_mirror(tmp_path, {"bee": 3, "sun": 3}))
    assert mirror.image_shape() == (28, 28, 1)
    np.save(tmp_path / "tree.npy", np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(StageError) as caught:
        mirrors.Folder(tmp_path).counts()
    assert str(caught.value) == (
        f"source: {tmp_path / 'bee.npy'} has drawings of 28×28 pixels, grey, and {tmp_path / 'tree.npy'} of 32×32 "
        "pixels, in colour; give all of them one shape: python -m pipeline import WHAT FOLDER --size 28 --grey"
    )
    np.save(tmp_path / "bee.npy", np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(StageError, match=r"bee.npy has changed during the run: run the stage extract again"):
        mirror.pixels(pd.DataFrame({"name": pd.Categorical(["bee"]), "row": [2]}))


@pytest.mark.parametrize("file", ["\u00e9clair", "e\u0301clair"])
def test_a_file_can_be_named_in_either_form_of_unicode(tmp_path: Path, file: str) -> None:
    name = "\u00e9clair"
    np.save(tmp_path / f"{file}.npy", noise(name, 5))
    mirror = mirrors.Folder(tmp_path)
    assert mirror.counts() == {name: 5}
    pixels = mirror.pixels(pd.DataFrame({"name": pd.Categorical([name] * 2), "row": [4, 0]}))
    assert np.array_equal(pixels, noise(name, 5)[[4, 0]])


def test_doodles_are_a_mirror() -> None:
    mirror = sources.open_source("doodles", Path())
    counts = mirror.counts()
    assert {"bee", "The Eiffel Tower"} <= counts.keys()
    assert mirror.pixels(pd.DataFrame({"name": pd.Categorical(["bee", "tree"]), "row": [5, 2]})).shape == (2, 784)


def test_digits_are_those_of_scikit_learn() -> None:
    """On its first picture, a 0, whose values are published in its documentation."""
    mirror = sources.open_source("digits", Path())
    assert list(mirror.counts()) == list("0123456789") and sum(mirror.counts().values()) == 1797
    assert mirror.image_shape() == (8, 8, 1)
    [zero, other] = mirror.pixels(pd.DataFrame({"name": pd.Categorical(["0", "1"]), "row": [0, 181]})).reshape(2, 8, 8)
    published = [0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0], [0, 3, 15, 2, 0, 11, 8, 0]
    assert np.array_equal(zero[:3], np.rint(np.array(published) * 255 / 16))
    assert other.max() == 255
    with pytest.raises(StageError, match=r"^source: the class '0' of the digits holds 178 drawings, and row 178 was"):
        mirror.pixels(pd.DataFrame({"name": pd.Categorical(["0"]), "row": [178]}))


def test_the_dataset_of_the_bucket_is_read_where_tensorflow_datasets_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = r"^source: {} holds no prepared quickdraw_bitmap 3.0.0; set TFDS_DATA_DIR to the data directory of"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(StageError, match=message.format(tmp_path)):
        sources.open_source("tfds:quickdraw_bitmap", Path())
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(StageError, match=message.format(tmp_path / "home" / "tensorflow_datasets")):
        sources.open_source("tfds:quickdraw_bitmap", Path())


def test_an_invalid_folder_is_one_error_line(tmp_path: Path) -> None:
    def error_of(path: Path) -> str:
        with pytest.raises(StageError) as caught:
            mirrors.Folder(path).counts()
        return str(caught.value)

    assert error_of(tmp_path / "none") == f"source: the folder {tmp_path / 'none'} does not exist"
    remedy = "convert pictures: python -m pipeline import WHAT FOLDER"
    (tmp_path / ".DS_Store").touch()
    assert error_of(tmp_path) == f"source: {tmp_path} holds no <class>.npy; {remedy}"
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png", "c.png", "notes.txt", "x.npz"):
        (tmp_path / "pictures" / name).touch()
    assert error_of(tmp_path) == f"source: {tmp_path} holds no <class>.npy, but 'pictures'; {remedy}"
    assert error_of(tmp_path / "pictures") == (
        f"source: {tmp_path / 'pictures'} holds no <class>.npy, but 'a.png', 'b.png', 'c.png', 'notes.txt' "
        f"and 'x.npz'; {remedy}"
    )
    (tmp_path / "bee.npy").write_bytes(b"")
    file = tmp_path / "bee.npy"
    assert error_of(file) == f"source: {file} is not a folder; set source to a folder or a URL"
    assert error_of(tmp_path) == f"source: {tmp_path / 'bee.npy'} is empty; copy or download the file again"
    (tmp_path / "bee.npy").unlink()
    (tmp_path / "bee.npy").mkdir()
    assert error_of(tmp_path) == f"source: {tmp_path / 'bee.npy'} is not a file"
    (tmp_path / "bee.npy").rmdir()
    (tmp_path / "a\tb.npy").write_bytes(b"")
    assert "cannot be the name of a class" in error_of(tmp_path)


def test_hidden_files_are_not_classes(tmp_path: Path) -> None:
    make_mirror(tmp_path, {"bee": 3})
    for name in ("._bee.npy", ".npy", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\0\5\26\7")
    assert mirrors.Folder(tmp_path).counts() == {"bee": 3}


def test_a_shortened_or_deleted_file_is_one_error_line(tmp_path: Path) -> None:
    mirror = mirrors.Folder(make_mirror(tmp_path, {"bee": 10}))
    np.save(tmp_path / "bee.npy", noise("bee", 5))
    with pytest.raises(StageError, match=r"bee.npy holds 5 drawings, and row 9 was requested"):
        mirror.read_rows("bee", np.array([1, 9], np.int32), np.empty((2, 784), np.uint8))
    (tmp_path / "bee.npy").unlink()
    with pytest.raises(StageError, match=r"bee.npy does not exist"):
        mirrors.Folder(tmp_path).read_rows("bee", np.array([1], np.int32), np.empty((1, 784), np.uint8))


def test_at_most_half_of_the_allowed_files_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (4, 1024))
    mirror = mirrors.Folder(make_mirror(tmp_path))
    drawings = pd.DataFrame({"name": pd.Categorical(list(COUNTS) * 2), "row": range(2 * len(COUNTS))})
    expected = [noise(name, COUNTS[name])[row] for name, row in zip(drawings["name"], drawings["row"], strict=True)]
    assert np.array_equal(mirror.pixels(drawings), expected)
    assert len(mirror._drawings) <= 2
