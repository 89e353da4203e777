"""A figure with its 95% interval: of a mean, a share, the difference of two shares, a distance between sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
NORMAL = 1.959964  # deviations on each side that hold so much of a normal distribution
RESAMPLES = 1000  # of a mean
HALVINGS = 50  # of two sets; the standard error is then right to about a tenth
SEED = 0

Rows = npt.NDArray[np.int64]
Statistic = Callable[[Rows, Rows], npt.ArrayLike]


class Estimate(NamedTuple):
    """A figure and the ends of its interval; NaN where there is too little to tell."""

    value: float
    low: float
    high: float


NONE = Estimate(math.nan, math.nan, math.nan)


def of_mean(scores: npt.NDArray[Any], design_effect: float = 1.0) -> Estimate:
    """The mean of one score a drawing.

    The interval is Wilson's where the scores say whether something is true, and else the percentiles of the bootstrap
    (Efron 1979): the drawings drawn again, with replacement. Scores that hang together vary together: `design_effect`
    (Kish 1965) is the variance of their mean over that of as many independent ones.
    """
    if not len(scores):
        return NONE
    values = np.asarray(scores, np.float64)
    mean = float(values.mean())
    if scores.dtype == bool:
        return of_share(mean, len(values) / design_effect)
    if len(values) < 2:
        return Estimate(mean, math.nan, math.nan)
    if (values == values[0]).all():
        return Estimate(mean, mean, mean)
    from scipy.stats import bootstrap

    random = np.random.default_rng(SEED)
    found = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile", rng=random
    ).confidence_interval
    wider = math.sqrt(design_effect)
    return Estimate(mean, mean - wider * float(mean - found.low), mean + wider * float(found.high - mean))


def of_share(share: float, number: float) -> Estimate:
    """The share of `number` drawings of which something is true, with the interval of Wilson (1927).

    It holds more than one value even where the thing is true of all drawings or of none.
    """

    def low(share: float) -> float:
        square = NORMAL**2
        root = NORMAL * math.sqrt(square + 4 * number * share * (1 - share))
        return (2 * number * share + square - root) / (2 * (number + square))

    return Estimate(share, low(share), 1 - low(1 - share))


def of_difference(one: Estimate, other: Estimate) -> Estimate:
    """One share less another of other drawings, their intervals combined as by Newcombe (1998)."""
    value = one.value - other.value
    below = math.hypot(one.value - one.low, other.high - other.value)
    above = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, value - below, value + above)


def of_sets(statistic: Statistic, first: int, second: int) -> Estimate:
    """A distance between two sets, `statistic(rows of the first, rows of the second)`, as of sets of that size."""
    value = float(np.asarray(statistic(np.arange(first), np.arange(second))))
    error = NORMAL * float(standard_error(statistic, first, second))
    return Estimate(value, value - error, value + error)


def standard_error(statistic: Statistic, first: int, second: int) -> npt.NDArray[np.float64]:
    """The standard error of figures of two sets, from how far two halves of the sets lie apart (McCarthy 1969).

    Of two drawings that follow each other one goes to each half, at random, so that drawings in the order of their
    classes are halved class by class. A figure of half the drawings varies twice as much, and the difference of two
    such figures again twice. The bootstrap would hold some drawings twice, each in the other's neighbourhood, and the
    jackknife takes what neighbourhoods gain and lose by a few drawings for several times what it is.
    """
    random = np.random.default_rng(SEED)

    def halves(number: int) -> Rows:
        return random.permuted(np.arange(number // 2 * 2).reshape(-1, 2), axis=1).T

    differences = []
    for _ in range(HALVINGS):
        one, other = (np.asarray(statistic(*rows)) for rows in zip(halves(first), halves(second), strict=True))
        differences.append(one - other)
    return np.asarray(np.sqrt(np.mean(np.square(differences), axis=0)) / 2, np.float64)
