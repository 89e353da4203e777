"""A class of drawings, as the model and the judge know it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Class:
    """One of the classes of a run."""

    label: int
    name: str


def class_indices(labels: npt.NDArray[np.int16], classes: Sequence[Class]) -> npt.NDArray[np.int64]:
    """The index of each label among the classes. Every label must be one of theirs."""
    known = np.array([entry.label for entry in classes])
    order = np.argsort(known)
    return np.asarray(order[np.searchsorted(known, labels, sorter=order)])
