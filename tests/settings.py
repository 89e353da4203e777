"""Settings for tests to start from, whatever a run has left in the params.yaml at hand."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages import params

ROOT = Path(__file__).resolve().parents[1]


def _full() -> dict[str, Any]:
    """The full run's: the keys of the params.yaml at hand, with the values it was committed with."""
    at_hand = params.read(ROOT / "params.yaml")
    command = ["git", "-C", str(ROOT), "show", "HEAD:./params.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    committed = params.parse(done.stdout, "params.yaml") if done.returncode == 0 else {}
    return {key: committed.get(key, value) for key, value in at_hand.items()}


FULL = _full()


def write(folder: Path, values: Mapping[Any, Any]) -> None:
    """Write a params.yaml, a line for each setting."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()]
    (folder / "params.yaml").write_text("".join(lines), encoding="utf-8")
