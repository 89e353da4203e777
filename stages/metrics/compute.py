"""Compute every metric of a run, over all classes and for each class, with its 95% interval and its reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.metrics import features, intervals, pixels
from stages.metrics.intervals import UNDEFINED, Estimate
from stages.metrics.subsets import equal_counts, halves

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ScoredDrawings:
    """N drawings with the judge's predictions and features.

    Attributes:
      images: (N, height, width, channels) uint8.
      class_indices: (N,) the class of each real drawing, or the requested class of each generated one.
      predicted: (N,) the class index that the judge predicts.
      features: (N, D) the judge's features.
      nearest_distances: (N,) the distance to the nearest training drawing.
    """

    images: npt.NDArray[np.uint8]
    class_indices: Indices
    predicted: Indices
    features: npt.NDArray[np.float64]
    nearest_distances: npt.NDArray[np.float64]

    def take(self, rows: Indices) -> ScoredDrawings:
        """The drawings at these row indices."""
        return ScoredDrawings(
            self.images[rows],
            self.class_indices[rows],
            self.predicted[rows],
            self.features[rows],
            self.nearest_distances[rows],
        )


@dataclass(frozen=True)
class Scores:
    """One score per drawing, and the drawing's class index.

    The score is bits per dimension, or whether the drawing is likeliest under its own label.
    """

    values: npt.NDArray[Any]
    class_indices: Indices


class Row(NamedTuple):
    """The value of one metric, for one class or for all classes (class index None)."""

    metric: str
    class_index: int | None
    estimate: Estimate
    reference: float = math.nan


def likelihood(num_classes: int, heldout: Scores, training: Scores, label_accuracy: Scores) -> Iterator[Row]:
    """Yield the metrics of the model's likelihood on real drawings."""
    for class_index in (None, *range(num_classes)):
        yield Row("heldout_bits_per_dim", class_index, _mean(heldout.values, heldout.class_indices, class_index))
        reference = _reference(heldout.values, heldout.class_indices, training.class_indices, class_index)
        estimate = _mean(training.values, training.class_indices, class_index)
        yield Row("training_bits_per_dim", class_index, estimate, reference)
        estimate = _mean(label_accuracy.values, label_accuracy.class_indices, class_index)
        yield Row("label_accuracy", class_index, estimate, 1 / num_classes)


def compare_drawings(num_classes: int, heldout: ScoredDrawings, generated: ScoredDrawings) -> Iterator[Row]:
    """Yield the metrics that compare generated with held-out drawings.

    Distances and neighbourhoods depend on the number of drawings. So the held-out drawings are split into two halves,
    and the generated drawings are compared with the first half, with equally many drawings of each class in all three
    sets. The reference is the second half compared with the first.
    """
    sets = (*(heldout.take(rows) for rows in halves(heldout.class_indices)), generated)
    equal_rows = equal_counts(*(drawings.class_indices for drawings in sets))
    first_half, second_half, matched = (drawings.take(rows) for drawings, rows in zip(sets, equal_rows, strict=True))
    scores_by_metric = list(_scores_by_metric(heldout, generated))
    for class_index in (None, *range(num_classes)):
        for name, generated_scores, heldout_scores in scores_by_metric:
            reference = _reference(heldout_scores, heldout.class_indices, generated.class_indices, class_index)
            yield Row(name, class_index, _mean(generated_scores, generated.class_indices, class_index), reference)
        estimate = informedness(generated, class_index, num_classes)
        yield Row("informedness", class_index, estimate, informedness(heldout, class_index, num_classes).value)
        reference = _mmd(first_half, second_half, class_index).value
        yield Row("mmd", class_index, _mmd(first_half, matched, class_index), reference)
    if len(first_half.class_indices) >= features.MIN_DRAWINGS:
        yield Row(
            "frechet_distance",
            None,
            features.frechet(first_half.features, matched.features),
            features.frechet_distance(first_half.features, second_half.features),
        )
        yield from _compare_features(num_classes, first_half, second_half, matched)


