from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from stages import command, extract
from stages import filter as stage
from stages.common.errors import StageError
from stages.params import Params
from stages.quickdraw.mirrors import Folder
from tests.settings import write
from tests.stages.drawings import COUNTS, first_by_sorting, make_mirror, noise


@pytest.fixture
def settings(full_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings for a small mirror, in a folder that is the current one; extract has run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    make_mirror(tmp_path / "mirror")
    settings = full_run.model_copy(update={"mirror": "mirror", "num_drawings": 200, "classes": ("tree", "bee")})
    extract.main(settings)
    return settings


def read() -> tuple[pd.DataFrame, npt.NDArray[np.uint8]]:
    return pd.read_parquet("data/filter/drawings.parquet"), np.load("data/filter/images.npy", allow_pickle=False)


def test_the_chosen_classes_with_their_pixels_in_the_order_of_the_index(settings: Params) -> None:
    stage.main(settings)
    drawings, images = read()
    kept = [(place, *key) for place, key in enumerate(first_by_sorting(COUNTS, 200)) if key[0] in ("bee", "tree")]
    assert list(drawings[["position", "name", "row"]].itertuples(index=False, name=None)) == kept
    assert set(zip(drawings["name"], drawings["label"], strict=True)) == {("bee", 26), ("tree", 323)}
    assert np.array_equal(images, [noise(name, COUNTS[name])[row].reshape(28, 28, 1) for _, name, row in kept])
    assert drawings.dtypes.astype(str).to_dict() == {
        "position": "int64",
        "label": "int16",
        "name": "category",
        "row": "int32",
        "heldout": "bool",
    }


def test_prefetched_pixels_are_used_and_are_the_same(settings: Params) -> None:
    stage.main(settings)
    before = read()
    extract.main(settings.model_copy(update={"prefetch": True}))
    Path("mirror").rename("elsewhere")
    stage.main(settings)
    assert read()[0].equals(before[0])
    assert np.array_equal(read()[1], before[1])


def drawings(*names: str) -> pd.DataFrame:
    return pd.DataFrame({"position": range(len(names)), "name": pd.Categorical(names)})


@pytest.mark.parametrize(
    ("share", "number", "held"),
    [
        (0.1, 30, [9, 19, 29]),
        (0.5, 6, [1, 3, 5]),
        (0.25, 9, [3, 7]),
        (0.3, 10, [3, 6, 9]),
        (0.1, 9, [8]),  # too few for a tenth: the last
        (0.5, 2, [1]),
        (0.01, 2, [1]),
    ],
)
def test_every_tenth_of_a_class_is_held_out(share: float, number: int, held: list[int]) -> None:
    table = drawings(*["bee"] * number)
    assert np.flatnonzero(stage.choose_heldout(table, share)).tolist() == held


def test_classes_are_held_out_each_for_itself() -> None:
    table = drawings("bee", "tree", "tree", "bee", "tree", "tree", "bee")
    assert np.flatnonzero(stage.choose_heldout(table, 0.5)).tolist() == [2, 3, 5]


def test_more_drawings_and_more_classes_leave_the_held_out_where_they_were(settings: Params) -> None:
    stage.main(settings)
    few = read()[0]
    more = settings.model_copy(update={"num_drawings": 400, "classes": ("bee", "tree", "zorro")})
    extract.main(more)
    stage.main(more)
    both = few.merge(read()[0], on=["name", "row"], suffixes=("", "_more"))
    assert len(both) == len(few)
    assert (both["heldout"] == both["heldout_more"]).all()


@pytest.mark.parametrize(
    ("classes", "number", "says"),
    [
        (("bee", "zoro"), 200, "classes: the mirror holds no 'zoro'. Did you mean 'zorro'?"),
        (("bee", "airplane"), 200, "classes: the mirror holds no 'airplane'."),
        (("abacus",), 2, "classes: there is no drawing of 'abacus' among the first 2, and two are needed; raise "
                         "num_drawings (the mirror holds 30 of 460)"),
    ],
)  # fmt: skip
def test_a_class_that_is_not_there_is_one_line(
    settings: Params, classes: tuple[str, ...], number: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings.model_copy(update={"classes": classes, "num_drawings": number})
    extract.main(settings)
    write(Path(), settings.model_dump(mode="json"))
    assert command.run(stage.main, stage.__doc__, []) == 1
    assert capsys.readouterr().err == f"error: {says}\n"
    assert not Path("data/filter").exists()


def test_a_single_drawing_of_a_class_is_too_few(settings: Params) -> None:
    index = pd.DataFrame({"name": pd.Categorical(["bee", "tree", "tree"])})
    with pytest.raises(StageError, match="there is one drawing of 'bee' among the first 3"):
        stage.check_classes(("tree", "bee"), index, Folder(Path("mirror")))


def test_filter_before_extract_is_one_line(settings: Params, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/extract/index.parquet").unlink()
    write(Path(), settings.model_dump(mode="json"))
    assert command.run(stage.main, stage.__doc__, []) == 1
    assert capsys.readouterr().err == "error: data/extract/index.parquet is not there: run the stage extract first\n"


def test_a_pixel_of_a_real_drawing_stays_where_it_was(
    settings: Params, real_mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.model_copy(update={"mirror": str(real_mirror), "num_drawings": 2000, "classes": ("bee", "sun")})
    extract.main(settings)
    stage.main(settings)
    table, images = read()
    for name in ("bee", "sun"):
        there = np.load(real_mirror / f"{name}.npy", allow_pickle=False)
        chosen = (table["name"] == name).to_numpy()
        assert chosen.sum() > 10
        assert np.array_equal(images[chosen].reshape(-1, 784), there[table["row"].to_numpy()[chosen]])
