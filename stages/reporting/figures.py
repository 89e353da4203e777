"""A metric's figures as the pages show and sort them."""

from __future__ import annotations

import math
from typing import NamedTuple

from stages.metrics.catalogue import METRICS, SHARES

# The best there is of measures of which less is better, and which chance takes below it: guessing is right half of the
# time, and the unbiased distance of two sets that do not differ scatters around none.
PERFECT = {"c2st_accuracy": 0.5, "mmd": 0.0}


class Figure(NamedTuple):
    """A metric's value, its 95% interval and what to hold it against; NaN for what could not be metricd."""

    value: float
    low: float = math.nan
    high: float = math.nan
    reference: float = math.nan


def format_figure(value: float, metric: str) -> str:
    """A metric's value for people: shares in percent."""
    if math.isnan(value):
        return "–"
    if metric in SHARES:
        return f"{value:.0%}" if value >= 0.0995 or value == 0 else f"{value:.1%}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def format_interval(found: Figure, metric: str) -> str:
    """`12% to 15%`, or nothing where there is none."""
    if math.isnan(found.low):
        return ""
    return f"{format_figure(found.low, metric)} to {format_figure(found.high, metric)}"


def ranking_cost(metric: str, better: str, value: float, reference: float) -> float:
    """A measure's value as a number of which less is better, however `better` counts; NaN where it is not known."""
    if better == "more":
        return -value
    return max(value, PERFECT.get(metric, -math.inf)) if better == "less" else abs(value - reference)


def sort_key(found: Figure, metric: str) -> float:
    """A number to sort by: the lower the better, what could not be metricd last."""
    value = ranking_cost(metric, METRICS[metric].better, found.value, found.reference)
    return 1e9 if math.isnan(value) else round(value, 6)
