"""A metric's value with its interval and reference, as pages format, sort and compare it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stages.metrics import catalogue
from stages.metrics.catalogue import METRICS, SHARES

# The best possible value of metrics of which lower is better, but which chance can take below it: a classifier that
# guesses is right half of the time, and the unbiased MMD of two sets of one distribution scatters around 0.
PERFECT = {"c2st_accuracy": 0.5, "mmd": 0.0}

# The metrics that pages show first. Recall and coverage measure one thing in two ways; sentences and pages use recall.
MAIN_METRICS = (
    "class_accuracy",
    "label_accuracy",
    "heldout_bits_per_dim",
    "training_bits_per_dim",
    "precision",
    "recall",
    "c2st_accuracy",
    "memorised",
)

# What metrics are measured with, by its name in reports/metrics.json.
COMPLETED_DRAWINGS = catalogue.COMPLETED_DRAWINGS
MEASURED_WITH = {
    catalogue.HELDOUT_DRAWINGS: "held-out drawings",
    catalogue.JUDGE_WEIGHTS: "judges",
    catalogue.GENERATED_DRAWINGS: "numbers of generated drawings",
    COMPLETED_DRAWINGS: "rows and drawings that were completed",
}


class MetricValue(NamedTuple):
    """A metric's value, its 95% interval and its reference; NaN for what is undefined."""

    value: float
    low: float = math.nan
    high: float = math.nan
    reference: float = math.nan


def metric_title(key: str) -> str:
    """A metric's name as in the report. An older run may have metrics of other names."""
    return METRICS[key].title if key in METRICS else key.replace("_", " ")


def format_value(value: float, metric: str) -> str:
    """A metric's value as text, on every page and in every sentence: shares in percent, and a dash for NaN."""
    if math.isnan(value):
        return "–"
    if metric in SHARES:
        return format_share(value)
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def format_share(share: float) -> str:
    """A share in percent, rounded half up: `formatShare` in report.js does the same.

    Below 10% and above 99.5% it has a decimal, and 0% is none and 100% is all: less than a twentieth of a percent away
    from them, it is `<0.1%` or `>99.9%`.
    """
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    if 0.0995 <= share < 0.995 or share in (0, 1):
        return f"{math.floor(100 * share + 0.5)}%"
    return f"{math.floor(1000 * share + 0.5) / 10:.1f}%"


def format_difference(first: float, second: float, metric: str) -> str:
    """The absolute difference of two values of a metric, as text."""
    difference = abs(second - first)
    return f"{100 * difference:.1f} percentage points" if metric in SHARES else format_value(difference, metric)


def format_interval(metric_value: MetricValue, metric: str) -> str:
    """The interval as text, such as `12% to 15%`; empty if it is undefined."""
    if math.isnan(metric_value.low):
        return ""
    return f"{format_value(metric_value.low, metric)} to {format_value(metric_value.high, metric)}"


def ranking_cost(metric: str, better: str, value: float, reference: float) -> float:
    """A number of which lower is better, for any `better` of the catalogue; NaN if the value is undefined."""
    if better == "more":
        return -value
    return max(value, PERFECT.get(metric, -math.inf)) if better == "less" else abs(value - reference)


def sort_key(metric_value: MetricValue, metric: str) -> float:
    """A number to sort by: the best value first, undefined values last."""
    cost = ranking_cost(metric, METRICS[metric].better, metric_value.value, metric_value.reference)
    return 1e9 if math.isnan(cost) else round(cost, 6)


def why_incomparable(metric: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why the runs' values of a metric cannot be compared, such as `different judges`; empty if they can.

    Args:
      metric: its name.
      runs: for each run the entries of reports/metrics.json that say what its metrics were measured with. A run of an
        older version lacks them. Other entries are ignored.
    """
    reasons = []
    for key in catalogue.conditions(metric) if len(runs) > 1 else ():
        values = [run.get(key) for run in runs]
        if None in values:
            reasons.append(f"unknown {MEASURED_WITH[key]}")
        elif any(value != values[0] for value in values):
            reasons.append(f"different {MEASURED_WITH[key]}")
    return reasons
