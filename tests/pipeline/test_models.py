"""The model of a run, of the workspace and of an experiment."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline import dvc
from stages.outputs import model, samples
from stages.outputs.samples import Settings
from tests import fake_project
from tests.stages import models


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a model in its workspace, and another one in the experiment `trial`."""
    fake_project.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".gitignore").write_text("")
    for seed in (1, 2):
        for folder in (model.FOLDER, samples.FOLDER):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        model.save(models.tiny(), model.FOLDER)
        samples.write_settings(samples.FOLDER / samples.SETTINGS, Settings(seed))
        if seed == 1:
            fake_project.git(tmp_path, "add", "--all")
            dvc.Workspace(tmp_path).save("trial")
    return tmp_path


def test_the_model_of_the_workspace_of_a_folder_and_of_an_experiment(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pipeline.load_model().settings == Settings(2)
    assert pipeline.load_model(root).settings == Settings(2)
    experiment = pipeline.load_model("trial")
    assert experiment.settings == Settings(1)
    assert experiment.sample("bee").shape == (1, 28, 28, 1)
    assert np.isfinite(experiment.bits_per_dim(experiment.sample("tree"), "tree")).all()
    (root / "below").mkdir()
    monkeypatch.chdir(root / "below")
    assert pipeline.load_model("trial").settings == Settings(1)


def test_a_run_that_is_not_here_is_an_error(root: Path) -> None:
    with pytest.raises(dvc.DvcError, match="unknown Git revision 'nothing'"):
        pipeline.load_model("nothing")
    with pytest.raises(dvc.DvcError, match=r"HEAD has no data/train/config\.json, or it is not in DVC's cache"):
        pipeline.load_model("HEAD")
