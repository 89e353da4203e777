"""A project with an untrained model of small drawings, and what the tests of `generate` ask of a folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.files import sha256
from stages.outputs import model, samples
from stages.outputs.model import Class, Model
from stages.outputs.samples import Settings
from stages.pixelcnn import network
from tests import fake_project

CLASSES = (Class(26, "bee"), Class(323, "The Eiffel Tower"))


def untrained(image_shape: tuple[int, int, int] = (8, 8, 1), seed: int = 0) -> Model:
    """An untrained model of drawings of this shape."""
    config = network.Config(image_shape, (len(CLASSES),), 1, 1, 2, 2, position="coordinates")
    weights = {name: np.asarray(value) for name, value in network.initialise(config, seed).items()}
    return Model(config, CLASSES, "one_hot", weights)


def make(root: Path, trained: Model, settings: Settings | None = None) -> None:
    """Write a project with the outputs of a run of this model."""
    fake_project.write(root)
    for folder in (model.FOLDER, samples.FOLDER):
        (root / folder).mkdir(parents=True)
    model.save(trained, root / model.FOLDER)
    samples.write_settings(root / samples.FOLDER / samples.SETTINGS, settings or Settings(3, 1.0, 1.0))


def hashes(folder: Path) -> dict[str, str]:
    """The hash of every file, hidden ones included."""
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Replace values of a folder's manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
