"""The paths of the files that evaluate writes and report reads."""

from __future__ import annotations

from pathlib import Path

METRICS = Path("reports/metrics.csv")
CONFUSION = Path("reports/confusion.csv")
FOLDER = Path("data/evaluate")
ARRAYS = "drawings.safetensors"
MADE_WITH = "made_with.json"
