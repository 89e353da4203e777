"""Estimates with 95% intervals: of a mean, a share, a difference of two shares, and a distance between two sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
Z_SCORE = 1.959964  # a normal distribution lies within this many standard deviations of its mean with probability LEVEL
BOOTSTRAP_RESAMPLES = 1000
RESAMPLED_VALUES = 10_000_000  # in memory at a time
HALF_SPLITS = 50  # random splits of two sets into halves; the standard error is then right to about a tenth
SEED = 0

Rows = npt.NDArray[np.int64]
Statistic = Callable[[Rows, Rows], npt.ArrayLike]


class Estimate(NamedTuple):
    """A value and the ends of its interval; NaN where there are too few drawings to estimate them."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(math.nan, math.nan, math.nan)


def estimate_mean(scores: npt.NDArray[Any], design_effect: float = 1.0) -> Estimate:
    """The mean of one score per drawing.

    The interval of Boolean scores is Wilson's. That of other scores is the percentile bootstrap (Efron 1979), which
    resamples the drawings with replacement.

    Args:
      scores: (N,) Boolean or numeric.
      design_effect: the variance of the mean, divided by that of as many independent scores (Kish 1965).
    """
    if not len(scores):
        return UNDEFINED
    values = np.asarray(scores, np.float64)
    mean = float(values.mean())
    if scores.dtype == bool:
        return estimate_share(mean, len(values) / design_effect)
    if len(values) < 2:
        return Estimate(mean, math.nan, math.nan)
    if (values == values[0]).all():
        return Estimate(mean, mean, mean)
    from scipy.stats import bootstrap

    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=BOOTSTRAP_RESAMPLES,
        batch=max(1, RESAMPLED_VALUES // len(values)),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    scale = math.sqrt(design_effect)
    return Estimate(mean, mean - scale * float(mean - interval.low), mean + scale * float(interval.high - mean))


def estimate_share(share: float, number: float) -> Estimate:
    """A share of `number` drawings, with Wilson's interval (1927), which has a width even for a share of 0 or 1."""

    def low(share: float) -> float:
        square = Z_SCORE**2
        root = Z_SCORE * math.sqrt(square + 4 * number * share * (1 - share))
        return (2 * number * share + square - root) / (2 * (number + square))

    return Estimate(share, low(share), 1 - low(1 - share))


def estimate_difference(share: Estimate, subtracted: Estimate) -> Estimate:
    """The difference of two shares of different drawings, with their intervals combined as by Newcombe (1998)."""
    value = share.value - subtracted.value
    below = math.hypot(share.value - share.low, subtracted.high - subtracted.value)
    above = math.hypot(share.high - share.value, subtracted.value - subtracted.low)
    return Estimate(value, value - below, value + above)


def estimate_distance(statistic: Statistic, first_size: int, second_size: int) -> Estimate:
    """A distance between two sets, with an interval from its standard error.

    Args:
      statistic: computes the distance from row indices of the first and of the second set.
      first_size, second_size: the number of drawings in each set.
    """
    value = float(np.asarray(statistic(np.arange(first_size), np.arange(second_size))))
    margin = Z_SCORE * float(standard_error(statistic, first_size, second_size))
    return Estimate(value, value - margin, value + margin)


def standard_error(statistic: Statistic, first_size: int, second_size: int) -> npt.NDArray[np.float64]:
    """The standard error of statistics of two sets, from the difference between two halves of the sets (McCarthy 1969).

    Of each two consecutive drawings one goes to each half, at random. So drawings that are ordered by class are halved
    class by class. A statistic of half the drawings has twice the variance, and the difference of two such statistics
    twice as much again. The bootstrap would repeat drawings, each in the neighbourhood of its copy. The jackknife
    overestimates several times what neighbourhoods gain and lose by a few drawings.

    Args:
      statistic: computes one or several numbers from row indices of the first and of the second set.
      first_size, second_size: the number of drawings in each set.
    """
    random = np.random.default_rng(SEED)

    def split(number: int) -> Rows:
        return random.permuted(np.arange(number // 2 * 2).reshape(-1, 2), axis=1).T

    differences = []
    for _ in range(HALF_SPLITS):
        halves = zip(split(first_size), split(second_size), strict=True)
        first_half, second_half = (np.asarray(statistic(*rows)) for rows in halves)
        differences.append(first_half - second_half)
    return np.asarray(np.sqrt(np.mean(np.square(differences), axis=0)) / 2, np.float64)
