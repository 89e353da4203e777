"""The stage evaluate: what it asks the model and the judge, and what it writes of it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stages import evaluate as stage
from stages.drawings import Drawings
from stages.errors import StageError
from stages.measures.intervals import Estimate
from stages.measures.table import Row
from stages.model import Model
from stages.params import Params
from stages.pixelcnn import network, training
from tests.stages import models


def drawings(number: int) -> Drawings:
    """Noise in the corner, of all three classes."""
    random = np.random.default_rng(number)
    images = np.zeros((number, 28, 28, 1), np.uint8)
    images[:, :6, :6] = random.integers(0, 256, (number, 6, 6, 1))
    labels = np.array([known.label for known in models.CLASSES], np.int16)[np.arange(number) % 3]
    return Drawings(images, labels, np.array(["?"] * number, object), np.ones(number, bool))


def test_bits_by_pixel_are_those_of_training() -> None:
    trained = models.tiny()
    data = drawings(stage.BATCH + 3)
    bits = stage.bits_by_pixel(trained, data)
    assert bits.shape == (stage.BATCH + 3, 28, 28)
    weights = network.kernels(trained.config, trained.weights)
    expected = training.bits_per_dim(trained.config, weights, data.images, trained.condition(data.labels))
    np.testing.assert_allclose(bits.mean(axis=(1, 2)), expected, rtol=1e-5)


@pytest.mark.parametrize("conditioning", ["one_hot", "label"])
def test_a_label_is_used_where_its_own_is_the_likeliest(conditioning: str) -> None:
    trained = models.tiny(conditioning)
    # An untrained network hears its condition faintly.
    weights = {name: 30 * value if "condition" in name else value for name, value in trained.weights.items()}
    trained = Model(trained.config, trained.classes, conditioning, weights)
    data = drawings(9)
    bits = []
    for known in trained.classes:
        as_if = Drawings(data.images, np.full_like(data.labels, known.label), data.names, data.heldout)
        bits.append(stage.bits_by_pixel(trained, as_if))
    likeliest = np.array([known.label for known in trained.classes])[np.mean(bits, axis=(2, 3)).argmin(axis=0)]
    used = stage.uses_label(trained, data)
    assert used.tolist() == (likeliest == data.labels).tolist()


def test_drawings_are_spread_over_the_classes() -> None:
    labels = np.array([5] * 10 + [3] * 2 + [9] * 10, np.int16)
    chosen = stage.spread(labels, 8)
    assert np.flatnonzero(chosen).tolist() == [0, 1, 2, 10, 11, 12, 13, 14]
    assert stage.spread(labels, 100).all()
    assert np.flatnonzero(stage.spread(labels, 2)).tolist() == [0, 10, 12]  # no class is left out


def test_drawings_are_chosen_in_the_proportion_of_others() -> None:
    labels = np.array([3, 5] * 100, np.int16)
    others = np.array([5] * 30 + [3] * 10, np.int16)
    chosen = np.flatnonzero(stage.in_proportion(labels, others, 40))
    assert chosen.tolist() == sorted([*range(0, 20, 2), *range(1, 61, 2)])
    assert np.unique(labels[stage.in_proportion(labels, others, 1)]).tolist() == [3, 5]
    assert stage.in_proportion(labels, others, 1000).all()


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1)


ROWS = [
    Row("fidelity", None, estimate(0.45), 0.85),
    Row("fidelity", 0, estimate(0.5), 0.9),
    Row("fidelity", 1, estimate(0.4), 0.8),
    Row("kernel_distance", None, Estimate(math.nan, math.nan, math.nan)),
    Row("ink_top", None, estimate(0.1)),
    Row("ink_top", 0, estimate(0.2)),
    Row("ink_top", 1, Estimate(math.nan, math.nan, math.nan)),
]


def test_the_metrics_are_few_and_all_of_them_numbers() -> None:
    expected = {"fidelity": 0.45, "judge_accuracy": 0.85, "classes_named": 1, "heldout_drawings": 7}
    assert stage.metrics(ROWS, 7) == expected


def test_the_tables_have_what_could_be_measured() -> None:
    lines = stage.lines(ROWS, models.CLASSES)
    assert lines[0] == ["fidelity", "", "", "0.45", "0.35", "0.55", "0.85", "more"]
    assert lines[1] == ["fidelity", 26, "bee", "0.5", "0.4", "0.6", "0.9", "more"]
    assert lines[3] == ["kernel_distance", "", "", "", "", "", "", "less"]
    header, body = stage.by_class(ROWS, models.CLASSES[:2], np.array([0, 0, 1]))
    assert header == ["label", "name", "heldout_drawings", "fidelity", "ink_top"]
    assert body == [[26, "bee", 2, "0.5", "0.2"], [255, "sea turtle", 1, "0.4", ""]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "data/sample/samples.npy is not there: run the stage sample first"),
        (b"", "data/sample/samples.npy cannot be read (.*): run the stage sample again"),
        (np.zeros((2, 4, 28, 28, 1), np.uint8), r"of shape \(2, 4, 28, 28, 1\), not uint8 of \(2, 5, .* or more"),
        (np.zeros((3, 5, 28, 28, 1), np.uint8), r"not uint8 of \(2, 5, .* or more: run the stage sample again"),
        (np.zeros((2, 5, 28, 28, 1)), "holds float64"),
        (np.zeros(3, np.uint8), r"holds uint8 of shape \(3,\)"),
    ],
)
def test_samples_that_cannot_be_measured(
    content: bytes | npt.NDArray[Any] | None,
    said: str,
    full_run: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    stage.SAMPLES.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        stage.SAMPLES.write_bytes(content)
    elif content is not None:
        np.save(stage.SAMPLES, content)
    settings = full_run.model_copy(update={"classes": ("bee", "tree"), "eval_samples_per_class": 5})
    with pytest.raises(StageError, match=said):
        stage.read_samples(settings)


def test_the_first_samples_are_measured_where_there_are_more(
    full_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage.SAMPLES.parent.mkdir(parents=True)
    samples = np.arange(2 * 8 * 784).astype(np.uint8).reshape(2, 8, 28, 28, 1)
    np.save(stage.SAMPLES, samples)
    settings = full_run.model_copy(update={"classes": ("bee", "tree"), "eval_samples_per_class": 5})
    np.testing.assert_array_equal(stage.read_samples(settings), samples[:, :5])