def informedness(drawings: ScoredDrawings, class_index: int | None, num_classes: int) -> Estimate:
    """Youden's J (1950) of a class: how often the judge predicts it when requested, less how often when another was.

    Over all classes it is (b - 1 / num_classes) / (1 - 1 / num_classes), where b is the mean class accuracy of the
    classes. That is the mean of J if equally many drawings of each class are requested.
    """
    requested_counts = np.bincount(drawings.class_indices, minlength=num_classes)
    if num_classes < 2 or not requested_counts.all():
        return UNDEFINED
    if class_index is None:
        correct = drawings.predicted == drawings.class_indices
        correct_counts = np.bincount(drawings.class_indices, correct, minlength=num_classes)
        balanced_accuracy = float((correct_counts / requested_counts).mean())
        estimate = intervals.estimate_share(balanced_accuracy, len(drawings.class_indices))
        return Estimate(*((value - 1 / num_classes) / (1 - 1 / num_classes) for value in estimate))
    requested, predicted = drawings.class_indices == class_index, drawings.predicted == class_index
    return intervals.estimate_difference(
        intervals.estimate_mean(predicted[requested]), intervals.estimate_mean(predicted[~requested])
    )


def _scores_by_metric(
    heldout: ScoredDrawings, generated: ScoredDrawings
) -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield (name, scores of generated drawings, scores of held-out drawings) for each metric that is their mean."""
    yield "class_accuracy", generated.predicted == generated.class_indices, heldout.predicted == heldout.class_indices
    distances, heldout_distances = generated.nearest_distances, heldout.nearest_distances
    yield (
        "memorised",
        pixels.memorised(distances, heldout_distances),
        pixels.memorised(heldout_distances, heldout_distances),
    )
    yield "nearest_distance", distances, heldout_distances
    ink, heldout_ink = pixels.ink(generated.images), pixels.ink(heldout.images)
    yield from ((name, ink[name], heldout_ink[name]) for name in ink)


def _compare_features(
    num_classes: int, first_half: ScoredDrawings, second_half: ScoredDrawings, generated: ScoredDrawings
) -> Iterator[Row]:
    """Yield the metrics that score each drawing from all drawings' features. The sets have equal class counts."""
    scores, reference_scores = (
        features.neighbourhoods(first_half.features, drawings.features) for drawings in (generated, second_half)
    )
    design_effects = features.design_effects(first_half.features, generated.features)
    class_indices = features.subsample(first_half.class_indices)
    correct, reference_correct = (
        features.c2st_accuracy(first_half.features, drawings.features) for drawings in (generated, second_half)
    )
    both = np.concatenate([first_half.class_indices, first_half.class_indices])
    for class_index in (None, *range(num_classes)):
        for name, design_effect in design_effects.items():
            estimate = _mean(getattr(scores, name), class_indices, class_index, design_effect)
            reference = _reference(getattr(reference_scores, name), class_indices, class_indices, class_index)
            yield Row(name, class_index, estimate, reference)
        estimate = _mean(correct, both, class_index, features.FOLDS_DESIGN_EFFECT)
        yield Row("c2st_accuracy", class_index, estimate, _reference(reference_correct, both, both, class_index))


def _mmd(real: ScoredDrawings, compared: ScoredDrawings, class_index: int | None) -> Estimate:
    real_features = _of_class(real.features, real.class_indices, class_index)
    compared_features = _of_class(compared.features, compared.class_indices, class_index)
    enough = min(len(real_features), len(compared_features)) >= features.MIN_MMD_DRAWINGS
    return features.mmd(real_features, compared_features) if enough else UNDEFINED


def _mean(
    scores: npt.NDArray[Any], class_indices: Indices, class_index: int | None, design_effect: float = 1.0
) -> Estimate:
    return intervals.estimate_mean(_of_class(scores, class_indices, class_index), design_effect)


def _reference(
    scores: npt.NDArray[Any], class_indices: Indices, value_class_indices: Indices, class_index: int | None
) -> float:
    """The mean of the reference scores, with each class weighted as in the value that is compared with it."""
    num_classes = 1 + max(class_indices.max(initial=-1), value_class_indices.max(initial=-1))
    target = np.bincount(_of_class(value_class_indices, value_class_indices, class_index), minlength=num_classes)
    counts = np.bincount(class_indices, minlength=num_classes)
    weights = (target / np.maximum(counts, 1))[class_indices]
    return float(np.average(scores, weights=weights)) if weights.any() else math.nan


def _of_class(values: npt.NDArray[Any], class_indices: Indices, class_index: int | None) -> npt.NDArray[Any]:
    """The values of the drawings of one class, or of all drawings for None."""
    return values if class_index is None else values[class_indices == class_index]
