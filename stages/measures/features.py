"""Real against generated in a space of features, one row a drawing: distances, neighbourhoods, and telling apart."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.measures.intervals import Estimate, of_sets

Features = npt.NDArray[np.float64]

NEIGHBOURS = 5
FOLDS = 5


def frechet_distance(real: Features, generated: Features) -> float:
    """The squared Fréchet distance of two normal distributions fitted to the sets (Heusel et al., arXiv 1706.08500).

    |m - n|² + tr(C + D - 2 (C D)^½), the trace of the root taken from the eigenvalues of C^½ D C^½.
    """
    from scipy.linalg import eigh, eigvalsh

    ours, theirs = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    values, vectors = eigh(ours)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    between = np.sqrt(np.maximum(eigvalsh(root @ theirs @ root), 0)).sum()
    apart = ((real.mean(0) - generated.mean(0)) ** 2).sum()
    return float(max(apart + np.trace(ours) + np.trace(theirs) - 2 * between, 0))


def frechet(real: Features, generated: Features) -> Estimate:
    """The Fréchet distance with its interval."""
    return of_sets(lambda i, j: frechet_distance(real[i], generated[j]), len(real), len(generated))


def kernel(real: Features, generated: Features) -> Estimate:
    """The squared maximum mean discrepancy, unbiased, of the kernel (x·y / d + 1)³.

    Bińkowski et al., arXiv 1801.01401. It may be below 0. In a resample a drawing is not compared with itself.
    """
    from sklearn.metrics.pairwise import polynomial_kernel

    within, between, beyond = (
        polynomial_kernel(x, y, degree=3) for x, y in ((real, real), (real, generated), (generated, generated))
    )

    def among(kernel: Features, rows: npt.NDArray[np.int64]) -> float:
        others = rows[:, np.newaxis] != rows
        pairs = kernel[np.ix_(rows, rows)]
        return float(pairs[others].mean() if others.any() else pairs[0, 0])  # the same drawing throughout

    def discrepancy(i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> float:
        return among(within, i) + among(beyond, j) - 2 * float(between[np.ix_(i, j)].mean())

    return of_sets(discrepancy, len(real), len(generated))


class Neighbourhoods(NamedTuple):
    """A score a drawing; the mean of each over its set is the measure of that name."""

    precision: npt.NDArray[Any]  # of the generated
    recall: npt.NDArray[Any]  # of the real
    density: npt.NDArray[Any]  # of the generated
    coverage: npt.NDArray[Any]  # of the real


def neighbourhoods(real: Features, generated: Features, neighbours: int = NEIGHBOURS) -> Neighbourhoods:
    """Which drawings lie in the balls around drawings of the other set, each as wide as to its fifth neighbour.

    Precision and recall as in Kynkäänniemi et al. (arXiv 1904.06991), density and coverage as in Naeem et al. (arXiv
    2002.09797). Both sets must hold more than `neighbours`.
    """
    from scipy.spatial.distance import cdist

    def radii(features: Features) -> Features:
        return np.partition(cdist(features, features), neighbours, axis=1)[:, neighbours]  # the 0th is itself

    apart = cdist(real, generated)
    in_real = apart <= radii(real)[:, np.newaxis]
    in_generated = apart <= radii(generated)
    return Neighbourhoods(
        in_real.any(axis=0), in_generated.any(axis=1), in_real.sum(axis=0) / neighbours, in_real.any(axis=1)
    )


def told_apart(real: Features, generated: Features) -> npt.NDArray[np.bool_]:
    """Whether a classifier that has not seen it tells each drawing's set, the real ones first.

    The two-sample test of Lopez-Paz and Oquab (arXiv 1610.06545), with a logistic regression in five folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    drawings = np.concatenate([real, generated])
    sides = np.arange(len(drawings)) >= len(real)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
    said = cross_val_predict(classifier, drawings, sides, cv=StratifiedKFold(FOLDS, shuffle=True, random_state=0))
    return np.asarray(said == sides)
