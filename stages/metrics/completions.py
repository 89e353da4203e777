"""Metrics of completions: drawings whose upper rows are those of held-out drawings, and whose rest the model draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.metrics import intervals
from stages.metrics.compute import Row

Predicted = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ScoredCompletions:
    """N held-out drawings, two completions of each, and the class that the judge predicts of them.

    Attributes:
      rows: how many upper rows were given.
      real: (N, height, width, channels) uint8, the held-out drawings.
      completed: (N, 2, height, width, channels) uint8.
      real_bits: (N, height, width), the bits of each pixel.
      completed_bits: (N, 2, height, width).
      class_indices: (N,) the class of each drawing.
      real_predicted: (N,) the predicted class of the whole drawing.
      upper_predicted: (N,) that of its upper rows alone.
      completed_predicted: (N, 2) that of its completions.
    """

    rows: int
    real: npt.NDArray[np.uint8]
    completed: npt.NDArray[np.uint8]
    real_bits: npt.NDArray[np.float64]
    completed_bits: npt.NDArray[np.float64]
    class_indices: Predicted
    real_predicted: Predicted
    upper_predicted: Predicted
    completed_predicted: Predicted


def measure(scored: ScoredCompletions) -> Iterator[Row]:
    """Yield the metrics, each over all classes. Those of the rest are left out if no row is left to draw."""
    classes = scored.class_indices
    real_accuracy = float((scored.real_predicted == classes).mean())
    correct = scored.completed_predicted == classes[:, np.newaxis]
    # The two completions of a drawing resemble each other, so they count as one.
    accuracy = intervals.estimate_mean(correct.ravel(), design_effect=correct.shape[1])
    yield Row("completion_accuracy", None, accuracy, real_accuracy)
    upper_accuracy = intervals.estimate_mean(scored.upper_predicted == classes)
    yield Row("upper_rows_accuracy", None, upper_accuracy, real_accuracy)
    if scored.rows == scored.real.shape[1]:
        return
    channels = scored.real.shape[-1]
    true_bits = scored.real_bits[:, scored.rows :].mean(axis=(1, 2)) / channels
    drawn_bits = scored.completed_bits[:, :, scored.rows :].mean() / channels
    yield Row("completion_bits_per_dim", None, intervals.estimate_mean(true_bits), float(drawn_bits))
    apart = _distances(scored.completed[:, 0], scored.completed[:, 1])
    from_real = _distances(scored.completed, scored.real[:, np.newaxis])
    yield Row("completion_distance", None, intervals.estimate_mean(apart), float(from_real.mean()))


def _distances(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Euclidean distances between drawings, over their last three axes, in pixels of full ink."""
    difference: npt.NDArray[Any] = first.astype(np.float64) - second
    return np.asarray(np.sqrt(np.square(difference / 255).sum(axis=(-3, -2, -1))))
