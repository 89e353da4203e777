"""Real against generated in a space of features, one row a drawing: distances, neighbourhoods, and telling apart."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.metrics.intervals import Estimate, Rows, of_sets, standard_error

Features = npt.NDArray[np.float64]

NEIGHBOURS = 5
MIN_DRAWINGS = 2 * (NEIGHBOURS + 1)  # drawings of a set, both halves of which have neighbours
MAX_DRAWINGS = 2000  # drawings of a set of which each is held against each: memory grows with the square
FOLDS = 5
# The folds train on drawings in common: by Nadeau and Bengio (2003) the variance is that of independent ones times
# 1 + FOLDS × (drawings tested / drawings trained on).
FOLDS_EFFECT = 1 + FOLDS / (FOLDS - 1)


def subsample(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """AT_MOST of the drawings at the most, evenly spaced, and so of every class where they are in its order."""
    return values[:: max(1, math.ceil(len(values) / MAX_DRAWINGS))]


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


def mmd(real: Features, generated: Features) -> Estimate:
    """The squared maximum mean discrepancy, unbiased, of the kernel (x·y / d + 1)³.

    Bińkowski et al., arXiv 1801.01401. It may be below 0. Each set is thinned; four drawings are the fewest.
    """
    from sklearn.metrics.pairwise import polynomial_kernel

    real, generated = subsample(real), subsample(generated)
    within, between, beyond = (
        polynomial_kernel(x, y, degree=3) for x, y in ((real, real), (real, generated), (generated, generated))
    )

    def among(kernel: Features, rows: Rows) -> float:
        pairs = kernel[np.ix_(rows, rows)]
        return float((pairs.sum() - pairs.trace()) / (len(rows) * (len(rows) - 1)))

    def discrepancy(i: Rows, j: Rows) -> float:
        return among(within, i) + among(beyond, j) - 2 * float(between[np.ix_(i, j)].mean())

    return of_sets(discrepancy, len(real), len(generated))


class Neighbourhoods(NamedTuple):
    """A score a drawing; the mean of each over its set is the measure of that name."""

    precision: npt.NDArray[Any]  # of the generated
    recall: npt.NDArray[Any]  # of the real
    density: npt.NDArray[Any]  # of the generated
    coverage: npt.NDArray[Any]  # of the real


def neighbourhoods(real: Features, generated: Features) -> Neighbourhoods:
    """Which drawings lie in the balls around drawings of the other set, each as wide as to its fifth neighbour.

    Precision and recall as in Kynkäänniemi et al. (arXiv 1904.06991), density and coverage as in Naeem et al. (arXiv
    2002.09797). Both sets are thinned, and must hold more than NEIGHBOURS.
    """
    return _neighbourhood_scores(*_distances(real, generated))


def design_effects(real: Features, generated: Features) -> dict[str, float]:
    """How much more the mean of each score varies than that of as many independent scores (Kish 1965), by its name.

    The scores of one set hang together by the balls of the other. What is found over all drawings holds for those of a
    class, whose neighbours are mostly of it. Both sets must hold FEWEST.
    """
    within, between, beyond = _distances(real, generated)

    def means(i: Rows, j: Rows) -> list[float]:
        return [
            scores.mean()
            for scores in _neighbourhood_scores(within[np.ix_(i, i)], between[np.ix_(i, j)], beyond[np.ix_(j, j)])
        ]

    found = standard_error(means, *between.shape)
    scores = _neighbourhood_scores(within, between, beyond)
    alone = np.array([one.std() / math.sqrt(len(one)) for one in scores])
    effects = np.divide(found, alone, out=np.ones_like(found), where=alone > 0) ** 2
    return dict(zip(scores._fields, np.maximum(effects, 1).tolist(), strict=True))


def _distances(real: Features, generated: Features) -> tuple[Features, Features, Features]:
    """Among the real drawings, between real and generated, and among the generated."""
    from scipy.spatial.distance import cdist

    real, generated = subsample(real), subsample(generated)
    return cdist(real, real), cdist(real, generated), cdist(generated, generated)


def _neighbourhood_scores(within: Features, between: Features, beyond: Features) -> Neighbourhoods:
    """The scores, from the distances among the real drawings, between real and generated, and among the generated."""

    def radii(distances: Features) -> Features:
        return np.partition(distances, NEIGHBOURS, axis=1)[:, NEIGHBOURS]  # the 0th is itself

    in_real = between <= radii(within)[:, np.newaxis]
    in_generated = between <= radii(beyond)
    return Neighbourhoods(
        np.asarray(in_real.any(axis=0)),
        np.asarray(in_generated.any(axis=1)),
        in_real.sum(axis=0) / NEIGHBOURS,
        np.asarray(in_real.any(axis=1)),
    )


def c2st_accuracy(real: Features, generated: Features) -> npt.NDArray[np.bool_]:
    """Whether a classifier that has not seen it tells each drawing's set, the real ones first.

    The two-sample test of Lopez-Paz and Oquab (arXiv 1610.06545), with a logistic regression in five folds. The
    drawings at one place of the two sets must be of one class; they go to one fold. So guessing is right half of the
    time: were there more of a class in one set, to name that set would be right more often, and less often were there
    more of it only among those trained on.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    drawings = np.concatenate([real, generated])
    sides = np.arange(len(drawings)) >= len(real)
    folds = PredefinedSplit(np.tile(np.arange(len(real)) % FOLDS, 2))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
    said = cross_val_predict(classifier, drawings, sides, cv=folds)
    return np.asarray(said == sides)
