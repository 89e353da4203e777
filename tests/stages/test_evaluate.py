"""The stage evaluate: likelihoods, the choice of drawings, and the tables."""

import math

import numpy as np
import pytest

from stages import evaluate as stage
from stages.common import progress
from stages.common.errors import StageError
from stages.metrics import catalogue, subsets
from stages.metrics.compute import Row
from stages.metrics.intervals import Estimate
from stages.outputs.dataset import Drawings
from stages.outputs.model import Model
from stages.pixelcnn import network, training
from stages.pixelcnn.likelihood import PixelBits
from tests.stages import models


def drawings(number: int) -> Drawings:
    """Drawings of all three classes with noise in the top left corner."""
    random = np.random.default_rng(number)
    images = np.zeros((number, 28, 28, 1), np.uint8)
    images[:, :6, :6] = random.integers(0, 256, (number, 6, 6, 1))
    labels = np.array([known.label for known in models.CLASSES], np.int16)[np.arange(number) % 3]
    return Drawings(images, labels, np.array(["?"] * number, object), np.ones(number, bool))


def test_bits_by_pixel_match_the_training_loss() -> None:
    trained = models.tiny()
    data = drawings(PixelBits.BATCH_SIZE + 3)
    bits = np.concatenate(list(stage.bits_by_pixel(trained, data, "drawings")))
    assert bits.shape == (PixelBits.BATCH_SIZE + 3, 28, 28)
    weights = network.kernels(trained.config, trained.weights)
    expected = training.bits_per_dim(trained.config, weights, data.images, trained.condition(data.labels))
    np.testing.assert_allclose(bits.mean(axis=(1, 2)), expected, rtol=1e-5)


def test_the_likelihood_is_measured_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = models.tiny()
    data = drawings(11)
    pixel_bits = np.concatenate(list(stage.bits_by_pixel(trained, data, "drawings")))
    monkeypatch.setattr(stage, "MEASURED_DRAWINGS", 4)
    bits, class_bits = stage.likelihood(trained, data, "drawings")
    np.testing.assert_array_equal(bits, pixel_bits.reshape(11, -1).mean(axis=1))
    expected = [pixel_bits[data.labels == known.label].mean(axis=0) for known in trained.classes]
    np.testing.assert_array_equal(class_bits, expected)


def test_bits_per_dim_are_divided_by_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = models.tiny()
    data = Drawings(np.zeros((2, 4, 4, 3), np.uint8), drawings(2).labels, np.array(["?"] * 2, object), np.ones(2, bool))
    monkeypatch.setattr(stage, "bits_by_pixel", lambda *_: iter([np.full((2, 4, 4), 6.0)]))
    bits, _ = stage.likelihood(trained, data, "drawings")
    assert bits.tolist() == [2.0, 2.0]


def test_a_model_or_samples_of_another_shape_are_rejected() -> None:
    stage.check_shapes((8, 8, 3), (8, 8, 3), (8, 8, 3))
    with pytest.raises(StageError, match=r"data/train is of drawings of shape \(8, 8, 1\).*run the stage train again"):
        stage.check_shapes((8, 8, 3), (8, 8, 1), (8, 8, 1))
    with pytest.raises(StageError, match=r"data/sample is of .* not \(8, 8, 3\): run the stage sample again"):
        stage.check_shapes((8, 8, 3), (8, 8, 3), (28, 28, 1))


@pytest.mark.parametrize("conditioning", ["one_hot", "label"])
def test_own_label_is_likeliest_matches_scoring_every_label(conditioning: str) -> None:
    trained = models.tiny(conditioning)
    # An untrained network barely depends on the condition.
    weights = {name: 30 * value if "condition" in name else value for name, value in trained.weights.items()}
    trained = Model(trained.config, trained.classes, conditioning, weights)
    data = drawings(9)
    bits = []
    for known in trained.classes:
        relabelled = Drawings(data.images, np.full_like(data.labels, known.label), data.names, data.heldout)
        bits.append(stage.likelihood(trained, relabelled, "drawings")[0])
    likeliest = np.array([known.label for known in trained.classes])[np.argmin(bits, axis=0)]
    correct = stage.own_label_is_likeliest(trained, data)
    assert correct.tolist() == (likeliest == data.labels).tolist()


