"""Completions of held-out drawings: how sample draws them, and how evaluate measures them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import evaluate, sample
from stages.common.errors import SettingsError, StageError
from stages.inference.trained_model import TrainedModel
from stages.metrics import catalogue
from stages.metrics.completions import ScoredCompletions, measure
from stages.metrics.compute import Row
from stages.outputs import classifier, completions
from stages.outputs.completions import Completions
from stages.outputs.dataset import Drawings
from stages.outputs.samples import Settings
from tests.stages import models

TRAINED = models.tiny()


def drawings() -> Drawings:
    """Noise: four drawings of each class in mixed order, of which every second one is held out."""
    images = np.random.default_rng(0).integers(0, 256, (24, 28, 28, 1)).astype(np.uint8)
    labels = np.array([known.label for known in models.CLASSES], np.int16)[np.arange(24) // 2 % 3]
    return Drawings(images, labels, np.array(["?"] * 24, object), np.arange(24) % 2 == 1)


DATA = drawings()


def complete(rows: int, per_class: int = 2, **options: Any) -> Completions:
    return sample.complete(TRAINED, DATA, per_class, rows, **({"seed": 3} | options))


# --- Drawing them ---


@pytest.fixture(scope="module")
def half() -> Completions:
    return complete(sample.given_rows("half", 28))


def test_the_first_held_out_drawings_of_each_class_are_completed(half: Completions) -> None:
    assert half.rows == 14
    assert half.drawings.tolist() == [1, 7, 3, 9, 5, 11]
    assert half.images.shape == (6, 2, 28, 28, 1) and half.images.dtype == np.uint8
    given = DATA.images[half.drawings, np.newaxis]
    assert (half.images[:, :, :14] == given[:, :, :14]).all()
    assert (half.images[:, :, 14:] != given[:, :, 14:]).any(axis=(2, 3, 4)).all()
    assert (half.images[:, 0] != half.images[:, 1]).any(axis=(1, 2, 3)).all()


def test_without_a_given_row_they_are_the_samples_of_the_same_seed() -> None:
    options: dict[str, Any] = {"seed": 3, "temperature": 0.8, "guidance": 2.0}
    samples = sample.generate(TRAINED, 4, **options)
    assert complete(0, **options).images.tobytes() == samples.tobytes()


def test_with_all_rows_they_are_the_drawings() -> None:
    completed = complete(28)
    assert (completed.images == DATA.images[completed.drawings, np.newaxis]).all()


def test_they_are_those_of_the_model_in_use(half: Completions) -> None:
    loaded = TrainedModel(TRAINED, Settings(seed=3))
    for index, name in ((0, "bee"), (2, "sea turtle")):
        expected = loaded.complete(DATA.images[half.drawings[index]][np.newaxis], name, 2, rows=14)[0]
        assert half.images[index].tobytes() == expected.tobytes()


def test_one_does_not_depend_on_the_number_of_drawings(half: Completions) -> None:
    fewer = complete(14, per_class=1)
    assert fewer.drawings.tolist() == [1, 3, 5]
    assert fewer.images.tobytes() == half.images[::2].tobytes()
    assert complete(0, per_class=100).drawings.tolist() == [*range(1, 24, 6), *range(3, 24, 6), *range(5, 24, 6)]


def test_a_drawing_with_fewer_rows_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"^completion_rows is 29; expected: at most 28, the height of a drawing$"):
        sample.given_rows(29, 28)
    assert [sample.given_rows(rows, 28) for rows in (0, 28)] == [0, 28]
    assert [sample.given_rows("half", height) for height in (1, 28, 33)] == [0, 14, 16]


# --- Their files ---


def test_they_are_read_as_they_were_written(half: Completions, tmp_path: Path) -> None:
    assert completions.read(DATA, tmp_path) is None
    completions.write(tmp_path, half)
    loaded = completions.read(DATA, tmp_path)
    assert loaded is not None and (loaded.rows, loaded.describe()) == (14, "14 rows of 6")
    assert loaded.drawings.tolist() == half.drawings.tolist()
    assert loaded.images.tobytes() == half.images.tobytes()


def given(**values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / completions.GIVEN
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (given(rows=29), "it has 29 rows"),
        (given(rows=15), "its drawings have other upper rows"),
        (given(drawings=[]), r"it has 14 rows of an array of \(0,\) drawings"),
        (given(drawings=[1, 7, 3, 9, 5]), r"completions.npy has the shape \(6, 2, 28, 28, 1\)"),
        (given(drawings=[0, 7, 3, 9, 5, 11]), "its drawings are not held out"),
        (given(drawings=[24, 7, 3, 9, 5, 11]), "its drawings are not held out"),
        (given(drawings=[-1, 7, 3, 9, 5, 11]), "its drawings are not held out"),
        (given(drawings=[7, 1, 3, 9, 5, 11]), "its drawings have other upper rows"),
        (given(drawings=[1e30]), ""),
        (lambda folder: (folder / completions.GIVEN).write_text("[]"), ""),
        (lambda folder: (folder / completions.GIVEN).write_text("{"), ""),
        (lambda folder: (folder / completions.IMAGES).unlink(), ""),
        (lambda folder: (folder / completions.IMAGES).write_bytes(b"PNG"), ""),
    ],
)
def test_files_that_cannot_be_used_are_an_error(
    half: Completions, tmp_path: Path, change: Callable[[Path], object], reason: str
) -> None:
    completions.write(tmp_path, half)
    change(tmp_path)
    with pytest.raises(StageError, match=rf"cannot be used \({reason}.*\): run the stage sample again$"):
        completions.read(DATA, tmp_path)


# --- Measuring them ---


def scored(rows: int = 14, **values: Any) -> ScoredCompletions:
    """Two white drawings, each with a completion that is right and one whose lower rows are blank."""
    real = np.full((2, 28, 28, 1), 255, np.uint8)
    completed = np.stack([real, real], axis=1)
    completed[:, 1, rows:] = 0
    bits = np.ones((2, 28, 28))
    bits[:, rows:] = 3
    arrays: dict[str, Any] = {
        "real": real,
        "completed": completed,
        "real_bits": bits,
        "completed_bits": np.stack([bits, 2 * bits], axis=1),
        "class_indices": np.array([0, 1]),
        "real_predicted": np.array([0, 1]),
        "upper_predicted": np.array([1, 1]),
        "completed_predicted": np.array([[0, 1], [1, 1]]),
    }
    return ScoredCompletions(rows, **(arrays | values))


def values(completed: ScoredCompletions) -> dict[str, tuple[float, float]]:
    return {row.metric: (row.estimate.value, row.reference) for row in measure(completed)}


def test_the_metrics_have_the_values_of_their_definitions() -> None:
    distance = np.sqrt(14 * 28)
    assert values(scored()) == {
        "completion_accuracy": (0.75, 1.0),
        "upper_rows_accuracy": (0.5, 1.0),
        "completion_bits_per_dim": (3.0, 4.5),
        "completion_distance": (pytest.approx(distance), pytest.approx(distance / 2)),
    }
    assert values(scored()).keys() == catalogue.COMPLETED


def test_bits_are_per_channel() -> None:
    colour: dict[str, Any] = {name: np.repeat(getattr(scored(), name), 3, axis=-1) for name in ("real", "completed")}
    assert values(scored(**colour))["completion_bits_per_dim"] == (1.0, 1.5)


def test_with_all_rows_nothing_is_drawn_that_has_bits_or_varies() -> None:
    assert values(scored(28)).keys() == {"completion_accuracy", "upper_rows_accuracy"}


def test_two_completions_of_a_drawing_are_no_more_certain_than_one() -> None:
    predicted = np.array([[0, 0], [0, 0]])
    row = next(row for row in measure(scored(completed_predicted=predicted)) if row.metric == "completion_accuracy")
    upper = next(row for row in measure(scored(upper_predicted=predicted[0])) if row.metric == "upper_rows_accuracy")
    assert row.estimate == upper.estimate


def test_they_are_compared_only_between_runs_that_have_completed_the_same() -> None:
    assert catalogue.conditions("completion_accuracy") == ("heldout", "judge", "completed")
    assert catalogue.conditions("completion_bits_per_dim") == ("heldout", "completed")


class Judge:
    """Predicts the class that it is told of a drawing, and the first class of any other."""

    classes = models.CLASSES

    def __init__(self, told: dict[bytes, int]) -> None:
        self._told = told

    def predict(self, images: Any) -> classifier.Predictions:
        predicted = [self._told.get(image.tobytes(), 0) for image in images]
        return classifier.Predictions(np.eye(3)[predicted], np.zeros((len(images), 1)))


def test_evaluate_measures_whole_drawings_their_upper_rows_and_their_completions(half: Completions) -> None:
    classes = np.array([0, 0, 1, 1, 2, 2])
    told = dict(zip([DATA.images[row].tobytes() for row in half.drawings], classes, strict=True))
    told |= dict(zip([image.tobytes() for image in half.images[:, 0]], classes, strict=True))
    told |= dict(zip([image.tobytes() for image in half.images[:, 1]], (classes + 1) % 3, strict=True))
    judge: Any = Judge(told)
    rows: dict[str, Row] = {row.metric: row for row in evaluate.measure_completions(TRAINED, judge, DATA, half)}
    assert rows["completion_accuracy"].estimate.value == 0.5, "the first of each two"
    assert rows["completion_accuracy"].reference == 1.0
    assert rows["upper_rows_accuracy"].estimate.value == pytest.approx(1 / 3), "the first class"
    loaded = TrainedModel(TRAINED, Settings())
    names = ("bee", "bee", "sea turtle", "sea turtle", "tree", "tree")
    bits = [loaded.bits_by_pixel(DATA.images[[row]], name) for row, name in zip(half.drawings, names, strict=True)]
    drawn = [loaded.bits_by_pixel(images, name) for images, name in zip(half.images, names, strict=True)]
    row = rows["completion_bits_per_dim"]
    assert row.estimate.value == pytest.approx(np.mean([each[:, 14:] for each in bits]), rel=1e-5)
    assert row.reference == pytest.approx(np.mean([each[:, 14:] for each in drawn]), rel=1e-5)


# --- The stages ---


@pytest.mark.slow
def test_the_stages_write_them_and_leave_other_outputs_as_they_are(
    full_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.stages import tiny_run

    settings = tiny_run.settings(full_run)
    monkeypatch.chdir(tmp_path)
    for name in ("extract", "filter", "train", "sample", "judge", "evaluate"):
        tiny_run.STAGES[name].main(settings)
    summary = json.loads(Path("reports/metrics.json").read_text())
    assert summary["completed"] == "14 rows of 6"
    table = Path("reports/metrics.csv").read_text().splitlines()
    measured = [line for line in table if line.partition(",")[0] in catalogue.COMPLETED]
    assert len(measured) == 4 and table[-4:] == measured
    before = {path: path.read_bytes() for folder in ("data", "reports") for path in Path(folder).rglob("*.*")}
    shutil.rmtree("data/sample")
    without = settings.model_copy(update={"completions_per_class": 0})
    for name in ("sample", "evaluate"):
        tiny_run.STAGES[name].main(without)
    after = {path: path.read_bytes() for folder in ("data", "reports") for path in Path(folder).rglob("*.*")}
    assert before.keys() - after.keys() == {Path("data/sample/completions.npy"), Path("data/sample/completions.json")}
    assert {str(path) for path in after if after[path] != before[path]} == {
        "reports/metrics.json",
        "reports/metrics.csv",
    }
    assert Path("reports/metrics.csv").read_text().splitlines() == table[:-4]
    assert json.loads(Path("reports/metrics.json").read_text()) == {
        k: v for k, v in summary.items() if k != "completed"
    }
