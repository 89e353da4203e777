"""All measures of one run together: in all and by class, each with its interval and what to hold it against."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.metrics import features, intervals, pixels
from stages.metrics.intervals import NONE, Estimate
from stages.metrics.subsets import equal_counts, halves

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ScoredDrawings:
    """Drawings and what the judge makes of them.

    Attributes:
      images: (N, 28, 28) uint8.
      classes: (N,) the place of each drawing's class, or of the one asked for, among the classes.
      predicted: (N,) the place of the class that the judge names.
      features: (N, D) the judge's.
      nearest: (N,) the distance to the nearest training drawing.
    """

    images: npt.NDArray[np.uint8]
    classes: Indices
    predicted: Indices
    features: npt.NDArray[np.float64]
    nearest: npt.NDArray[np.float64]

    def take(self, rows: Indices) -> ScoredDrawings:
        """Some of the drawings."""
        return ScoredDrawings(
            self.images[rows], self.classes[rows], self.predicted[rows], self.features[rows], self.nearest[rows]
        )


@dataclass(frozen=True)
class Likelihood:
    """A score a drawing, and the place of its class: bits per dimension, or whether its own label is the likeliest."""

    scores: npt.NDArray[Any]
    classes: Indices


class Row(NamedTuple):
    """One figure: of a measure, over the drawings of the class at a place, or of all classes (None)."""

    metric: str
    place: int | None
    estimate: Estimate
    reference: float = math.nan


def likelihood(number: int, heldout: Likelihood, training: Likelihood, label_accuracy: Likelihood) -> Iterator[Row]:
    """What the model says of real drawings of `number` classes."""
    for place in (None, *range(number)):
        yield Row("heldout_bits_per_dim", place, _mean(heldout.scores, heldout.classes, place))
        reference = _reference(heldout.scores, heldout.classes, training.classes, place)
        yield Row("training_bits_per_dim", place, _mean(training.scores, training.classes, place), reference)
        yield Row("label_accuracy", place, _mean(label_accuracy.scores, label_accuracy.classes, place), 1 / number)


def compare_drawings(number: int, heldout: ScoredDrawings, generated: ScoredDrawings) -> Iterator[Row]:
    """Generated drawings of `number` classes against the held-out ones.

    The distances and the neighbourhoods depend on how many drawings there are. So the held-out ones are cut in two, and
    generated ones are held against the first half, as many of each class as each half holds or as there are; what the
    second half itself reaches against the first is the reference.
    """
    sets = (*(heldout.take(half) for half in halves(heldout.classes)), generated)
    alike = equal_counts(*(one.classes for one in sets))
    real, others, ours = (one.take(rows) for one, rows in zip(sets, alike, strict=True))
    by_drawing = list(_scores_by_drawing(heldout, generated))
    for place in (None, *range(number)):
        for name, scores, references in by_drawing:
            reference = _reference(references, heldout.classes, generated.classes, place)
            yield Row(name, place, _mean(scores, generated.classes, place), reference)
        informed = informedness(generated, place, number)
        yield Row("informedness", place, informed, informedness(heldout, place, number).value)
        yield Row("mmd", place, _mmd(real, ours, place), _mmd(real, others, place).value)
    if len(real.classes) >= features.MIN_DRAWINGS:
        yield Row(
            "frechet_distance",
            None,
            features.frechet(real.features, ours.features),
            features.frechet_distance(real.features, others.features),
        )
        yield from _neighbours(number, real, ours, others)


def informedness(drawings: ScoredDrawings, place: int | None, number: int) -> Estimate:
    """Youden's J (1950) of a class: how often it is named where it was asked for, less how often where another was.

    In all it is (b - 1 / number) / (1 - 1 / number) of b, the mean over the classes of how often each is named where it
    was asked for: the mean of J where as many are asked for of each.
    """
    asked = np.bincount(drawings.classes, minlength=number)
    if number < 2 or not asked.all():
        return NONE
    if place is None:
        right = np.bincount(drawings.classes, drawings.predicted == drawings.classes, minlength=number)
        share = intervals.of_share(float((right / asked).mean()), len(drawings.classes))
        return Estimate(*((end - 1 / number) / (1 - 1 / number) for end in share))
    here, named = drawings.classes == place, drawings.predicted == place
    return intervals.of_difference(intervals.of_mean(named[here]), intervals.of_mean(named[~here]))


def _scores_by_drawing(
    heldout: ScoredDrawings, generated: ScoredDrawings
) -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
    """The measures that are means of a score a drawing, with the same scores of the held-out ones."""
    near = pixels.memorised(generated.nearest, heldout.nearest), pixels.memorised(heldout.nearest, heldout.nearest)
    ours, theirs = pixels.ink(generated.images), pixels.ink(heldout.images)
    yield "class_accuracy", generated.predicted == generated.classes, heldout.predicted == heldout.classes
    yield "memorised", *near
    yield "nearest_distance", generated.nearest, heldout.nearest
    yield from ((name, ours[name], theirs[name]) for name in ours)


def _neighbours(number: int, real: ScoredDrawings, ours: ScoredDrawings, others: ScoredDrawings) -> Iterator[Row]:
    """The measures whose scores want all drawings at once, and can be read by class; the sets are alike in number."""
    measured, best = (features.neighbourhoods(real.features, other.features) for other in (ours, others))
    effects = features.design_effects(real.features, ours.features)
    classes = features.subsample(real.classes)
    apart, apart_best = (features.c2st_accuracy(real.features, other.features) for other in (ours, others))
    both = np.concatenate([real.classes, real.classes])
    for place in (None, *range(number)):
        for name, effect in effects.items():
            estimate = _mean(getattr(measured, name), classes, place, effect)
            yield Row(name, place, estimate, _reference(getattr(best, name), classes, classes, place))
        estimate = _mean(apart, both, place, features.FOLDS_EFFECT)
        yield Row("c2st_accuracy", place, estimate, _reference(apart_best, both, both, place))


def _mmd(real: ScoredDrawings, others: ScoredDrawings, place: int | None) -> Estimate:
    one, other = _of(real.features, real.classes, place), _of(others.features, others.classes, place)
    return features.mmd(one, other) if min(len(one), len(other)) > 3 else NONE


def _mean(scores: npt.NDArray[Any], classes: Indices, place: int | None, design_effect: float = 1.0) -> Estimate:
    return intervals.of_mean(_of(scores, classes, place), design_effect)


def _reference(scores: npt.NDArray[Any], classes: Indices, of_value: Indices, place: int | None) -> float:
    """The mean of scores, each class weighing what it does in the value that is held against it."""
    number = 1 + max(classes.max(initial=-1), of_value.max(initial=-1))
    wanted = np.bincount(_of(of_value, of_value, place), minlength=number)
    weights = (wanted / np.maximum(np.bincount(classes, minlength=number), 1))[classes]
    return float(np.average(scores, weights=weights)) if weights.any() else math.nan


def _of(values: npt.NDArray[Any], classes: Indices, place: int | None) -> npt.NDArray[Any]:
    """The values of the drawings of one class, or of all."""
    return values if place is None else values[classes == place]
