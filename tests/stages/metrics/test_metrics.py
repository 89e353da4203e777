"""The measures where the answer is known: equal sets, shuffled labels, copies, noise, a class that is missing."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats

from stages.metrics import compute, features, intervals, pixels, subsets
from stages.metrics.catalogue import ALIKE, LESS, METRICS, MORE
from stages.metrics.compute import Likelihood, Row, ScoredDrawings

CLASSES, EACH, DIMENSIONS = 4, 60, 8


def normal(number: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(shift, scale, (number, DIMENSIONS))


# --- Features ---


def test_the_frechet_distance_of_known_distributions() -> None:
    one = normal(20_000, 0)
    assert features.frechet_distance(one, one) == pytest.approx(0, abs=1e-8)
    assert features.frechet_distance(one, one + 3) == pytest.approx(9 * DIMENSIONS)
    # Between N(0, 1) and N(0, 4) in each dimension: (2 - 1)².
    assert features.frechet_distance(one, normal(20_000, 1, scale=2)) == pytest.approx(DIMENSIONS, rel=0.03)


def test_the_mmd_has_no_bias() -> None:
    found = [features.mmd(normal(40, 2 * seed), normal(40, 2 * seed + 1)) for seed in range(12)]
    values = np.array([one.value for one in found])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.75
    assert features.mmd(normal(40, 0), normal(40, 1, shift=1)).low > 0


def test_the_mmd_is_the_sum_over_pairs() -> None:
    one, other = normal(5, 0), normal(4, 1)

    def kernel(x: Any, y: Any) -> Any:
        return (x @ y / DIMENSIONS + 1) ** 3

    within = np.mean([kernel(x, y) for i, x in enumerate(one) for j, y in enumerate(one) if i != j])
    beyond = np.mean([kernel(x, y) for i, x in enumerate(other) for j, y in enumerate(other) if i != j])
    between = np.mean([kernel(x, y) for x in one for y in other])
    assert features.mmd(one, other).value == pytest.approx(within + beyond - 2 * between)


def test_large_sets_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MAX_DRAWINGS", 30)
    classes = np.repeat(np.arange(3), 100)
    assert np.bincount(features.subsample(classes)).tolist() == [10, 10, 10]
    assert features.subsample(classes[:30]).tolist() == [0] * 30
    one, other = normal(300, 0), normal(300, 1)
    assert features.mmd(one, other) == features.mmd(one[::10], other[::10])
    assert features.neighbourhoods(one, other).precision.tolist() == (
        features.neighbourhoods(one[::10], other[::10]).precision.tolist()
    )


def test_the_scores_of_neighbourhoods_hang_together_by_the_balls() -> None:
    """As much as 200 pairs of sets say, whose means vary by more than the scores of each would have it."""
    pairs = [(normal(100, 2 * seed), normal(100, 2 * seed + 1)) for seed in range(200)]
    for name in features.Neighbourhoods._fields:
        scores = np.array([getattr(features.neighbourhoods(*pair), name) for pair in pairs])
        effect = scores.mean(axis=1).var() / (scores.var(axis=1).mean() / 100)
        found = np.mean([features.design_effects(*pair)[name] for pair in pairs[:20]])
        assert effect > 1.15, name
        assert found == pytest.approx(effect, rel=0.35), name


def test_neighbourhoods_of_sets_that_are_the_same_and_of_sets_far_apart() -> None:
    one = normal(50, 0)
    same = features.neighbourhoods(one, one)
    assert [scores.mean() for scores in same] == pytest.approx(
        [1, 1, (features.NEIGHBOURS + 1) / features.NEIGHBOURS, 1]
    )
    assert [scores.mean() for scores in features.neighbourhoods(one, one + 100)] == [0, 0, 0, 0]


def test_half_a_distribution_is_precise_and_recalls_half() -> None:
    sides = np.where(np.arange(400) % 2, 50.0, 0.0)[:, np.newaxis]
    real = normal(400, 0) + sides
    found = features.neighbourhoods(real, normal(200, 1))
    assert found.precision.mean() > 0.8
    assert found.recall[1::2].mean() == 0
    assert found.recall[::2].mean() > 0.8
    assert found.coverage[1::2].mean() == 0


def test_a_classifier_tells_apart_what_differs() -> None:
    one = normal(200, 0)
    assert 0.4 < features.c2st_accuracy(one, normal(200, 1)).mean() < 0.6
    assert features.c2st_accuracy(one, normal(200, 1, shift=4)).mean() > 0.99


# --- Pixels ---


def noise(number: int, seed: int) -> pixels.Images:
    return np.random.default_rng(seed).integers(0, 256, (number, 28, 28), np.uint8)


def test_a_copy_is_found_and_its_place() -> None:
    training = noise(50, 0)
    distances, places = pixels.nearest(training[[7, 3]], training)
    assert places.tolist() == [7, 3]
    assert distances.tolist() == pytest.approx([0, 0], abs=1e-3)
    one_pixel = np.zeros((1, 28, 28), np.uint8)
    one_pixel[0, 5, 5] = 255
    assert pixels.nearest(one_pixel, np.zeros_like(one_pixel))[0] == pytest.approx([1])


def test_copies_are_found_where_held_out_drawings_repeat_training_ones() -> None:
    held_out = np.array(
        [0.0, 1e-6] + [5.0] * 98
    )  # people drew the same again; what rounding makes of 0 changes nothing
    assert pixels.memorised(np.array([0.0, 1e-6, 1 / 255, 5.0]), held_out).tolist() == [True, True, False, False]


def test_ink_by_pixel() -> None:
    drawing = np.zeros((2, 28, 28), np.uint8)
    drawing[0, 0] = 255
    drawing[0, 5, 27] = 100
    found = pixels.ink(drawing)
    assert found["ink"].tolist() == pytest.approx([(28 + 100 / 255) / 784, 0])
    assert found["grey"].tolist() == pytest.approx([1 / 784, 0])
    assert found["ink_top"].tolist() == [1, 0]
    assert found["ink_left"].tolist() == pytest.approx([1 / 28, 0])
    assert found["ink_right"].tolist() == pytest.approx([(1 + 100 / 255) / 28, 0])
    assert found["ink_bottom"].tolist() == [0, 0]
    assert found["blank"].tolist() == [0, 1]


# --- Intervals ---


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        found = intervals.of_mean(random.random(80) < 0.3)
        held += found.low <= 0.3 <= found.high
    assert held >= 52


def test_too_few_drawings_have_no_interval() -> None:
    assert all(map(math.isnan, intervals.of_mean(np.zeros(0))))
    one = intervals.of_mean(np.array([3.0]))
    assert (one.value, math.isnan(one.low)) == (3, True)
    assert intervals.of_mean(np.full(9, 0.25)) == (0.25, 0.25, 0.25)


def test_what_none_of_few_drawings_shows_more_might() -> None:
    none = intervals.of_mean(np.zeros(100, bool))
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(intervals.NORMAL**2 / (100 + intervals.NORMAL**2))
    every = intervals.of_mean(np.ones(100, bool))
    assert (every.value, every.high) == (1, 1)
    assert every.low == pytest.approx(1 - none.high)


def test_the_interval_of_a_share_is_wilsons() -> None:
    for right in range(25):
        found = intervals.of_mean(np.arange(24) < right)
        expected = scipy.stats.binomtest(right, 24).proportion_ci(method="wilson")
        assert found == pytest.approx((right / 24, expected.low, expected.high))
    assert intervals.of_mean(np.ones(96, bool), 4.0) == intervals.of_mean(np.ones(24, bool))


def test_more_right_is_a_higher_interval() -> None:
    found = np.array([intervals.of_mean(np.arange(24) < right) for right in range(25)])
    assert (np.diff(found, axis=0) > 0).all()


def test_the_interval_of_a_mean_is_wider_where_scores_hang_together() -> None:
    scores = np.random.default_rng(0).random(50)
    alone, together = intervals.of_mean(scores), intervals.of_mean(scores, 4.0)
    assert together.value == alone.value
    assert together.value - together.low == pytest.approx(2 * (alone.value - alone.low))
    assert together.high - together.value == pytest.approx(2 * (alone.high - alone.value))


def test_the_difference_of_shares_of_newcombe() -> None:
    """56 of 70 less 48 of 80, and 9 of 10 less 3 of 10: his table II, method 10."""
    for (one, other), expected in {
        ((56, 70), (48, 80)): (0.2, 0.0524, 0.3339),
        ((9, 10), (3, 10)): (0.6, 0.1705, 0.8090),
        ((10, 10), (0, 10)): (1.0, 0.6075, 1.0),
    }.items():
        shares = [intervals.of_share(right / number, number) for right, number in (one, other)]
        assert intervals.of_difference(*shares) == pytest.approx(expected, abs=1e-4)


def test_the_standard_error_of_a_difference_of_means_is_the_textbooks() -> None:
    one, other = normal(200, 0)[:, 0], normal(100, 1, scale=3)[:, 0]
    found = intervals.standard_error(lambda i, j: one[i].mean() - other[j].mean(), 200, 100)
    assert found == pytest.approx(math.sqrt(one.var() / 200 + other.var() / 100), rel=0.2)


# --- All of them together ---


def drawn(each: int, seed: int, training: pixels.Images, classes: int = CLASSES) -> ScoredDrawings:
    """Drawings of classes that lie apart in the features, which the judge names rightly four times in five."""
    random = np.random.default_rng(seed)
    places = np.tile(np.arange(classes), each)
    centres = 6 * np.eye(DIMENSIONS)[:classes]
    images = np.zeros((len(places), 28, 28), np.uint8)
    images[:, 4:24, 4:24] = 255 * (random.random((len(places), 20, 20)) < 0.2)
    named = np.where(random.random(len(places)) < 0.8, places, random.integers(0, classes, len(places)))
    seen = centres[places] + random.normal(size=(len(places), DIMENSIONS))
    return ScoredDrawings(images, places, named, seen, pixels.nearest(images, training)[0])


TRAINING = drawn(100, 9, np.zeros((1, 28, 28), np.uint8)).images
HELDOUT = drawn(EACH, 0, TRAINING)


def measured(generated: ScoredDrawings) -> dict[tuple[str, int | None], Row]:
    return {(row.metric, row.place): row for row in compute.compare_drawings(CLASSES, HELDOUT, generated)}


def in_all(generated: ScoredDrawings) -> dict[str, Row]:
    return {name: row for (name, place), row in measured(generated).items() if place is None}


@pytest.fixture(scope="module")
def perfect() -> dict[str, Row]:
    return in_all(drawn(EACH // 2, 1, TRAINING))


@pytest.fixture(scope="module")
def uniform() -> dict[str, Row]:
    """What comes of uniform noise, which the judge calls one and the same class."""
    images = noise(CLASSES * EACH, 3)
    places = np.tile(np.arange(CLASSES), EACH)
    far = 40 + np.random.default_rng(4).normal(size=(len(images), DIMENSIONS))
    return in_all(ScoredDrawings(images, places, np.zeros_like(places), far, pixels.nearest(images, TRAINING)[0]))


def test_every_measure_is_there_with_its_interval(perfect: dict[str, Row]) -> None:
    of_real = {"heldout_bits_per_dim", "training_bits_per_dim", "label_accuracy"}
    assert perfect.keys() == METRICS.keys() - of_real
    for row in perfect.values():
        assert row.estimate.low <= row.estimate.value <= row.estimate.high
        assert math.isfinite(row.reference)


def test_real_drawings_reach_the_reference(perfect: dict[str, Row]) -> None:
    """What is drawn from the same distribution is told from it by no measure."""
    for name, row in perfect.items():
        widest = 2 * (row.estimate.high - row.estimate.low) + 0.02
        assert abs(row.estimate.value - row.reference) <= widest, name


def test_the_second_half_itself_gives_the_floor() -> None:
    first, second = subsets.halves(HELDOUT.classes)
    assert sorted([*first, *second]) == list(range(len(HELDOUT.classes)))
    found = in_all(HELDOUT.take(second))
    for name in ("frechet_distance", "mmd", "precision", "recall", "density", "coverage", "c2st_accuracy"):
        assert found[name].estimate.value == pytest.approx(found[name].reference), name


def test_sets_of_one_distribution_are_told_apart_half_of_the_time() -> None:
    """Whatever there are more of, and in each class too."""
    for heldout, generated in ((100, 10), (20, 100)):
        found = {
            (row.metric, row.place): row
            for row in compute.compare_drawings(CLASSES, drawn(heldout, 10, TRAINING), drawn(generated, 11, TRAINING))
        }
        for place in (None, *range(CLASSES)):
            row = found["c2st_accuracy", place]
            assert row.estimate.low < 0.5 < row.estimate.high, place
            assert row.reference == pytest.approx(0.5, abs=0.15 if place is None else 0.35)
        assert found["c2st_accuracy", None].estimate.value == pytest.approx(0.5, abs=0.15)


def test_no_class_weighs_more_in_the_reference_than_in_the_value() -> None:
    """Nine times as many held-out drawings of the first class, and all that is measured depends on the class."""
    places = np.repeat(np.arange(2), [90, 10])
    images = np.zeros((100, 28, 28), np.uint8)
    images[places == 1] = 128
    heldout = ScoredDrawings(images, places, np.zeros_like(places), normal(100, 0), np.where(places, 2.0, 1.0))
    generated = heldout.take(np.array([0, 1, 2, 90, 91, 92]))
    rows = {row.metric: row for row in compute.compare_drawings(2, heldout, generated) if row.place is None}
    for name in ("class_accuracy", "informedness", "memorised", "nearest_distance", "ink", "grey", "blank"):
        assert rows[name].estimate.value == pytest.approx(rows[name].reference), name


def test_noise_is_worst_in_every_measure(perfect: dict[str, Row], uniform: dict[str, Row]) -> None:
    for name, row in uniform.items():
        match METRICS[name].better:
            case "less":
                assert row.estimate.value > perfect[name].estimate.value, name
            case "more":
                assert row.estimate.value < perfect[name].estimate.value, name
            case _ if name not in ("memorised", "blank"):  # noise is neither a copy nor blank
                away = abs(row.estimate.value - row.reference)
                assert away > abs(perfect[name].estimate.value - perfect[name].reference), name
    assert uniform["c2st_accuracy"].estimate.value > 0.99
    assert uniform["coverage"].estimate.value == 0


def test_shuffled_labels_give_chance() -> None:
    generated = drawn(200, 5, TRAINING)
    places = np.random.default_rng(6).permutation(generated.classes)
    found = in_all(ScoredDrawings(generated.images, places, generated.predicted, generated.features, generated.nearest))
    assert found["class_accuracy"].estimate.low < 1 / CLASSES < found["class_accuracy"].estimate.high
    assert found["informedness"].estimate.low < 0 < found["informedness"].estimate.high


def test_one_name_for_everything_is_not_class_accuracy() -> None:
    generated = drawn(20, 5, TRAINING)
    always = ScoredDrawings(
        generated.images, generated.classes, np.zeros_like(generated.predicted), generated.features, generated.nearest
    )
    found = measured(always)
    assert found["class_accuracy", 0].estimate.value == 1
    assert found["informedness", 0].estimate.value == 0
    assert found["informedness", 0].estimate.low < 0 < found["informedness", 0].estimate.high


def test_a_judge_that_names_few_drawings_all_rightly_may_be_wrong_on_others() -> None:
    generated = drawn(24, 5, TRAINING)
    every = ScoredDrawings(
        generated.images, generated.classes, generated.classes, generated.features, generated.nearest
    )
    for place in (None, 0):
        found = compute.informedness(every, place, CLASSES)
        assert (found.value, found.high) == (1, 1)
        assert 0.5 < found.low < 0.99
    assert compute.informedness(every, None, CLASSES).low > compute.informedness(every, 0, CLASSES).low


def test_copies_of_training_drawings_are_called_that(perfect: dict[str, Row]) -> None:
    copies = TRAINING[: CLASSES * EACH]
    generated = drawn(EACH, 7, TRAINING)
    found = in_all(
        ScoredDrawings(
            copies, generated.classes, generated.predicted, generated.features, pixels.nearest(copies, TRAINING)[0]
        )
    )
    assert found["memorised"].estimate.value == 1
    assert found["memorised"].reference <= 0.02
    assert found["nearest_distance"].estimate.value < 0.01 < found["nearest_distance"].reference
    assert perfect["memorised"].estimate.value < 0.1


def test_a_missing_class_loses_recall_and_coverage() -> None:
    """Asked for the last class, it draws the first."""
    generated = drawn(EACH, 8, TRAINING)
    last, first = generated.classes == CLASSES - 1, generated.classes == 0
    rows = np.arange(len(generated.classes))
    rows[last] = rows[first]
    lost = generated.take(rows)
    found = measured(ScoredDrawings(lost.images, generated.classes, lost.predicted, lost.features, lost.nearest))
    for name in ("recall", "coverage"):
        assert found[name, CLASSES - 1].estimate.value == 0
        assert found[name, 0].estimate.value > 0.5
        assert found[name, None].estimate.high < found[name, None].reference


def test_a_class_of_one_drawing_leaves_open_what_cannot_be_told() -> None:
    few = drawn(1, 0, TRAINING)
    found = {(row.metric, row.place): row.estimate for row in compute.compare_drawings(CLASSES, few, few)}
    assert math.isnan(found["mmd", 0].value)
    assert ("frechet_distance", None) not in found
    assert found["class_accuracy", 0].value in (0, 1)


def test_as_many_of_each_class_are_compared() -> None:
    heldout, generated = np.array([1, 0, 0, 0, 0, 1, 2]), np.array([1, 1, 0, 1, 2, 2])
    first, second = subsets.halves(heldout)
    assert (first.tolist(), second.tolist()) == ([0, 1, 3, 6], [2, 4, 5])
    alike = subsets.equal_counts(heldout[first], heldout[second], generated)
    assert [rows.tolist() for rows in alike] == [[1, 0], [0, 2], [2, 0]]
    assert [rows.tolist() for rows in subsets.equal_counts(heldout[:0], generated)] == [[], []]


def test_likelihoods_by_class() -> None:
    classes = np.array([0, 0, 1])
    heldout, training = Likelihood(np.array([1.0, 3.0, 5.0]), classes), Likelihood(np.array([1.0, 1.0, 4.0]), classes)
    rows = compute.likelihood(2, heldout, training, Likelihood(np.array([True, False, True]), classes))
    found = {(row.metric, row.place): (row.estimate.value, row.reference) for row in rows}
    assert found["heldout_bits_per_dim", 0][0] == 2
    assert found["training_bits_per_dim", None] == (2, 3)
    assert found["label_accuracy", 1] == (1, 0.5)


def test_bits_of_training_drawings_are_held_against_those_of_as_many_of_each_class() -> None:
    heldout = Likelihood(np.array([1.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 1]))
    training = Likelihood(np.array([1.0, 5.0]), np.array([0, 1]))
    rows = {(row.metric, row.place): row for row in compute.likelihood(2, heldout, training, training)}
    assert rows["training_bits_per_dim", None].reference == rows["training_bits_per_dim", None].estimate.value == 3


def test_every_measure_says_which_way_is_better() -> None:
    assert {measure.better for measure in METRICS.values()} == {LESS, MORE, ALIKE}
    assert all(measure.reference for measure in METRICS.values() if measure.better == ALIKE)
