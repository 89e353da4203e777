"""Metrics on inputs with a known answer: equal sets, shuffled labels, copies, noise, a missing class."""

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats

from stages.metrics import compute, features, intervals, pixels, subsets
from stages.metrics.catalogue import ALIKE, COMPLETED, LESS, METRICS, MORE
from stages.metrics.compute import Row, ScoredDrawings, Scores

CLASSES, PER_CLASS, DIMENSIONS = 4, 60, 8


def normal(number: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(shift, scale, (number, DIMENSIONS))


# --- Features ---


def test_the_frechet_distance_of_known_distributions() -> None:
    real = normal(20_000, 0)
    assert features.frechet_distance(real, real) == pytest.approx(0, abs=1e-8)
    assert features.frechet_distance(real, real + 3) == pytest.approx(9 * DIMENSIONS)
    # Between N(0, 1) and N(0, 4) in each dimension: (2 - 1)².
    assert features.frechet_distance(real, normal(20_000, 1, scale=2)) == pytest.approx(DIMENSIONS, rel=0.03)


def test_the_mmd_is_unbiased() -> None:
    estimates = [features.mmd(normal(40, 2 * seed), normal(40, 2 * seed + 1)) for seed in range(12)]
    values = np.array([estimate.value for estimate in estimates])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
    assert np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates]) >= 0.75
    assert features.mmd(normal(40, 0), normal(40, 1, shift=1)).low > 0


def test_the_mmd_is_the_mean_kernel_over_pairs() -> None:
    real, generated = normal(5, 0), normal(4, 1)

    def kernel(x: Any, y: Any) -> Any:
        return (x @ y / DIMENSIONS + 1) ** 3

    def mean_off_diagonal(vectors: Any) -> Any:
        return np.mean([kernel(x, y) for i, x in enumerate(vectors) for j, y in enumerate(vectors) if i != j])

    between = np.mean([kernel(x, y) for x in real for y in generated])
    expected = mean_off_diagonal(real) + mean_off_diagonal(generated) - 2 * between
    assert features.mmd(real, generated).value == pytest.approx(expected)


def test_large_sets_are_subsampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MAX_DRAWINGS", 30)
    classes = np.repeat(np.arange(3), 100)
    assert np.bincount(features.subsample(classes)).tolist() == [10, 10, 10]
    assert features.subsample(classes[:30]).tolist() == [0] * 30
    real, generated = normal(300, 0), normal(300, 1)
    assert features.mmd(real, generated) == features.mmd(real[::10], generated[::10])
    assert features.neighbourhoods(real, generated).precision.tolist() == (
        features.neighbourhoods(real[::10], generated[::10]).precision.tolist()
    )


def test_the_design_effects_of_neighbourhood_scores_match_a_simulation() -> None:
    """The means of 200 pairs of sets vary more than independent scores would."""
    pairs = [(normal(100, 2 * seed), normal(100, 2 * seed + 1)) for seed in range(200)]
    for name in features.Neighbourhoods._fields:
        scores = np.array([getattr(features.neighbourhoods(*pair), name) for pair in pairs])
        effect = scores.mean(axis=1).var() / (scores.var(axis=1).mean() / 100)
        estimated = np.mean([features.design_effects(*pair)[name] for pair in pairs[:20]])
        assert effect > 1.15, name
        assert estimated == pytest.approx(effect, rel=0.35), name


def test_neighbourhoods_of_equal_sets_and_of_distant_sets() -> None:
    real = normal(50, 0)
    equal = features.neighbourhoods(real, real)
    assert [scores.mean() for scores in equal] == pytest.approx(
        [1, 1, (features.NEIGHBOURS + 1) / features.NEIGHBOURS, 1]
    )
    assert [scores.mean() for scores in features.neighbourhoods(real, real + 100)] == [0, 0, 0, 0]


def test_generating_half_of_a_distribution_keeps_precision_and_loses_half_of_the_recall() -> None:
    offsets = np.where(np.arange(400) % 2, 50.0, 0.0)[:, np.newaxis]
    real = normal(400, 0) + offsets
    scores = features.neighbourhoods(real, normal(200, 1))
    assert scores.precision.mean() > 0.8
    assert scores.recall[1::2].mean() == 0
    assert scores.recall[::2].mean() > 0.8
    assert scores.coverage[1::2].mean() == 0


