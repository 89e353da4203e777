"""Settings for tests: those of the full run, even if a run has changed params.yaml."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages import params

ROOT = Path(__file__).resolve().parents[1]


def _full() -> dict[str, Any]:
    """Return the keys of params.yaml in the working tree, with the committed values."""
    current = params.read(ROOT / "params.yaml")
    command = ["git", "-C", str(ROOT), "show", "HEAD:./params.yaml"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    committed = params.parse(result.stdout, "params.yaml") if result.returncode == 0 else {}
    return {key: committed.get(key, value) for key, value in current.items()}


FULL = _full()


def write(folder: Path, values: Mapping[Any, Any]) -> None:
    """Write a params.yaml with one line per setting."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()]
    (folder / "params.yaml").write_text("".join(lines), encoding="utf-8")
