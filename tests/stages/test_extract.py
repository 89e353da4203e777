import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages import command, extract
from stages.params import Params
from tests.settings import ROOT, write
from tests.stages.drawings import COUNTS, first_by_sorting, make_mirror, noise


@pytest.fixture
def settings(full_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings for a small mirror; the current folder is a temporary one with that mirror."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    make_mirror(tmp_path / "drawings")
    return full_run.model_copy(update={"source": "drawings", "num_drawings": 200})


def test_the_index_has_one_row_per_drawing_in_order(settings: Params) -> None:
    extract.main(settings)
    index = pd.read_parquet("data/extract/index.parquet")
    keys = first_by_sorting(COUNTS, 200)
    assert index["position"].tolist() == list(range(200))
    assert list(zip(index["name"], index["row"], strict=True)) == keys
    labels = {"bee": 26, "sea turtle": 255, "The Eiffel Tower": 309, "tree": 323, "abacus": 345, "zorro": 346}
    assert index["label"].tolist() == [labels[name] for name, _ in keys]
    assert index.dtypes.astype(str).to_dict() == {
        "position": "int64",
        "label": "int16",
        "name": "category",
        "row": "int32",
    }
    assert [path.name for path in Path("data/extract").iterdir()] == ["index.parquet"]


@pytest.mark.parametrize(
    ("number", "warning"),
    [
        ("all", ""),
        (460, ""),
        (461, "WARNING: num_drawings is 461, but the source has only 460 drawings: this run uses all that there are\n"),
        (
            40_000,
            "WARNING: num_drawings is 40,000, but the source has only 460 drawings: this run uses all that there are\n",
        ),
    ],
)
def test_a_source_with_fewer_drawings_gives_all_of_them(
    settings: Params, number: object, warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    extract.main(settings.model_copy(update={"num_drawings": number}))
    index = pd.read_parquet("data/extract/index.parquet")
    assert list(zip(index["name"], index["row"], strict=True)) == first_by_sorting(COUNTS, 460)
    assert capsys.readouterr().err == warning


def test_the_same_settings_give_the_same_bytes(settings: Params) -> None:
    extract.main(settings)
    first = Path("data/extract/index.parquet").read_bytes()
    extract.main(settings)
    assert Path("data/extract/index.parquet").read_bytes() == first


def test_prefetch_writes_the_pixels_of_all_drawings(settings: Params) -> None:
    extract.main(settings.model_copy(update={"prefetch": True}))
    images = np.load("data/extract/images.npy", allow_pickle=False)
    expected = [noise(name, COUNTS[name])[row] for name, row in first_by_sorting(COUNTS, 200)]
    assert np.array_equal(images.reshape(200, 784), expected)


def test_a_relative_folder_starts_at_the_root_of_the_repository(
    settings: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    extract.main(settings)
    assert len(pd.read_parquet("data/extract/index.parquet")) == 200


def truncate() -> None:
    file = Path("drawings/bee.npy")
    file.write_bytes(file.read_bytes()[:-100])


def write_pickle() -> None:
    np.save("drawings/bee.npy", np.array([{"code": "run"}]), allow_pickle=True)


def write_wrong_shape() -> None:
    np.save("drawings/bee.npy", np.zeros((3, 28, 280), np.uint8))


def write_wrong_type() -> None:
    np.save("drawings/bee.npy", np.zeros((3, 784), np.float32))


def remove_folder() -> None:
    Path("drawings").rename("elsewhere")


def empty_files() -> None:
    for name in COUNTS:
        np.save(f"drawings/{name}.npy", np.empty((0, 784), np.uint8))


def do_nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("damage", "changes", "code", "message"),
    [
        (empty_files, {}, 1, "source: it holds no drawings"),
        (do_nothing, {"source": "~nosuchuser/x"}, 2, "source: ~nosuchuser/x is in the home folder of an unknown user"),
        (remove_folder, {}, 1, "source: the folder drawings does not exist"),
        (truncate, {}, 1, "source: drawings/bee.npy is cut short: 94,108 bytes, where its header says 120 drawings"),
        (write_pickle, {}, 1, "source: drawings/bee.npy holds pickled objects"),
        (write_wrong_shape, {}, 1, "source: drawings/bee.npy has the shape (3, 28, 280); drawings are (N, height, "),
        (write_wrong_type, {}, 1, "source: drawings/bee.npy holds values of type <f4; drawings are uint8"),
    ],
)  # fmt: skip
def test_an_input_that_cannot_be_used_is_a_one_line_error(
    settings: Params,
    damage: Callable[[], None],
    changes: dict[str, object],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(Path(), settings.model_copy(update=changes).model_dump(mode="json"))
    damage()
    assert command.run(extract.main, extract.__doc__, []) == code
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {message}")
    assert printed.count("\n") == 1
    assert not list(Path().glob("data/*"))


def test_extract_and_filter_never_import_tensorflow(settings: Params) -> None:
    changes = {"classes": ("bee", "tree"), "prefetch": True}
    write(Path(), settings.model_copy(update=changes).model_dump(mode="json"))
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from stages import command, extract, filter\n"
        "for stage in (extract, filter): assert command.run(stage.main, '', []) == 0\n"
        "unwanted = {'tensorflow', 'tensorflow_datasets', 'dvc', 'prefect'}\n"
        "print(unwanted & {name.partition('.')[0] for name in sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
