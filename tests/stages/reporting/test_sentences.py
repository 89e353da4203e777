"""The sentences on what a run has reached: what each says, and when it is left out."""

import math

import pytest

from stages.reporting.metric_values import MetricValue, format_difference, format_value
from stages.reporting.sentences import describe_change, describe_metrics, may_have_copies

METRICS = {
    "class_accuracy": MetricValue(0.5234, 0.47, 0.57, 0.8438),
    "label_accuracy": MetricValue(0.71, 0.66, 0.76, 0.05),
    "heldout_bits_per_dim": MetricValue(1.6041, 1.58, 1.63),
    "training_bits_per_dim": MetricValue(1.59, 1.56, 1.62, 1.6041),
    "memorised": MetricValue(0.01, 0.004, 0.02, 0.0125),
    "nearest_distance": MetricValue(8.0, 7.5, 8.5, 8.2),
    "recall": MetricValue(0.93, 0.88, 0.96, 0.95),
}
CLASSES = (
    "A classifier names the right class for 52% of the generated drawings and for 84% of real drawings; "
    "guessing gives 5.0%."
)
LIKELIHOOD = (
    "The model needs 1.604 bits for a pixel's value in real drawings that it has not seen; "
    "stored without a model, a value takes 8."
)


def test_a_run_without_evidence_on_copies_or_variety_has_two_sentences() -> None:
    assert describe_metrics(METRICS) == [CLASSES, LIKELIHOOD]


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (
            {"memorised": MetricValue(0.2, 0.17, 0.24, 0.0125)},
            "20% of the generated drawings are as close to a training drawing as only 1.3% of other real drawings are: "
            "some may be copies.",
        ),
        (
            {"recall": MetricValue(0.71, 0.66, 0.76, 0.95)},
            "The generated drawings vary less than real ones: 71% of real drawings lie among them (recall), and 95% "
            "among other real drawings.",
        ),
        (
            {"nearest_distance": MetricValue(9.0, 8.6, 9.4, 8.2)},
            "The generated drawings are no closer to the training drawings than other real drawings are: there is no "
            "sign of copying.",
        ),
        (
            {  # copies also explain why they vary less
                "memorised": MetricValue(0.2, 0.17, 0.24, 0.0125),
                "recall": MetricValue(0.71, 0.66, 0.76, 0.95),
            },
            "20% of the generated drawings are as close to a training drawing as only 1.3% of other real drawings are: "
            "some may be copies.",
        ),
    ],
)
def test_the_third_sentence_says_what_the_intervals_show(metrics: dict[str, MetricValue], sentence: str) -> None:
    assert describe_metrics(METRICS | metrics) == [CLASSES, LIKELIHOOD, sentence]


@pytest.mark.parametrize(
    ("heldout_drawings", "third"),
    [
        (15, "Whether the model copies is unknown: 15 held-out drawings are too few to tell, 100 are enough."),
        (99, "Whether the model copies is unknown: 99 held-out drawings are too few to tell, 100 are enough."),
        (100, "The generated drawings are no closer to the training drawings than other real drawings are: there is no "
         "sign of copying."),
    ],
)  # fmt: skip
def test_no_sign_of_copying_needs_enough_held_out_drawings(heldout_drawings: int, third: str) -> None:
    run = METRICS | {"nearest_distance": MetricValue(9.0, 8.6, 9.4, 8.2)}
    assert describe_metrics(run, heldout_drawings=heldout_drawings)[2] == third


@pytest.mark.parametrize(
    "metrics",
    [
        {"recall": MetricValue(0.933, 0.70, 0.988, 1.0)},  # one of 15 drawings, and the reference is of 15 too
        {"recall": MetricValue(0.0, reference=0.9)},
        {"nearest_distance": MetricValue(9.0, 8.1, 9.4, 8.2)},
        {"nearest_distance": MetricValue(9.0, 8.6, 9.4, 8.2), "memorised": MetricValue(0.03, 0.018, 0.05, 0.01)},
        {"memorised": MetricValue(0.05, 0.019, 0.1, 0.001)},
    ],
)
def test_the_third_sentence_is_left_out_without_evidence(metrics: dict[str, MetricValue]) -> None:
    assert describe_metrics(METRICS | metrics) == [CLASSES, LIKELIHOOD]


def test_overfitting_is_said_if_the_intervals_are_apart() -> None:
    run = METRICS | {"training_bits_per_dim": MetricValue(1.2, 1.17, 1.23, 1.6041)}
    assert describe_metrics(run)[1] == (
        "The model needs 1.604 bits for a pixel's value in real drawings that it has not seen, but 1.200 for one that "
        "it was trained on: it overfits."
    )


