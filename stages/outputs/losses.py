"""The training and held-out losses that train writes: data/train/loss.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FILE = "loss.csv"


class Loss(NamedTuple):
    """A row: the loss after `step` training steps.

    Attributes:
      step: the number of training steps.
      drawings: the number of drawings in these steps; a drawing counts once per epoch.
      split: "train", the mean over the steps since the previous such row, or "heldout".
      bits_per_dim: bits per dimension of that split.
    """

    step: int
    drawings: int
    split: str
    bits_per_dim: float


def write(path: Path, losses: Sequence[Loss]) -> None:
    """Write the losses as a CSV file."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Loss._fields)
        writer.writerows((*row[:3], f"{row.bits_per_dim:.6f}") for row in losses)
