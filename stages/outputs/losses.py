"""The training and held-out losses that train writes: data/train/loss.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FILE = "loss.csv"


class Loss(NamedTuple):
    """One row: bits per dimension after `step` steps.

    Attributes:
      step: of training.
      drawings: seen by then.
      split: "train", the mean over the steps since the last such row, or "heldout".
      bits_per_dim: of that split.
    """

    step: int
    drawings: int
    split: str
    bits_per_dim: float


def write(path: Path, losses: Sequence[Loss]) -> None:
    """Write the losses as comma-separated values."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Loss._fields)
        writer.writerows((*row[:3], f"{row.bits_per_dim:.6f}") for row in losses)