def test_a_classifier_distinguishes_different_distributions() -> None:
    real = normal(200, 0)
    assert 0.4 < features.c2st_accuracy(real, normal(200, 1)).mean() < 0.6
    assert features.c2st_accuracy(real, normal(200, 1, shift=4)).mean() > 0.99


# --- Pixels ---


def noise(number: int, seed: int) -> pixels.Images:
    return np.random.default_rng(seed).integers(0, 256, (number, 28, 28, 1), np.uint8)


def test_the_nearest_training_drawing_of_a_copy_is_the_original() -> None:
    training = noise(50, 0)
    distances, indices = pixels.nearest(training[[7, 3]], training)
    assert indices.tolist() == [7, 3]
    assert distances.tolist() == pytest.approx([0, 0], abs=1e-3)
    one_pixel = np.zeros((1, 28, 28, 1), np.uint8)
    one_pixel[0, 5, 5] = 255
    assert pixels.nearest(one_pixel, np.zeros_like(one_pixel))[0] == pytest.approx([1])


def test_the_nearest_of_more_training_drawings_than_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    training = noise(50, 0)
    drawings = np.concatenate([noise(20, 1), training[[7, 48]]])
    training[30] = training[7]  # of two at the same distance, the first
    distances, rows = pixels.nearest(drawings, training)
    monkeypatch.setattr(pixels, "BLOCK_VALUES", 9 * 784)
    blockwise_distances, blockwise_rows = pixels.nearest(drawings, training)
    np.testing.assert_array_equal(blockwise_rows, rows)
    assert rows[-2:].tolist() == [7, 48]
    np.testing.assert_allclose(blockwise_distances, distances, atol=1e-3)


def test_at_most_some_held_out_drawings_are_compared_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.array([5, 7, 5, 5, 9, 5, 7, 5, 5, 5], np.int16)
    assert subsets.compared(labels).all()
    monkeypatch.setattr(subsets, "COMPARED_DRAWINGS", 5)
    assert subsets.compared(labels).tolist() == [True, True, True, True, True, True, False, False, False, False]


def test_an_interval_does_not_depend_on_how_many_values_are_resampled_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = np.random.default_rng(0).normal(size=301)
    estimate = intervals.estimate_mean(scores)
    monkeypatch.setattr(intervals, "RESAMPLED_VALUES", 301 * 7)
    assert intervals.estimate_mean(scores) == pytest.approx(estimate, abs=1e-12)


def test_copies_count_as_memorised_even_if_held_out_drawings_repeat_training_ones() -> None:
    heldout = np.array([0.0, 1e-6] + [5.0] * 98)  # two repeated drawings, one of them with a rounding error
    assert pixels.memorised(np.array([0.0, 1e-6, 1 / 255, 5.0]), heldout).tolist() == [True, True, False, False]


def test_ink_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = np.zeros((2, 28, 28, 1), np.uint8)
    drawing[0, 0] = 255
    drawing[0, 5, 27] = 100
    monkeypatch.setattr(pixels, "INK_BLOCK", 1)
    ink = pixels.ink(drawing)
    assert ink["ink"].tolist() == pytest.approx([(28 + 100 / 255) / 784, 0])
    assert ink["grey"].tolist() == pytest.approx([1 / 784, 0])
    assert ink["ink_top"].tolist() == [1, 0]
    assert ink["ink_left"].tolist() == pytest.approx([1 / 28, 0])
    assert ink["ink_right"].tolist() == pytest.approx([(1 + 100 / 255) / 28, 0])
    assert ink["ink_bottom"].tolist() == [0, 0]
    assert ink["blank"].tolist() == [0, 1]


# --- Intervals ---


def test_an_interval_contains_the_true_mean_about_as_often_as_its_level() -> None:
    random = np.random.default_rng(0)
    contained = 0
    for _ in range(60):
        estimate = intervals.estimate_mean(random.random(80) < 0.3)
        contained += estimate.low <= 0.3 <= estimate.high
    assert contained >= 52


def test_too_few_drawings_have_no_interval() -> None:
    assert all(map(math.isnan, intervals.estimate_mean(np.zeros(0))))
    single = intervals.estimate_mean(np.array([3.0]))
    assert (single.value, math.isnan(single.low)) == (3, True)
    assert intervals.estimate_mean(np.full(9, 0.25)) == (0.25, 0.25, 0.25)


def test_a_share_of_none_or_all_has_an_interval() -> None:
    none = intervals.estimate_mean(np.zeros(100, bool))
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(intervals.Z_SCORE**2 / (100 + intervals.Z_SCORE**2))
    every = intervals.estimate_mean(np.ones(100, bool))
    assert (every.value, every.high) == (1, 1)
    assert every.low == pytest.approx(1 - none.high)


