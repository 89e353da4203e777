"""The classes of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Class:
    """A class of drawings.

    Attributes:
      label: the number of the class.
      name: the name of the class.
    """

    label: int
    name: str


def class_indices(labels: npt.NDArray[np.int16], classes: Sequence[Class]) -> npt.NDArray[np.int64]:
    """Return the class index of each label. Every label must be the label of one of the classes.

    Args:
      labels: (N,).
      classes: the classes of the run, in order.

    Returns:
      (N,) indices into `classes`.
    """
    class_labels = np.array([entry.label for entry in classes])
    order = np.argsort(class_labels)
    return np.asarray(order[np.searchsorted(class_labels, labels, sorter=order)])
