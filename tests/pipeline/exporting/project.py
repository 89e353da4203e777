"""A project with the outputs of a finished run of a tiny model, written in a moment instead of trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from stages.inference.trained_model import TrainedModel
from stages.outputs import model, samples
from stages.outputs.samples import Settings
from tests import fake_project
from tests.settings import FULL, write

RAN = ("train", "sample", "evaluate")
METRICS = """metric,label,name,value,low,high,reference,better
heldout_bits_per_dim,,,1.604321,1.5,1.7,,less
class_accuracy,,,0.845833,0.81,0.87,0.92,more
class_accuracy,26,bee,0.5,0.4,0.6,0.9,more
label_accuracy,,,0.9,0.8,0.95,0.333333,more
"""


def make(root: Path, trained: model.Model, **settings: Any) -> None:
    """Write the project and the run.

    Args:
      root: an empty folder.
      trained: the model of the run.
      settings: changes to the settings of the full run.
    """
    fake_project.write(root)
    add_run(root, trained, **settings)


def add_run(root: Path, trained: model.Model, **settings: Any) -> None:
    """Write the outputs of a run, its settings and its dvc.lock into a project."""
    values = FULL | {"classes": [entry.name for entry in trained.classes]} | settings
    write(root, values)
    for path in (model.FOLDER, samples.FOLDER, Path("reports")):
        (root / path).mkdir(parents=True, exist_ok=True)
    model.save(trained, root / model.FOLDER)
    chosen = Settings(values["seed"], values["temperature"], values["guidance"])
    samples.write_settings(root / samples.FOLDER / samples.SETTINGS, chosen)
    loaded = TrainedModel(trained, chosen)
    drawings = np.stack([loaded.sample(name, 3) for name in loaded.classes])
    np.save(root / samples.FOLDER / samples.IMAGES, drawings)
    (root / "reports/metrics.csv").write_text(METRICS)
    write_lock(root, {key: values[key] for key in ("seed", "position", "learning_rate")})


def write_lock(root: Path, settings: dict[str, Any], stages: tuple[str, ...] = RAN, read_by_last: str = "1") -> None:
    """Write the dvc.lock of a run.

    Args:
      root: the project.
      settings: what each stage has read.
      stages: those that have run.
      read_by_last: a digit for the model that the last stage has read; that of the run is 1.
    """
    stage = {"cmd": "true", "params": {"params.yaml": settings}}
    entries: dict[str, Any] = dict.fromkeys(stages, stage)
    out, dep = ({"path": "data/train", "hash": "md5", "md5": digit * 32, "size": 1} for digit in ("1", read_by_last))
    entries[stages[0]] = stage | {"outs": [out]}
    entries[stages[-1]] = stage | {"deps": [dep]}
    (root / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": entries}), encoding="utf-8")
