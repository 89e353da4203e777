"""Compare real with generated drawings by their features: distances, neighbourhoods and a two-sample test.

Features are (N, D) arrays with one row per drawing.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.metrics.intervals import Estimate, Rows, estimate_distance, standard_error

Features = npt.NDArray[np.float64]

NEIGHBOURS = 5
MIN_DRAWINGS = 2 * (NEIGHBOURS + 1)  # so that each half of a set has NEIGHBOURS neighbours
MIN_MMD_DRAWINGS = 4
MAX_DRAWINGS = 2000  # of a set, where every pair of drawings is compared: memory grows with the square
FOLDS = 5
# The training sets of the folds overlap. By Nadeau and Bengio (2003) the variance is that of independent folds times
# 1 + FOLDS × (drawings tested / drawings trained on).
FOLDS_DESIGN_EFFECT = 1 + FOLDS / (FOLDS - 1)


def subsample(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """At most MAX_DRAWINGS of the rows, evenly spaced: if they are ordered by class, every class is represented."""
    return values[:: max(1, math.ceil(len(values) / MAX_DRAWINGS))]


def frechet_distance(real: Features, generated: Features) -> float:
    """The squared Fréchet distance between normal distributions fitted to the two sets.

    Heusel et al., arXiv 1706.08500: |m - n|² + tr(C + D - 2 (C D)^½). The trace of the root is computed from the
    eigenvalues of C^½ D C^½.
    """
    from scipy.linalg import eigh, eigvalsh

    real_covariance, generated_covariance = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    eigenvalues, eigenvectors = eigh(real_covariance)
    root = (eigenvectors * np.sqrt(np.maximum(eigenvalues, 0))) @ eigenvectors.T
    root_trace = np.sqrt(np.maximum(eigvalsh(root @ generated_covariance @ root), 0)).sum()
    mean_difference = ((real.mean(0) - generated.mean(0)) ** 2).sum()
    return float(max(mean_difference + np.trace(real_covariance) + np.trace(generated_covariance) - 2 * root_trace, 0))


def frechet(real: Features, generated: Features) -> Estimate:
    """The squared Fréchet distance with its interval."""
    return estimate_distance(lambda i, j: frechet_distance(real[i], generated[j]), len(real), len(generated))


def mmd(real: Features, generated: Features) -> Estimate:
    """The unbiased estimate of the squared maximum mean discrepancy, with the kernel (x·y / D + 1)³.

    Bińkowski et al., arXiv 1801.01401. It can be negative. Each set is subsampled, and must hold at least
    MIN_MMD_DRAWINGS drawings.
    """
    from sklearn.metrics.pairwise import polynomial_kernel

    real, generated = subsample(real), subsample(generated)
    real_real, real_generated, generated_generated = (
        polynomial_kernel(x, y, degree=3) for x, y in ((real, real), (real, generated), (generated, generated))
    )

    def mean_off_diagonal(kernel: Features, rows: Rows) -> float:
        pairs = kernel[np.ix_(rows, rows)]
        return float((pairs.sum() - pairs.trace()) / (len(rows) * (len(rows) - 1)))

    def discrepancy(i: Rows, j: Rows) -> float:
        between = float(real_generated[np.ix_(i, j)].mean())
        return mean_off_diagonal(real_real, i) + mean_off_diagonal(generated_generated, j) - 2 * between

    return estimate_distance(discrepancy, len(real), len(generated))


class Neighbourhoods(NamedTuple):
    """Scores per drawing. The mean of each over its set is the metric of the same name."""

    precision: npt.NDArray[Any]  # per generated drawing
    recall: npt.NDArray[Any]  # per real drawing
    density: npt.NDArray[Any]  # per generated drawing
    coverage: npt.NDArray[Any]  # per real drawing


def neighbourhoods(real: Features, generated: Features) -> Neighbourhoods:
    """Score each drawing by the neighbourhoods of the other set: balls that reach to the fifth-nearest neighbour.

    Precision and recall follow Kynkäänniemi et al. (arXiv 1904.06991), density and coverage Naeem et al. (arXiv
    2002.09797). Both sets are subsampled, and must hold more than NEIGHBOURS drawings.
    """
    return _neighbourhood_scores(*_distances(real, generated))


def design_effects(real: Features, generated: Features) -> dict[str, float]:
    """The design effect (Kish 1965) of each neighbourhood score, by name.

    It is the variance of the scores' mean, divided by that of as many independent scores. The scores of one set are
    correlated because they share the balls of the other. The effect over all drawings is also used for each class,
    since the neighbours of a drawing mostly have its class. Both sets must hold at least MIN_DRAWINGS drawings.
    """
    real_real, real_generated, generated_generated = _distances(real, generated)

    def means(i: Rows, j: Rows) -> list[float]:
        subset = real_real[np.ix_(i, i)], real_generated[np.ix_(i, j)], generated_generated[np.ix_(j, j)]
        return [scores.mean() for scores in _neighbourhood_scores(*subset)]

    errors = standard_error(means, *real_generated.shape)
    all_scores = _neighbourhood_scores(real_real, real_generated, generated_generated)
    independent_errors = np.array([scores.std() / math.sqrt(len(scores)) for scores in all_scores])
    effects = np.divide(errors, independent_errors, out=np.ones_like(errors), where=independent_errors > 0) ** 2
    return dict(zip(all_scores._fields, np.maximum(effects, 1).tolist(), strict=True))


def _distances(real: Features, generated: Features) -> tuple[Features, Features, Features]:
    """The distance matrices of the subsampled sets: real to real, real to generated, generated to generated."""
    from scipy.spatial.distance import cdist

    real, generated = subsample(real), subsample(generated)
    return cdist(real, real), cdist(real, generated), cdist(generated, generated)


def _neighbourhood_scores(
    real_real: Features, real_generated: Features, generated_generated: Features
) -> Neighbourhoods:
    """The scores, from the three distance matrices."""

    def radii(distances: Features) -> Features:
        return np.partition(distances, NEIGHBOURS, axis=1)[:, NEIGHBOURS]  # index 0 is the drawing itself

    in_real = real_generated <= radii(real_real)[:, np.newaxis]
    in_generated = real_generated <= radii(generated_generated)
    return Neighbourhoods(
        np.asarray(in_real.any(axis=0)),
        np.asarray(in_generated.any(axis=1)),
        in_real.sum(axis=0) / NEIGHBOURS,
        np.asarray(in_real.any(axis=1)),
    )


def c2st_accuracy(real: Features, generated: Features) -> npt.NDArray[np.bool_]:
    """Whether a classifier predicts correctly if each drawing is real or generated, the real ones first: (2N,).

    The classifier two-sample test of Lopez-Paz and Oquab (arXiv 1610.06545): logistic regression with five-fold
    cross-validation. Row i of both sets must have the same class, and goes to the same fold. So guessing is right half
    of the time. If one set had more drawings of a class, predicting that set would be right more often; if it had more
    of them only in the training folds, less often.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    drawings = np.concatenate([real, generated])
    is_generated = np.arange(len(drawings)) >= len(real)
    folds = PredefinedSplit(np.tile(np.arange(len(real)) % FOLDS, 2))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
    predicted = cross_val_predict(classifier, drawings, is_generated, cv=folds)
    return np.asarray(predicted == is_generated)
