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
        measured = _mean(heldout.scores, heldout.classes, place)
        yield Row("heldout_bits_per_dim", place, measured)
        yield Row("training_bits_per_dim", place, _mean(training.scores, training.classes, place), measured.value)
        yield Row("label_use", place, _mean(label_use.scores, label_use.classes, place), 1 / number)


def drawings(number: int, heldout: Seen, generated: Seen) -> Iterator[Row]:
    """Generated drawings of `number` classes against the held-out ones.

    The distances and the neighbourhoods depend on how many drawings there are. So the held-out ones are cut in two, and
    as many generated ones as the second half holds of each class are held against the first; what the second half
    itself reaches against the first is the reference.
    """
    first, second = halves(heldout.classes)
    second, chosen = alike_in_number(second, heldout.classes, generated.classes)
    real, others, ours = heldout.take(first), heldout.take(second), generated.take(chosen)
    for place in (None, *range(number)):
        for name, scores, references in _by_drawing(heldout, generated, place):
            yield Row(name, place, intervals.of_mean(scores), intervals.of_mean(references).value)
        informed = informedness(generated, place, number)
        yield Row("informedness", place, informed, informedness(heldout, place, number).value)
        yield Row("kernel_distance", place, _kernel(real, ours, place), _kernel(real, others, place).value)
    if min(len(first), len(second)) > features.NEIGHBOURS:
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


def alike_in_number(rows: Places, classes: Places, of_others: Places) -> tuple[Places, Places]:
    """As many of `rows` as there are others, and as many others, class by class: the first of each."""
    ours, theirs = np.bincount(classes[rows]), np.bincount(of_others)
    least = np.minimum(*(np.pad(n, (0, max(len(ours), len(theirs)) - len(n))) for n in (ours, theirs)))
    of_rows = classes[rows]
    return rows[_rank(of_rows) < least[of_rows]], np.flatnonzero(_rank(of_others) < least[of_others])


def informedness(drawings: Seen, place: int | None, number: int) -> Estimate:
    """Youden's J (1950) of a class: how often it is named where it was asked for, less how often where another was.

    In all it is the mean over the classes, (fidelity - 1 / number) / (1 - 1 / number) where as many are asked for of
    each. The interval is the bootstrap's over drawings, those of each class apart.
    """
    if number < 2:
        return NONE
    places = range(number) if place is None else [place]
    asked = [drawings.named[drawings.classes == k] for k in range(number)]
    if any(not len(named) for named in asked):
        return NONE
    counts = np.stack([np.bincount(named, minlength=number) for named in asked])  # (asked, named)
    random = np.random.default_rng(intervals.SEED)
    again = np.stack(
        [random.multinomial(row.sum(), row / row.sum(), size=intervals.MEANS) for row in counts], axis=1
    )  # (resamples, asked, named)

    def informed(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        sizes = counts.sum(axis=-1)
        hits = np.diagonal(counts, axis1=-2, axis2=-1)
        false = counts.sum(axis=-2) - hits
        return np.asarray(
            (hits / sizes - false / (sizes.sum(axis=-1, keepdims=True) - sizes))[..., places].mean(axis=-1)
        )

    tail = (1 - intervals.LEVEL) / 2
    low, high = np.quantile(informed(again), [tail, 1 - tail])
    return Estimate(float(informed(counts)), float(low), float(high))


def _by_drawing(
    heldout: Seen, generated: Seen, place: int | None
) -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
    """The measures that are means of a score a drawing, with the same scores of the held-out ones."""
    near = pixels.copied(generated.nearest, heldout.nearest), pixels.copied(heldout.nearest, heldout.nearest)
    ours, theirs = pixels.ink(generated.images), pixels.ink(heldout.images)
    for name, scores, references in (
        ("fidelity", generated.named == generated.classes, heldout.named == heldout.classes),
        ("copies", *near),
        ("nearest_distance", generated.nearest, heldout.nearest),
        *((name, ours[name], theirs[name]) for name in ours),
    ):
        yield name, _of(scores, generated.classes, place), _of(references, heldout.classes, place)


def _neighbours(number: int, real: Seen, ours: Seen, others: Seen) -> Iterator[Row]:
    """The measures whose scores want all drawings at once, and can be read by class."""
    measured, best = (features.neighbourhoods(real.features, other.features) for other in (ours, others))
    sides = {"precision": ours, "recall": real, "density": ours, "coverage": real}
    apart, apart_best = (features.told_apart(real.features, other.features) for other in (ours, others))
    both, both_best = (np.concatenate([real.classes, other.classes]) for other in (ours, others))
    for place in (None, *range(number)):
        for name, side in sides.items():
            reference_side = real if side is real else others
            reference = _mean(getattr(best, name), reference_side.classes, place)
            yield Row(name, place, _mean(getattr(measured, name), side.classes, place), reference.value)
        yield Row("told_apart", place, _mean(apart, both, place), _mean(apart_best, both_best, place).value)


def _kernel(real: Seen, others: Seen, place: int | None) -> Estimate:
    one, other = _of(real.features, real.classes, place), _of(others.features, others.classes, place)
    return features.kernel(one, other) if min(len(one), len(other)) > 2 else NONE


def _mean(scores: npt.NDArray[Any], classes: Places, place: int | None) -> Estimate:
    return intervals.of_mean(_of(scores, classes, place))


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
