"""A figure with its 95% interval, by the bootstrap (Efron 1979): the drawings drawn again, with replacement."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
NORMAL = 1.959964  # deviations on each side that hold so much of a normal distribution
MEANS, SETS = 1000, 200  # resamples: of a mean, which costs nothing, and of a distance between sets
SEED = 0

Statistic = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], float]


class Estimate(NamedTuple):
    """A figure and the ends of its interval; NaN where there is too little to tell."""

    value: float
    low: float
    high: float


NONE = Estimate(math.nan, math.nan, math.nan)


def of_mean(scores: npt.NDArray[Any]) -> Estimate:
    """The mean of one score a drawing; the interval is the bootstrap's percentiles.

    Where something is true of all drawings or of none, the bootstrap knows no other outcome; there it is the exact
    interval of Clopper and Pearson (1934).
    """
    if not len(scores):
        return NONE
    values = np.asarray(scores, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, math.nan, math.nan)
    from scipy.stats import binomtest, bootstrap

    if (values == values[0]).all():
        if scores.dtype != bool:
            return Estimate(mean, mean, mean)
        exact = binomtest(int(values.sum()), len(values)).proportion_ci(LEVEL, method="exact")
        return Estimate(mean, float(exact.low), float(exact.high))

    random = np.random.default_rng(SEED)
    found = bootstrap(
        (values,), np.mean, n_resamples=MEANS, confidence_level=LEVEL, method="percentile", rng=random
    ).confidence_interval
    return Estimate(mean, float(found.low), float(found.high))


def of_sets(statistic: Statistic, first: int, second: int) -> Estimate:
    """A distance between two sets, `statistic(rows of the first, rows of the second)`.

    A set drawn again holds some drawings twice, which moves a distance up and no interval of percentiles heeds; so the
    interval is the value and the bootstrap's standard error on both sides, as many as the normal distribution has.
    """
    from scipy.stats import bootstrap

    everything = np.arange(first), np.arange(second)
    value = statistic(*everything)
    error = bootstrap(
        everything,
        lambda rows, others: statistic(rows, others),
        n_resamples=SETS,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).standard_error
    return Estimate(value, value - NORMAL * float(error), value + NORMAL * float(error))
