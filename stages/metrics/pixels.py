"""Measures on the pixels themselves. Drawings are (N, 28, 28) uint8, 0 is paper and 255 is ink."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]

COPY_QUANTILE = 0.01
DISTANCE_TOLERANCE = (
    1e-3  # the distance of a drawing to itself is noise of 1e-6, and two that differ are 1 / 255 apart or more
)


def nearest(drawings: Images, training: Images) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The distance of each drawing to its nearest training drawing, and the place of that one.

    Euclidean, in pixels of full ink: 1 is one pixel black instead of white.
    """
    from sklearn.neighbors import NearestNeighbors

    def flat(images: Images) -> npt.NDArray[np.float32]:
        return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)

    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(flat(training))
    distances, places = search.kneighbors(flat(drawings))
    return distances[:, 0].astype(np.float64), places[:, 0].astype(np.int64)


def memorised(distances: npt.NDArray[np.float64], of_heldout: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which lie as near to a training drawing as the nearest 1% of the held-out drawings do.

    After the idea of Meehan, Chaudhuri and Dasgupta (arXiv 2004.05675): what generalises lies no nearer to the training
    drawings than other real drawings do. Where people drew the same again, the nearest 1% are copies themselves; so
    what is exactly as near counts, and by `SAME` no rounding decides.
    """
    return np.asarray(distances <= np.quantile(of_heldout, COPY_QUANTILE) + DISTANCE_TOLERANCE)


def ink(drawings: Images) -> dict[str, npt.NDArray[Any]]:
    """The statistics of ink, one of each a drawing, from 0 to 1, and whether it is blank."""
    share = drawings / 255
    flat = share.reshape(len(share), -1)
    return {
        "ink": flat.mean(axis=1),
        "grey": ((flat > 0) & (flat < 1)).mean(axis=1),
        "ink_top": share[:, 0].mean(axis=1),
        "ink_right": share[:, :, -1].mean(axis=1),
        "ink_bottom": share[:, -1].mean(axis=1),
        "ink_left": share[:, :, 0].mean(axis=1),
        "blank": flat.max(axis=1) < 0.5,
    }
