"""Metrics computed from pixels. Drawings are (N, height, width, channels) uint8, where 0 is paper and 255 is ink."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]

BLOCK_VALUES = 64 << 20  # of training drawings that are compared at a time; each takes four bytes
INK_BLOCK = 1024  # drawings whose ink is measured at a time

MEMORISED_QUANTILE = 0.01
# Rounding puts a drawing up to 1e-6 away from itself; two drawings that differ are at least 1 / 255 apart.
DISTANCE_TOLERANCE = 1e-3


class Indexable(Protocol):
    """Images that are read when they are indexed, so that all of them need not fit into memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


def nearest(drawings: Images, training: Indexable) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The nearest training drawing of each drawing: the distances and the row indices in `training`.

    Distances are Euclidean, in pixels of full ink: 1 is one value black instead of white.
    """
    from sklearn.neighbors import NearestNeighbors

    def flat(images: Images) -> npt.NDArray[np.float32]:
        return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)

    flat_drawings = flat(drawings)
    nearest_distances = np.full(len(drawings), np.inf)
    nearest_rows = np.zeros(len(drawings), np.int64)
    block = max(1, BLOCK_VALUES // math.prod(drawings.shape[1:]))
    for start in range(0, len(training), block):
        search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(flat(training[start : start + block]))
        distances, rows = (found[:, 0] for found in search.kneighbors(flat_drawings))
        nearer = distances < nearest_distances
        nearest_distances[nearer], nearest_rows[nearer] = distances[nearer], start + rows[nearer]
    return nearest_distances, nearest_rows


def memorised(distances: npt.NDArray[np.float64], heldout_distances: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which drawings are at least as close to a training drawing as the closest 1% of held-out drawings.

    After an idea of Meehan, Chaudhuri and Dasgupta (arXiv 2004.05675): a model that generalises comes no closer to the
    training drawings than other real drawings do. If people repeated drawings, the closest 1% are copies themselves. So
    equal distances count, and DISTANCE_TOLERANCE keeps rounding from deciding.
    """
    return np.asarray(distances <= np.quantile(heldout_distances, MEMORISED_QUANTILE) + DISTANCE_TOLERANCE)


def ink(drawings: Images) -> dict[str, npt.NDArray[Any]]:
    """Ink statistics of each drawing, by metric: shares from 0 to 1, and whether the drawing is blank."""
    blocks = [_ink(drawings[start : start + INK_BLOCK]) for start in range(0, max(1, len(drawings)), INK_BLOCK)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _ink(drawings: Images) -> dict[str, npt.NDArray[Any]]:
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