def test_the_progress_says_what_is_counted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)
    trained = models.tiny()
    stage.likelihood(trained, drawings(4), "training drawings")
    assert "evaluate: likelihood: 4 of 4 training drawings (100%)" in capsys.readouterr().err
    stage.own_label_is_likeliest(trained, drawings(5))
    expected = "evaluate: likelihood: 15 of 15 pairs of 5 held-out drawings and 3 classes (100%)"
    assert expected in capsys.readouterr().err


def test_the_first_drawings_of_each_class_are_chosen() -> None:
    labels = np.array([5] * 10 + [3] * 2 + [9] * 10, np.int16)
    chosen = subsets.first_of_each_class(labels, 8)
    assert np.flatnonzero(chosen).tolist() == [0, 1, 2, 10, 11, 12, 13, 14]
    assert subsets.first_of_each_class(labels, 100).all()
    assert np.flatnonzero(subsets.first_of_each_class(labels, 2)).tolist() == [0, 10, 12]  # at least one per class


def test_drawings_are_chosen_with_the_class_proportions_of_others() -> None:
    labels = np.array([3, 5] * 100, np.int16)
    others = np.array([5] * 30 + [3] * 10, np.int16)
    chosen = np.flatnonzero(subsets.in_proportion(labels, others, 40))
    assert chosen.tolist() == sorted([*range(0, 20, 2), *range(1, 61, 2)])
    assert np.unique(labels[subsets.in_proportion(labels, others, 1)]).tolist() == [3, 5]
    assert subsets.in_proportion(labels, others, 1000).all()


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1)


ROWS = [
    Row("heldout_bits_per_dim", None, estimate(1.6123456789)),
    Row("heldout_bits_per_dim", 0, estimate(1.5)),
    Row("class_accuracy", None, estimate(0.45), 0.85),
    Row("class_accuracy", 0, estimate(0.5), 0.9),
    Row("class_accuracy", 1, estimate(0.4), 0.8),
    Row("mmd", None, Estimate(math.nan, math.nan, math.nan)),
    Row("ink_top", None, estimate(0.1)),
    Row("ink_top", 0, estimate(0.2)),
    Row("ink_top", 1, Estimate(math.nan, math.nan, math.nan)),
]


def test_the_summary_has_few_metrics_and_no_undefined_value() -> None:
    assert stage.summarise(ROWS) == {"heldout_bits_per_dim": 1.612346, "class_accuracy": 0.45}


def test_no_metric_of_the_summary_depends_on_the_number_of_generated() -> None:
    conditions = {metric: catalogue.conditions(metric) for metric in stage.SUMMARY_METRICS}
    assert conditions == {
        "heldout_bits_per_dim": ("heldout",),
        "class_accuracy": ("heldout", "judge"),
        "mmd": ("heldout", "judge"),
    }


def test_undefined_values_are_empty_in_the_tables() -> None:
    lines = stage.metric_rows(ROWS[2:], models.CLASSES)
    assert lines[0] == ["class_accuracy", "", "", "0.45", "0.35", "0.55", "0.85", "more"]
    assert lines[1] == ["class_accuracy", 26, "bee", "0.5", "0.4", "0.6", "0.9", "more"]
    assert lines[3] == ["mmd", "", "", "", "", "", "", "less"]
    header, body = stage.class_table(ROWS[2:], models.CLASSES[:2], np.array([0, 0, 1]))
    assert header == ["label", "name", "heldout_drawings", "class_accuracy", "ink_top"]
    assert body == [[26, "bee", 2, "0.5", "0.2"], [255, "sea turtle", 1, "0.4", ""]]
