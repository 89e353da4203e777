"""Select subsets of drawings by class."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Indices: TypeAlias = npt.NDArray[np.int64]

COMPARED_DRAWINGS = 10_000  # held-out drawings at most; their pixels, features and nearest drawings are in memory


def rank_in_class(classes: npt.NDArray[Any]) -> Indices:
    """The position of each drawing among the drawings of its class: 0 for the first of each class."""
    ranks = np.empty(len(classes), np.int64)
    for value in np.unique(classes):
        ranks[classes == value] = np.arange((classes == value).sum())
    return ranks


def first_of_each_class(labels: npt.NDArray[np.int16], number: int) -> npt.NDArray[np.bool_]:
    """A mask of about `number` drawings: the first ones of each class, equally many of each class and at least one."""
    mask = np.zeros(len(labels), bool)
    mask[np.lexsort((labels, rank_in_class(labels)))[: max(number, len(np.unique(labels)))]] = True
    return mask


def in_proportion(labels: npt.NDArray[np.int16], others: npt.NDArray[np.int16], number: int) -> npt.NDArray[np.bool_]:
    """A mask of about `number` drawings: the first ones of each class, with the class proportions of `others`.

    A mean over these drawings can then be compared with a mean over the others. Every class of the others is included.
    """
    values, counts = np.unique(others, return_counts=True)
    quota = np.zeros(len(labels))
    for label, count in zip(values, counts, strict=True):
        quota[labels == label] = number * count / len(others)
    return np.asarray(rank_in_class(labels) < quota)


def compared(labels: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
    """A mask of the held-out drawings that generated ones are compared with: all, or of each class the first ones."""
    return in_proportion(labels, labels, COMPARED_DRAWINGS)


def halves(classes: Indices) -> tuple[Indices, Indices]:
    """The rows of two halves of a set: the even and the odd ones of each class."""
    rank = rank_in_class(classes)
    return np.flatnonzero(rank % 2 == 0), np.flatnonzero(rank % 2 == 1)


def equal_counts(*sets: Indices) -> list[Indices]:
    """For each set, the rows to select so that all sets have equally many drawings of each class.

    The first drawings of each class are selected, and ordered by class.
    """
    num_classes = 1 + max(classes.max(initial=-1) for classes in sets)
    minimum = np.min([np.bincount(classes, minlength=num_classes) for classes in sets], axis=0)
    orders = [np.argsort(classes, kind="stable") for classes in sets]
    return [
        order[(rank_in_class(classes) < minimum[classes])[order]] for classes, order in zip(sets, orders, strict=True)
    ]
