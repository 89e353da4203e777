"""All measures of one run together: in all and by class, each with its interval and what to hold it against."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.measures import features, intervals, pixels
from stages.measures.intervals import NONE, Estimate

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Seen:
    """Drawings and what the judge makes of them.

    Attributes:
      images: (N, 28, 28) uint8.
      classes: (N,) the place of each drawing's class, or of the one asked for, among the classes.
      named: (N,) the place of the class that the judge names.
      features: (N, D) the judge's.
      nearest: (N,) the distance to the nearest training drawing.
    """

    images: npt.NDArray[np.uint8]
    classes: Places
    named: Places
    features: npt.NDArray[np.float64]
    nearest: npt.NDArray[np.float64]

    def take(self, rows: Places) -> Seen:
        """Some of the drawings."""
        return Seen(self.images[rows], self.classes[rows], self.named[rows], self.features[rows], self.nearest[rows])


@dataclass(frozen=True)
class Likelihood:
    """A score a drawing, and the place of its class: bits per dimension, or whether its own label is the likeliest."""

    scores: npt.NDArray[Any]
    classes: Places


class Row(NamedTuple):
    """One figure: of a measure, over the drawings of the class at a place, or of all classes (None)."""

    measure: str
    place: int | None
    estimate: Estimate
    reference: float = math.nan


def likelihood(number: int, heldout: Likelihood, training: Likelihood, label_use: Likelihood) -> Iterator[Row]:
    """What the model says of real drawings of `number` classes."""
    for place in (None, *range(number)):
        yield Row("heldout_bits_per_dim", place, _mean(heldout.scores, heldout.classes, place))
        reference = _reference(heldout.scores, heldout.classes, training.classes, place)
        yield Row("training_bits_per_dim", place, _mean(training.scores, training.classes, place), reference)
        yield Row("label_use", place, _mean(label_use.scores, label_use.classes, place), 1 / number)


def drawings(number: int, heldout: Seen, generated: Seen) -> Iterator[Row]:
    """Generated drawings of `number` classes against the held-out ones.

    The distances and the neighbourhoods depend on how many drawings there are. So the held-out ones are cut in two, and
    generated ones are held against the first half, as many of each class as each half holds or as there are; what the
    second half itself reaches against the first is the reference.
    """
    sets = (*(heldout.take(half) for half in halves(heldout.classes)), generated)
    alike = alike_in_number(*(one.classes for one in sets))
    real, others, ours = (one.take(rows) for one, rows in zip(sets, alike, strict=True))
    by_drawing = list(_by_drawing(heldout, generated))
    for place in (None, *range(number)):
        for name, scores, references in by_drawing:
            reference = _reference(references, heldout.classes, generated.classes, place)
            yield Row(name, place, _mean(scores, generated.classes, place), reference)
        informed = informedness(generated, place, number)
        yield Row("informedness", place, informed, informedness(heldout, place, number).value)
        yield Row("kernel_distance", place, _kernel(real, ours, place), _kernel(real, others, place).value)
    if len(real.classes) >= features.FEWEST:
        yield Row(
            "frechet_distance",
            None,
            features.frechet(real.features, ours.features),
            features.frechet_distance(real.features, others.features),
        )
        yield from _neighbours(number, real, ours, others)


def halves(classes: Places) -> tuple[Places, Places]:
    """The rows of the drawings, every other one of each class in the first half, the rest in the second."""
    rank = _rank(classes)
    return np.flatnonzero(rank % 2 == 0), np.flatnonzero(rank % 2 == 1)


def alike_in_number(*sets: Places) -> list[Places]:
    """The rows to take of sets of such classes: the first of each class, as many from each set, class after class."""
    number = 1 + max(classes.max(initial=-1) for classes in sets)
    least = np.min([np.bincount(classes, minlength=number) for classes in sets], axis=0)
    orders = [np.argsort(classes, kind="stable") for classes in sets]
    return [order[(_rank(classes) < least[classes])[order]] for classes, order in zip(sets, orders, strict=True)]


def informedness(drawings: Seen, place: int | None, number: int) -> Estimate:
    """Youden's J (1950) of a class: how often it is named where it was asked for, less how often where another was.

    In all it is (b - 1 / number) / (1 - 1 / number) of b, the mean over the classes of how often each is named where it
    was asked for: the mean of J where as many are asked for of each.
    """
    asked = np.bincount(drawings.classes, minlength=number)
    if number < 2 or not asked.all():
        return NONE
    if place is None:
        right = np.bincount(drawings.classes, drawings.named == drawings.classes, minlength=number)
        share = intervals.of_share(float((right / asked).mean()), len(drawings.classes))
        return Estimate(*((end - 1 / number) / (1 - 1 / number) for end in share))
    here, named = drawings.classes == place, drawings.named == place
    return intervals.of_difference(intervals.of_mean(named[here]), intervals.of_mean(named[~here]))


def _by_drawing(heldout: Seen, generated: Seen) -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
    """The measures that are means of a score a drawing, with the same scores of the held-out ones."""
    near = pixels.copied(generated.nearest, heldout.nearest), pixels.copied(heldout.nearest, heldout.nearest)
    ours, theirs = pixels.ink(generated.images), pixels.ink(heldout.images)
    yield "fidelity", generated.named == generated.classes, heldout.named == heldout.classes
    yield "copies", *near
    yield "nearest_distance", generated.nearest, heldout.nearest
    yield from ((name, ours[name], theirs[name]) for name in ours)


def _neighbours(number: int, real: Seen, ours: Seen, others: Seen) -> Iterator[Row]:
    """The measures whose scores want all drawings at once, and can be read by class; the sets are alike in number."""
    measured, best = (features.neighbourhoods(real.features, other.features) for other in (ours, others))
    effects = features.design_effects(real.features, ours.features)
    classes = features.thinned(real.classes)
    apart, apart_best = (features.told_apart(real.features, other.features) for other in (ours, others))
    both = np.concatenate([real.classes, real.classes])
    for place in (None, *range(number)):
        for name, effect in effects.items():
            estimate = _mean(getattr(measured, name), classes, place, effect)
            yield Row(name, place, estimate, _reference(getattr(best, name), classes, classes, place))
        estimate = _mean(apart, both, place, features.FOLDS_EFFECT)
        yield Row("told_apart", place, estimate, _reference(apart_best, both, both, place))


def _kernel(real: Seen, others: Seen, place: int | None) -> Estimate:
    one, other = _of(real.features, real.classes, place), _of(others.features, others.classes, place)
    return features.kernel(one, other) if min(len(one), len(other)) > 3 else NONE


def _mean(scores: npt.NDArray[Any], classes: Places, place: int | None, design_effect: float = 1.0) -> Estimate:
    return intervals.of_mean(_of(scores, classes, place), design_effect)


def _reference(scores: npt.NDArray[Any], classes: Places, of_value: Places, place: int | None) -> float:
    """The mean of scores, each class weighing what it does in the value that is held against it."""
    number = 1 + max(classes.max(initial=-1), of_value.max(initial=-1))
    wanted = np.bincount(_of(of_value, of_value, place), minlength=number)
    weights = (wanted / np.maximum(np.bincount(classes, minlength=number), 1))[classes]
    return float(np.average(scores, weights=weights)) if weights.any() else math.nan


def _of(values: npt.NDArray[Any], classes: Places, place: int | None) -> npt.NDArray[Any]:
    """The values of the drawings of one class, or of all."""
    return values if place is None else values[classes == place]


def _rank(classes: Places) -> Places:
    """The place of each drawing among those of its class."""
    order = np.argsort(classes, kind="stable")
    ends = np.cumsum(np.bincount(classes)) if len(classes) else np.zeros(0, np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    rank = np.empty(len(classes), np.int64)
    rank[order] = np.arange(len(classes)) - starts[classes[order]]
    return rank
