from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from stages import command, extract, params
from stages import filter as stage
from stages.common.errors import StageError
from stages.params import Params
from stages.quickdraw.mirrors import Folder
from tests.settings import write
from tests.stages.drawings import COUNTS, first_by_sorting, make_mirror, noise


@pytest.fixture
def settings(full_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings for a small mirror; extract has run in the current folder, a temporary one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    make_mirror(tmp_path / "drawings")
    settings = full_run.model_copy(update={"source": "drawings", "num_drawings": 200, "classes": ("tree", "bee")})
    extract.main(settings)
    return settings


def read() -> tuple[pd.DataFrame, npt.NDArray[np.uint8]]:
    return pd.read_parquet("data/filter/drawings.parquet"), np.load("data/filter/images.npy", allow_pickle=False)


def test_the_drawings_and_pixels_of_the_chosen_classes_are_in_the_order_of_the_index(settings: Params) -> None:
    stage.main(settings)
    drawings, images = read()
    keys = enumerate(first_by_sorting(COUNTS, 200))
    expected = [(position, name, row) for position, (name, row) in keys if name in ("bee", "tree")]
    assert list(drawings[["position", "name", "row"]].itertuples(index=False, name=None)) == expected
    assert set(zip(drawings["name"], drawings["label"], strict=True)) == {("bee", 26), ("tree", 323)}
    assert np.array_equal(images, [noise(name, COUNTS[name])[row].reshape(28, 28, 1) for _, name, row in expected])
    assert drawings.dtypes.astype(str).to_dict() == {
        "position": "int64",
        "label": "int16",
        "name": "category",
        "row": "int32",
        "heldout": "bool",
    }


def test_prefetched_pixels_are_used_and_are_identical(settings: Params) -> None:
    stage.main(settings)
    before = read()
    extract.main(settings.model_copy(update={"prefetch": True}))
    Path("drawings").rename("elsewhere")
    stage.main(settings)
    assert read()[0].equals(before[0])
    assert np.array_equal(read()[1], before[1])


def drawings(*names: str) -> pd.DataFrame:
    return pd.DataFrame({"position": range(len(names)), "name": pd.Categorical(names)})


@pytest.mark.parametrize(
    ("share", "number", "expected"),
    [
        (0.1, 30, [9, 19, 29]),
        (0.5, 6, [1, 3, 5]),
        (0.25, 9, [3, 7]),
        (0.3, 10, [3, 6, 9]),
        (0.1, 9, [8]),  # fewer than ten: the last one
        (0.5, 2, [1]),
        (0.01, 2, [1]),
    ],
)
def test_every_nth_drawing_of_a_class_is_held_out(share: float, number: int, expected: list[int]) -> None:
    table = drawings(*["bee"] * number)
    assert np.flatnonzero(stage.choose_heldout(table, share)).tolist() == expected


def test_each_class_is_held_out_separately() -> None:
    table = drawings("bee", "tree", "tree", "bee", "tree", "tree", "bee")
    assert np.flatnonzero(stage.choose_heldout(table, 0.5)).tolist() == [2, 3, 5]


def test_more_drawings_and_classes_do_not_change_which_drawings_are_held_out(settings: Params) -> None:
    stage.main(settings)
    few = read()[0]
    more = settings.model_copy(update={"num_drawings": 400, "classes": ("bee", "tree", "zorro")})
    extract.main(more)
    stage.main(more)
    both = few.merge(read()[0], on=["name", "row"], suffixes=("", "_more"))
    assert len(both) == len(few)
    assert (both["heldout"] == both["heldout_more"]).all()


CHOOSE = (
    "It has 'bee', 'sea turtle', 'The Eiffel Tower', 'tree', 'abacus' and 'zorro'. Choose from its classes: "
    "make run SET='classes=[bee, sea turtle]', or -S 'classes=[bee, sea turtle]'"
)


@pytest.mark.parametrize(
    ("classes", "number", "message"),
    [
        (("bee", "zoro"), 200, f"'zoro' is not a class of the source. Did you mean 'zorro'? {CHOOSE}"),
        (("bee", "airplane"), 200, f"'airplane' is not a class of the source. {CHOOSE}"),
        (("sun", "bee", "zoro", "cat"), 200, "'sun', 'zoro' and 'cat' are not classes of the source. "
                                             f"Did you mean 'zorro'? {CHOOSE}"),
        (("abacus",), 2, "the index of 2 drawings has 0 of 'abacus'; expected: at least 2 of each class; raise "
                         "num_drawings (the source has 30 of 'abacus' in 460 drawings)"),
        (("abacus", "tree", "sun"), 1, f"'sun' is not a class of the source. {CHOOSE}. Also, the index of 1 drawing "
                                       "has 0 of 'abacus', 0 of 'tree'; expected: at least 2 of each class; raise "
                                       "num_drawings (the source has 30 of 'abacus', 110 of 'tree' in 460 drawings)"),
    ],
)  # fmt: skip
def test_a_class_without_enough_drawings_is_a_one_line_error(
    settings: Params, classes: tuple[str, ...], number: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings.model_copy(update={"classes": classes, "num_drawings": number})
    extract.main(settings)
    write(Path(), settings.model_dump(mode="json"))
    assert command.run(stage.main, stage.__doc__, []) == 1
    assert capsys.readouterr().err == f"error: classes: {message}\n"
    assert not Path("data/filter").exists()


def test_one_drawing_of_a_class_is_not_enough(settings: Params) -> None:
    index = pd.DataFrame({"name": pd.Categorical(["bee", "tree", "tree"])})
    with pytest.raises(StageError, match="the index of 3 drawings has 1 of 'bee'; expected: at least 2"):
        stage.check_classes(("tree", "bee"), index, Folder(Path("drawings")))


def test_a_class_of_one_drawing_needs_more_drawings_in_the_mirror(settings: Params, tmp_path: Path) -> None:
    mirror = Folder(make_mirror(tmp_path / "small", {"bee": 1, "tree": 5, "sun": 0}))
    index = pd.DataFrame({"name": pd.Categorical(["bee", "tree", "tree", "tree", "tree", "tree"])})
    message = "^classes: the source has 1 of 'bee', 0 of 'sun'; expected: at least 2 of each class; add drawings, or"
    with pytest.raises(StageError, match=message):
        stage.check_classes(("tree", "bee", "sun"), index, mirror)


@pytest.mark.parametrize(
    ("names", "example"),
    [
        (["cat", "my dog"], "[cat, my dog]"),
        (["1", "2"], '["1", "2"]'),
        (["true", "a, b"], '["a, b", "true"]'),
    ],
)
def test_the_example_of_classes_is_a_setting_that_works(
    settings: Params, tmp_path: Path, names: list[str], example: str
) -> None:
    mirror = Folder(make_mirror(tmp_path / "own", dict.fromkeys(names, 3)))
    with pytest.raises(StageError) as caught:
        stage.check_classes(("grandmother",), pd.DataFrame({"name": pd.Categorical([])}), mirror)
    assert f"-S 'classes={example}'" in str(caught.value)
    assert params.parse(f"classes: {example}", "")["classes"] == sorted(names)


@pytest.mark.parametrize("prefetch", [False, True])
def test_drawings_that_nothing_can_learn_from_are_a_one_line_error(
    settings: Params, prefetch: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bee", "tree"):
        np.save(f"drawings/{name}.npy", noise(name, COUNTS[name]) // 255)
    extract.main(settings.model_copy(update={"prefetch": prefetch}))
    write(Path(), settings.model_dump(mode="json"))
    assert command.run(stage.main, stage.__doc__, []) == 1
    assert capsys.readouterr().err == (
        "error: source: no pixel of all classes is above 1, where paper is 0 and ink is 255; convert the files: "
        "python -m pipeline import WHAT FOLDER\n"
    )
    assert not Path("data/filter").exists()


def test_suspicious_drawings_are_a_warning_and_are_written_unchanged(
    settings: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage, "BLOCK", 7)
    inverted = 255 - noise("tree", COUNTS["tree"]) // 4
    np.save("drawings/tree.npy", inverted)
    np.save("drawings/bee.npy", noise("bee", COUNTS["bee"]) // 4)
    stage.main(settings)
    table, images = read()
    chosen = (table["name"] == "tree").to_numpy()
    assert np.array_equal(images[chosen].reshape(-1, 784), inverted[table["row"].to_numpy()[chosen]])
    messages = capsys.readouterr().err.splitlines()
    assert [message for message in messages if message.startswith("WARNING")] == [
        "WARNING: source: 100% of the paper of 'tree' is ink, and people's drawings have 5% to 29%; if they are dark "
        "on light, invert them: python -m pipeline import WHAT FOLDER --invert"
    ]


def test_pictures_in_colour_are_learned_from_as_they_are(settings: Params) -> None:
    colours = {name: np.random.default_rng(7).integers(200, 256, (30, 20, 36, 3), np.uint8) for name in ("cat", "dog")}
    colours["dog"] -= 1
    Path("mine").mkdir()
    for name, array in colours.items():
        np.save(f"mine/{name}.npy", array)
    for prefetch in (False, True):
        own = settings.model_copy(update={"source": "mine", "classes": ("cat", "dog"), "prefetch": prefetch})
        extract.main(own)
        stage.main(own)
        table, images = read()
        assert np.array_equal(
            images, [colours[name][row] for name, row in zip(table["name"], table["row"], strict=True)]
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_eight_drawings_of_each_class_are_in_a_sheet(settings: Params, channels: int) -> None:
    random = np.random.default_rng(0)
    colours = {name: random.integers(200, 256, (number, 20, 36, channels), np.uint8) for name, number in
               {"cat": 30, "dog": 5}.items()}  # fmt: skip
    if channels == 1:
        colours = {name: array - 200 for name, array in colours.items()}
    Path("mine").mkdir()
    for name, array in colours.items():
        np.save(f"mine/{name}.npy", array)
    own = settings.model_copy(update={"source": "mine", "classes": ("dog", "cat")})
    extract.main(own)
    stage.main(own)
    table, images = read()
    file = Path("reports/drawings.png")
    sheet = np.asarray(Image.open(file))
    assert sheet.shape == (2 * 2 * 22, 2 * 8 * 38, 3)[: 2 if channels == 1 else 3]
    tiles = sheet.reshape(2, 44, 8, 76, channels).swapaxes(1, 2)[:, :, 2:-2:2, 2:-2:2]
    for row, name in zip(tiles, ("dog", "cat"), strict=True):
        expected = images[(table["name"] == name).to_numpy()][:8]
        assert np.array_equal(row[: len(expected)], expected)
        assert not row[len(expected) :].any()
    before = file.read_bytes()
    stage.main(own)
    assert file.read_bytes() == before


def test_filter_before_extract_is_a_one_line_error(settings: Params, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/extract/index.parquet").unlink()
    write(Path(), settings.model_dump(mode="json"))
    assert command.run(stage.main, stage.__doc__, []) == 1
    assert capsys.readouterr().err == "error: data/extract/index.parquet is missing: run the stage extract first\n"


def test_the_pixels_of_real_drawings_are_unchanged(
    settings: Params, real_mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.model_copy(update={"source": str(real_mirror), "num_drawings": 2000, "classes": ("bee", "sun")})
    extract.main(settings)
    stage.main(settings)
    table, images = read()
    for name in ("bee", "sun"):
        mirror_pixels = np.load(real_mirror / f"{name}.npy", allow_pickle=False)
        chosen = (table["name"] == name).to_numpy()
        assert chosen.any()
        assert np.array_equal(images[chosen].reshape(-1, 784), mirror_pixels[table["row"].to_numpy()[chosen]])