def test_the_doodles_are_not_called_real() -> None:
    run = METRICS | {"nearest_distance": MetricValue(9.0, 8.6, 9.4, 8.2)}
    sentences = describe_metrics(run, "stand-in")
    assert len(sentences) == 3
    for sentence in sentences:
        assert "stand-in drawings" in sentence and "real" not in sentence


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"label_accuracy": MetricValue(1.0, 0.9, 1.0, 1.0)}, [LIKELIHOOD]),  # one class: every answer is right
        ({"class_accuracy": MetricValue(math.nan)}, [LIKELIHOOD]),
        ({"class_accuracy": MetricValue(0.5)}, [LIKELIHOOD]),
        ({"heldout_bits_per_dim": MetricValue(math.nan)}, [CLASSES]),
        ({"training_bits_per_dim": MetricValue(math.nan)}, [CLASSES, LIKELIHOOD]),
    ],
)
def test_a_sentence_on_an_undefined_metric_is_left_out(changes: dict[str, MetricValue], expected: list[str]) -> None:
    assert describe_metrics(METRICS | changes) == expected


def test_a_run_without_metrics_has_no_sentences() -> None:
    assert describe_metrics({}) == []


@pytest.mark.parametrize(
    ("metric", "before", "after", "line"),
    [
        ("class_accuracy", (0.523, 0.47, 0.57), (0.846, 0.81, 0.88),
         "Class accuracy: 52% → 85%, better by 32.3 percentage points, beyond the 95% intervals"),
        ("class_accuracy", (0.523, 0.47, 0.57), (0.5, 0.45, 0.55),
         "Class accuracy: 52% → 50%, worse by 2.3 percentage points, within the 95% intervals"),
        ("class_accuracy", (0.523, 0.47, 0.57), (0.524, 0.47, 0.57), "Class accuracy: 52%, as before"),
        ("heldout_bits_per_dim", (1.604, 1.58, 1.63), (1.54, 1.52, 1.56),
         "Bits per dimension: 1.604 → 1.540, better by 0.064, beyond the 95% intervals"),
        ("heldout_bits_per_dim", (1.604, 1.58, 1.63), (1.612, 1.59, 1.64),
         "Bits per dimension: 1.604 → 1.612, worse by 0.008, within the 95% intervals"),
        ("heldout_bits_per_dim", (1.604,), (1.7, 1.6, 1.8), "Bits per dimension: 1.604 → 1.700, worse by 0.096"),
        ("heldout_bits_per_dim", (math.nan,), (1.7,), ""),
        ("heldout_bits_per_dim", (1.7,), (math.nan,), ""),
    ],
)  # fmt: skip
def test_a_change_has_a_verdict(metric: str, before: tuple[float], after: tuple[float], line: str) -> None:
    assert describe_change(metric, MetricValue(*before), MetricValue(*after)) == line


def test_a_change_has_no_verdict_if_the_values_cannot_be_compared() -> None:
    line = describe_change("class_accuracy", MetricValue(0.5), MetricValue(0.6), ["different judges"])
    assert line == "Class accuracy: 60%, not comparable because of different judges"


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.0, "class_accuracy", "0%"), (0.0012, "class_accuracy", "0.1%"), (0.0994, "class_accuracy", "9.9%"),
        (0.0996, "class_accuracy", "10%"), (0.994, "class_accuracy", "99%"), (0.998, "class_accuracy", "99.8%"),
        (1.0, "class_accuracy", "100%"), (0.9995, "class_accuracy", ">99.9%"), (0.99949, "class_accuracy", "99.9%"),
        (0.00049, "class_accuracy", "<0.1%"), (0.0005, "class_accuracy", "0.1%"),
        (0.525, "class_accuracy", "53%"), (0.545, "class_accuracy", "55%"),
        (0.0125, "class_accuracy", "1.3%"), (0.0995, "class_accuracy", "10%"), (0.995, "class_accuracy", "99.5%"),
        (1.6041, "heldout_bits_per_dim", "1.604"), (12.34, "frechet_distance", "12.3"),
        (math.nan, "class_accuracy", "–"),
    ],
)  # fmt: skip
def test_values_are_rounded_by_one_rule(value: float, metric: str, text: str) -> None:
    """A share is 0% or 100% only if it is none or all of the drawings."""
    assert format_value(value, metric) == text


def test_the_difference_of_shares_is_in_percentage_points() -> None:
    assert format_difference(0.5, 0.583, "class_accuracy") == "8.3 percentage points"
    assert format_difference(1.604, 1.54, "heldout_bits_per_dim") == "0.064"


@pytest.mark.parametrize(
    ("low", "reference", "copies"), [(0.03, 0.01, True), (0.019, 0.001, False), (0.05, 0.04, False)]
)
def test_copies_need_more_than_chance_and_ties_explain(low: float, reference: float, copies: bool) -> None:
    assert may_have_copies(MetricValue(0.1, low, 0.2, reference)) is copies
