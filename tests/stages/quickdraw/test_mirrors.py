from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.common.errors import StageError
from stages.quickdraw import mirrors, sources
from tests.stages.drawings import COUNTS, make_mirror, noise


def test_a_folder_counts_in_the_order_of_the_labels(tmp_path: Path) -> None:
    mirror = sources.open_mirror("drawings", make_mirror(tmp_path / "drawings").parent)
    assert list(mirror.counts()) == ["bee", "sea turtle", "The Eiffel Tower", "tree", "abacus", "zorro"]
    assert mirror.counts() == COUNTS


def test_an_address_is_a_folder_or_a_file_url(tmp_path: Path) -> None:
    folder = make_mirror(tmp_path / "two words", {"bee": 3})
    for address in ("two words", str(folder), folder.as_uri(), f"{folder}/"):
        assert sources.open_mirror(address, tmp_path).counts() == {"bee": 3}


def test_pixels_come_in_the_order_of_the_drawings(tmp_path: Path) -> None:
    mirror = mirrors.Folder(make_mirror(tmp_path))
    names, rows = ["tree", "bee", "tree", "tree", "zorro"], [7, 0, 109, 7, 39]
    pixels = mirror.pixels(pd.DataFrame({"name": pd.Categorical(names), "row": rows}))
    assert np.array_equal(pixels, [noise(name, COUNTS[name])[row] for name, row in zip(names, rows, strict=True)])


def test_doodles_have_published_labels_or_come_after_them() -> None:
    mirror = sources.open_mirror("doodles", Path())
    counts = mirror.counts()
    assert {"bee", "The Eiffel Tower"} <= counts.keys()
    assert mirror.pixels(pd.DataFrame({"name": pd.Categorical(["bee", "tree"]), "row": [5, 2]})).shape == (2, 784)


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(StageError) as caught:
            mirrors.Folder(path).counts()
        return str(caught.value)

    assert refused(tmp_path / "none") == f"mirror: there is no folder {tmp_path / 'none'}"
    assert refused(tmp_path) == f"mirror: {tmp_path} holds no <class>.npy"
    (tmp_path / "bee.npy").write_bytes(b"")
    assert refused(tmp_path / "bee.npy") == f"mirror: {tmp_path / 'bee.npy'} is not a folder"
    assert refused(tmp_path) == f"mirror: {tmp_path / 'bee.npy'} is empty"
    (tmp_path / "bee.npy").unlink()
    (tmp_path / "bee.npy").mkdir()
    assert refused(tmp_path) == f"mirror: {tmp_path / 'bee.npy'} is not a file"
    (tmp_path / "bee.npy").rmdir()
    (tmp_path / "a\tb.npy").write_bytes(b"")
    assert "cannot be the name of a class" in refused(tmp_path)


def test_a_file_that_shrank_or_went_is_said(tmp_path: Path) -> None:
    mirror = mirrors.Folder(make_mirror(tmp_path, {"bee": 10}))
    np.save(tmp_path / "bee.npy", noise("bee", 5))
    with pytest.raises(StageError, match=r"bee.npy holds 5 drawings, and row 9 is wanted"):
        mirror.gather("bee", np.array([1, 9], np.int32), np.empty((2, 784), np.uint8))
    (tmp_path / "bee.npy").unlink()
    with pytest.raises(StageError, match=r"bee.npy is not there"):
        mirrors.Folder(tmp_path).gather("bee", np.array([1], np.int32), np.empty((1, 784), np.uint8))


def test_few_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (4, 1024))
    mirror = mirrors.Folder(make_mirror(tmp_path))
    drawings = pd.DataFrame({"name": pd.Categorical(list(COUNTS) * 2), "row": range(2 * len(COUNTS))})
    expected = [noise(name, COUNTS[name])[row] for name, row in zip(drawings["name"], drawings["row"], strict=True)]
    assert np.array_equal(mirror.pixels(drawings), expected)
    assert len(mirror._drawings) <= 2
