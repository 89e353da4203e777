"""Mirrors for tests, whose drawings are noise, so that no two are the same."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stages.quickdraw.mirrors import Pixels

COUNTS = {"bee": 120, "sea turtle": 90, "The Eiffel Tower": 70, "tree": 110, "zorro": 40, "abacus": 30}


def noise(name: str, rows: int) -> Pixels:
    """Pixels `(rows, 784)` that depend on the name and the row."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).integers(0, 256, (rows, 784), np.uint8)


def make_mirror(folder: Path, counts: Mapping[str, int] = COUNTS) -> Path:
    """Create a folder of `<class>.npy` files and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in counts.items():
        np.save(folder / f"{name}.npy", noise(name, rows))
    return folder


def first_by_sorting(counts: Mapping[str, int], number: int) -> list[tuple[str, int]]:
    """The first drawings (class, row) in the order of TensorFlow Datasets: all keys, sorted by their hash."""
    keys = [(name, row) for name, rows in counts.items() for row in range(rows)]
    return sorted(keys, key=lambda key: hashlib.md5(f"train{key[0]}_{key[1]}".encode()).digest())[:number]