def test_the_interval_of_a_share_is_that_of_wilson() -> None:
    for correct in range(25):
        estimate = intervals.estimate_mean(np.arange(24) < correct)
        expected = scipy.stats.binomtest(correct, 24).proportion_ci(method="wilson")
        assert estimate == pytest.approx((correct / 24, expected.low, expected.high))
    assert intervals.estimate_mean(np.ones(96, bool), 4.0) == intervals.estimate_mean(np.ones(24, bool))


def test_more_correct_answers_give_a_higher_interval() -> None:
    estimates = np.array([intervals.estimate_mean(np.arange(24) < correct) for correct in range(25)])
    assert (np.diff(estimates, axis=0) > 0).all()


def test_a_design_effect_widens_the_interval_of_a_mean() -> None:
    scores = np.random.default_rng(0).random(50)
    independent, correlated = intervals.estimate_mean(scores), intervals.estimate_mean(scores, 4.0)
    assert correlated.value == independent.value
    assert correlated.value - correlated.low == pytest.approx(2 * (independent.value - independent.low))
    assert correlated.high - correlated.value == pytest.approx(2 * (independent.high - independent.value))


def test_the_interval_of_a_difference_is_that_of_newcombe() -> None:
    """56 of 70 less 48 of 80, and two more: table II of the paper, method 10."""
    for (first, second), expected in {
        ((56, 70), (48, 80)): (0.2, 0.0524, 0.3339),
        ((9, 10), (3, 10)): (0.6, 0.1705, 0.8090),
        ((10, 10), (0, 10)): (1.0, 0.6075, 1.0),
    }.items():
        shares = [intervals.estimate_share(correct / number, number) for correct, number in (first, second)]
        assert intervals.estimate_difference(*shares) == pytest.approx(expected, abs=1e-4)


def test_the_standard_error_of_a_difference_of_means_matches_the_formula() -> None:
    first, second = normal(200, 0)[:, 0], normal(100, 1, scale=3)[:, 0]
    error = intervals.standard_error(lambda i, j: first[i].mean() - second[j].mean(), 200, 100)
    assert error == pytest.approx(math.sqrt(first.var() / 200 + second.var() / 100), rel=0.2)


# --- All metrics of a run ---


def scored_drawings(per_class: int, seed: int, training: pixels.Images, classes: int = CLASSES) -> ScoredDrawings:
    """Drawings of classes with separate features, of which the judge predicts about 80% correctly."""
    random = np.random.default_rng(seed)
    class_indices = np.tile(np.arange(classes), per_class)
    centres = 6 * np.eye(DIMENSIONS)[:classes]
    number = len(class_indices)
    images = np.zeros((number, 28, 28, 1), np.uint8)
    images[:, 4:24, 4:24] = 255 * (random.random((number, 20, 20, 1)) < 0.2)
    predicted = np.where(random.random(number) < 0.8, class_indices, random.integers(0, classes, number))
    vectors = centres[class_indices] + random.normal(size=(number, DIMENSIONS))
    return ScoredDrawings(images, class_indices, predicted, vectors, pixels.nearest(images, training)[0])


TRAINING = scored_drawings(100, 9, np.zeros((1, 28, 28, 1), np.uint8)).images
HELDOUT = scored_drawings(PER_CLASS, 0, TRAINING)


def rows_by_class(generated: ScoredDrawings) -> dict[tuple[str, int | None], Row]:
    return {(row.metric, row.class_index): row for row in compute.compare_drawings(CLASSES, HELDOUT, generated)}


def overall(generated: ScoredDrawings) -> dict[str, Row]:
    return {name: row for (name, class_index), row in rows_by_class(generated).items() if class_index is None}


