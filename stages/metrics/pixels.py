"""Metrics computed from pixels. Drawings are (N, height, width, channels) uint8, where 0 is paper and 255 is ink."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]

MEMORISED_QUANTILE = 0.01
# Rounding puts a drawing up to 1e-6 away from itself; two drawings that differ are at least 1 / 255 apart.
DISTANCE_TOLERANCE = 1e-3


def nearest(drawings: Images, training: Images) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The nearest training drawing of each drawing: the distances and the row indices in `training`.

    Distances are Euclidean, in pixels of full ink: 1 is one value black instead of white.
    """
    from sklearn.neighbors import NearestNeighbors

    def flat(images: Images) -> npt.NDArray[np.float32]:
        return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)

    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(flat(training))
    distances, indices = search.kneighbors(flat(drawings))
    return distances[:, 0].astype(np.float64), indices[:, 0].astype(np.int64)


def memorised(distances: npt.NDArray[np.float64], heldout_distances: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which drawings are at least as close to a training drawing as the closest 1% of held-out drawings.

    After an idea of Meehan, Chaudhuri and Dasgupta (arXiv 2004.05675): a model that generalises comes no closer to the
    training drawings than other real drawings do. If people repeated drawings, the closest 1% are copies themselves. So
    equal distances count, and DISTANCE_TOLERANCE keeps rounding from deciding.
    """
    return np.asarray(distances <= np.quantile(heldout_distances, MEMORISED_QUANTILE) + DISTANCE_TOLERANCE)


def ink(drawings: Images) -> dict[str, npt.NDArray[Any]]:
    """Ink statistics of each drawing, by metric: shares from 0 to 1, and whether the drawing is blank."""
    share = drawings / 255
    flat = share.reshape(len(share), -1)

    def of_edge(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(values.reshape(len(values), -1).mean(axis=1))

    return {
        "ink": flat.mean(axis=1),
        "grey": ((flat > 0) & (flat < 1)).mean(axis=1),
        "ink_top": of_edge(share[:, 0]),
        "ink_right": of_edge(share[:, :, -1]),
        "ink_bottom": of_edge(share[:, -1]),
        "ink_left": of_edge(share[:, :, 0]),
        "blank": flat.max(axis=1) < 0.5,
    }
