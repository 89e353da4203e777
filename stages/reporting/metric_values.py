"""A metric's value with its interval and reference, as pages format and sort it."""

from __future__ import annotations

import math
from typing import NamedTuple

from stages.metrics.catalogue import METRICS, SHARES

# The best possible value of metrics of which lower is better, but which chance can take below it: a classifier that
# guesses is right half of the time, and the unbiased MMD of two sets of one distribution scatters around 0.
PERFECT = {"c2st_accuracy": 0.5, "mmd": 0.0}


class MetricValue(NamedTuple):
    """A metric's value, its 95% interval and its reference; NaN for what is undefined."""

    value: float
    low: float = math.nan
    high: float = math.nan
    reference: float = math.nan


def format_value(value: float, metric: str) -> str:
    """A metric's value as text; shares in percent, and a dash for NaN."""
    if math.isnan(value):
        return "–"
    if metric in SHARES:
        return f"{value:.0%}" if value >= 0.0995 or value == 0 else f"{value:.1%}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


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