@pytest.fixture(scope="module")
def perfect() -> dict[str, Row]:
    return overall(scored_drawings(PER_CLASS // 2, 1, TRAINING))


@pytest.fixture(scope="module")
def uniform() -> dict[str, Row]:
    """The metrics of uniform noise, for which the judge always predicts the first class."""
    images = noise(CLASSES * PER_CLASS, 3)
    requested = np.tile(np.arange(CLASSES), PER_CLASS)
    far_features = 40 + np.random.default_rng(4).normal(size=(len(images), DIMENSIONS))
    distances = pixels.nearest(images, TRAINING)[0]
    return overall(ScoredDrawings(images, requested, np.zeros_like(requested), far_features, distances))


def test_every_metric_has_an_interval_and_a_reference(perfect: dict[str, Row]) -> None:
    likelihood_metrics = {"heldout_bits_per_dim", "training_bits_per_dim", "label_accuracy"}
    assert perfect.keys() == METRICS.keys() - likelihood_metrics - COMPLETED
    for row in perfect.values():
        assert row.estimate.low <= row.estimate.value <= row.estimate.high
        assert math.isfinite(row.reference)


def test_drawings_of_the_same_distribution_reach_the_reference_in_every_metric(perfect: dict[str, Row]) -> None:
    for name, row in perfect.items():
        tolerance = 2 * (row.estimate.high - row.estimate.low) + 0.02
        assert abs(row.estimate.value - row.reference) <= tolerance, name


def test_the_second_half_of_the_held_out_drawings_scores_the_reference() -> None:
    first, second = subsets.halves(HELDOUT.class_indices)
    assert sorted([*first, *second]) == list(range(len(HELDOUT.class_indices)))
    rows = overall(HELDOUT.take(second))
    for name in ("frechet_distance", "mmd", "precision", "recall", "density", "coverage", "c2st_accuracy"):
        assert rows[name].estimate.value == pytest.approx(rows[name].reference), name


def test_the_two_sample_accuracy_of_one_distribution_is_half_for_any_numbers_of_drawings() -> None:
    for num_heldout, num_generated in ((100, 10), (20, 100)):
        heldout, generated = scored_drawings(num_heldout, 10, TRAINING), scored_drawings(num_generated, 11, TRAINING)
        rows = {(row.metric, row.class_index): row for row in compute.compare_drawings(CLASSES, heldout, generated)}
        for class_index in (None, *range(CLASSES)):
            row = rows["c2st_accuracy", class_index]
            assert row.estimate.low < 0.5 < row.estimate.high, class_index
            assert row.reference == pytest.approx(0.5, abs=0.15 if class_index is None else 0.35)
        assert rows["c2st_accuracy", None].estimate.value == pytest.approx(0.5, abs=0.15)


def test_each_class_has_the_same_weight_in_the_reference_as_in_the_value() -> None:
    """The first class has nine times as many held-out drawings, and every score depends on the class."""
    class_indices = np.repeat(np.arange(2), [90, 10])
    images = np.zeros((100, 28, 28, 1), np.uint8)
    images[class_indices == 1] = 128
    predicted, distances = np.zeros_like(class_indices), np.where(class_indices, 2.0, 1.0)
    heldout = ScoredDrawings(images, class_indices, predicted, normal(100, 0), distances)
    generated = heldout.take(np.array([0, 1, 2, 90, 91, 92]))
    rows = {row.metric: row for row in compute.compare_drawings(2, heldout, generated) if row.class_index is None}
    for name in ("class_accuracy", "informedness", "memorised", "nearest_distance", "ink", "grey", "blank"):
        assert rows[name].estimate.value == pytest.approx(rows[name].reference), name


def test_noise_is_worse_in_every_metric(perfect: dict[str, Row], uniform: dict[str, Row]) -> None:
    for name, row in uniform.items():
        match METRICS[name].better:
            case "less":
                assert row.estimate.value > perfect[name].estimate.value, name
            case "more":
                assert row.estimate.value < perfect[name].estimate.value, name
            case _ if name not in ("memorised", "blank"):  # noise is neither a copy nor blank
                difference = abs(row.estimate.value - row.reference)
                assert difference > abs(perfect[name].estimate.value - perfect[name].reference), name
    assert uniform["c2st_accuracy"].estimate.value > 0.99
    assert uniform["coverage"].estimate.value == 0


def test_shuffled_labels_give_chance_accuracy() -> None:
    generated = scored_drawings(200, 5, TRAINING)
    shuffled = np.random.default_rng(6).permutation(generated.class_indices)
    rows = overall(dataclasses.replace(generated, class_indices=shuffled))
    assert rows["class_accuracy"].estimate.low < 1 / CLASSES < rows["class_accuracy"].estimate.high
    assert rows["informedness"].estimate.low < 0 < rows["informedness"].estimate.high


def test_always_predicting_one_class_gives_no_informedness() -> None:
    generated = scored_drawings(20, 5, TRAINING)
    rows = rows_by_class(dataclasses.replace(generated, predicted=np.zeros_like(generated.predicted)))
    assert rows["class_accuracy", 0].estimate.value == 1
    assert rows["informedness", 0].estimate.value == 0
    assert rows["informedness", 0].estimate.low < 0 < rows["informedness", 0].estimate.high


def test_all_predictions_correct_on_few_drawings_leaves_a_wide_interval() -> None:
    generated = scored_drawings(24, 5, TRAINING)
    correct = dataclasses.replace(generated, predicted=generated.class_indices)
    for class_index in (None, 0):
        estimate = compute.informedness(correct, class_index, CLASSES)
        assert (estimate.value, estimate.high) == (1, 1)
        assert 0.5 < estimate.low < 0.99
    assert compute.informedness(correct, None, CLASSES).low > compute.informedness(correct, 0, CLASSES).low


def test_copies_of_training_drawings_count_as_memorised(perfect: dict[str, Row]) -> None:
    copies = TRAINING[: CLASSES * PER_CLASS]
    generated = scored_drawings(PER_CLASS, 7, TRAINING)
    distances = pixels.nearest(copies, TRAINING)[0]
    rows = overall(dataclasses.replace(generated, images=copies, nearest_distances=distances))
    assert rows["memorised"].estimate.value == 1
    assert rows["memorised"].reference <= 0.02
    assert rows["nearest_distance"].estimate.value < 0.01 < rows["nearest_distance"].reference
    assert perfect["memorised"].estimate.value < 0.1


def test_a_missing_class_loses_recall_and_coverage() -> None:
    """If the last class is requested, the model generates the first."""
    generated = scored_drawings(PER_CLASS, 8, TRAINING)
    requested = generated.class_indices
    indices = np.arange(len(requested))
    indices[requested == CLASSES - 1] = indices[requested == 0]
    rows = rows_by_class(dataclasses.replace(generated.take(indices), class_indices=requested))
    for name in ("recall", "coverage"):
        assert rows[name, CLASSES - 1].estimate.value == 0
        assert rows[name, 0].estimate.value > 0.5
        assert rows[name, None].estimate.high < rows[name, None].reference


def test_metrics_that_one_drawing_per_class_cannot_define_are_undefined() -> None:
    few = scored_drawings(1, 0, TRAINING)
    estimates = {(row.metric, row.class_index): row.estimate for row in compute.compare_drawings(CLASSES, few, few)}
    assert math.isnan(estimates["mmd", 0].value)
    assert ("frechet_distance", None) not in estimates
    assert estimates["class_accuracy", 0].value in (0, 1)


def test_equally_many_drawings_of_each_class_are_compared() -> None:
    heldout, generated = np.array([1, 0, 0, 0, 0, 1, 2]), np.array([1, 1, 0, 1, 2, 2])
    first, second = subsets.halves(heldout)
    assert (first.tolist(), second.tolist()) == ([0, 1, 3, 6], [2, 4, 5])
    selected = subsets.equal_counts(heldout[first], heldout[second], generated)
    assert [rows.tolist() for rows in selected] == [[1, 0], [0, 2], [2, 0]]
    assert [rows.tolist() for rows in subsets.equal_counts(heldout[:0], generated)] == [[], []]


def test_likelihoods_by_class() -> None:
    classes = np.array([0, 0, 1])
    heldout, training = Scores(np.array([1.0, 3.0, 5.0]), classes), Scores(np.array([1.0, 1.0, 4.0]), classes)
    rows = compute.likelihood(2, heldout, training, Scores(np.array([True, False, True]), classes))
    values = {(row.metric, row.class_index): (row.estimate.value, row.reference) for row in rows}
    assert values["heldout_bits_per_dim", 0][0] == 2
    assert values["training_bits_per_dim", None] == (2, 3)
    assert values["label_accuracy", 1] == (1, 0.5)


def test_the_reference_of_the_training_bits_has_the_class_proportions_of_the_training_drawings() -> None:
    heldout = Scores(np.array([1.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 1]))
    training = Scores(np.array([1.0, 5.0]), np.array([0, 1]))
    rows = {(row.metric, row.class_index): row for row in compute.likelihood(2, heldout, training, training)}
    assert rows["training_bits_per_dim", None].reference == rows["training_bits_per_dim", None].estimate.value == 3


def test_every_metric_states_which_values_are_better() -> None:
    assert {metric.better for metric in METRICS.values()} == {LESS, MORE, ALIKE}
    assert all(metric.reference for metric in METRICS.values() if metric.better == ALIKE)
