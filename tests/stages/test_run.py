"""All seven stages in order, on a few doodles: the files of a run and their contents."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from stages import evaluate, extract, filter, judge, params, report, sample
from stages.common import files
from stages.outputs import classifier, dataset
from tests.settings import ROOT
from tests.stages import tiny_run

CLASSES = tiny_run.CLASSES


@pytest.fixture(scope="module")
def settings(full_run: params.Params) -> params.Params:
    return tiny_run.settings(full_run)


@pytest.fixture(scope="module")
def workspace(settings: params.Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workspace")
    tiny_run.run(folder, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def test_the_stages_write_their_files(workspace: Path) -> None:
    paths = {path.relative_to(workspace).as_posix() for path in workspace.rglob("*") if path.is_file()}
    assert paths == {
        "params.yaml",
        "data/extract/index.parquet",
        "data/filter/drawings.parquet",
        "data/filter/images.npy",
        "data/train/config.json",
        "data/train/film.safetensors",
        "data/train/loss.csv",
        "data/train/weights.safetensors",
        "data/sample/completions.json",
        "data/sample/completions.npy",
        "data/sample/samples.npy",
        "data/sample/settings.json",
        "data/judge/config.json",
        "data/judge/weights.safetensors",
        "data/evaluate/drawings.safetensors",
        "data/evaluate/made_with.json",
        "reports/classes.csv",
        "reports/classes/26_bee.png",
        "reports/classes/255_sea_turtle.png",
        "reports/classes/309_The_Eiffel_Tower.png",
        "reports/confusion.csv",
        "reports/drawings.png",
        "reports/index.html",
        "reports/metrics.csv",
        "reports/metrics.json",
    }


def test_the_samples_are_distinct_drawings(workspace: Path) -> None:
    samples = np.load(workspace / "data/sample/samples.npy", allow_pickle=False)
    assert (samples.shape, samples.dtype) == ((3, 10, 28, 28, 1), np.uint8)
    assert samples.min() < samples.max()
    assert len({drawing.tobytes() for drawing in samples.reshape(30, -1)}) == 30


def test_the_metrics_are_means_over_the_held_out_drawings(workspace: Path) -> None:
    metrics = json.loads((workspace / "reports/metrics.json").read_text())
    heldout_drawings = int(dataset.load(workspace / "data/filter").heldout.sum())
    rows = [line.split(",") for line in (workspace / "reports/classes.csv").read_text().splitlines()[1:]]
    assert [row[1] for row in rows] == list(CLASSES)
    counts, bits = [int(row[2]) for row in rows], [float(row[3]) for row in rows]
    assert sum(counts) == heldout_drawings > 0
    assert metrics["heldout_bits_per_dim"] == pytest.approx(np.average(bits, weights=counts), abs=1e-5)


def test_the_metrics_name_what_they_were_measured_with(workspace: Path, settings: params.Params) -> None:
    metrics = json.loads((workspace / "reports/metrics.json").read_text())
    assert metrics.keys() - {"heldout_bits_per_dim", "class_accuracy", "mmd"} == {
        "heldout", "judge", "generated", "completed",
    }  # fmt: skip
    assert metrics["judge"] == files.sha256(workspace / "data/judge/weights.safetensors")[:8]
    assert metrics["generated"] == 30
    drawings = dataset.load(workspace / "data/filter")
    assert metrics["heldout"] == drawings.where(drawings.heldout).fingerprint()


def test_another_judge_has_another_fingerprint(
    workspace: Path, settings: params.Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/filter").symlink_to(workspace / "data/filter")
    monkeypatch.chdir(tmp_path)
    fingerprints = [classifier.fingerprint(workspace / "data/judge")]
    for change in ({}, {"judge_steps": 11}, {"judge_seed": 1}):
        judge.main(settings.model_copy(update=change))
        fingerprints.append(classifier.fingerprint())
    same, *others = fingerprints[1:]
    assert same == fingerprints[0] and len({same, *others}) == 3


def test_the_model_is_used_as_the_readme_says(workspace: Path) -> None:
    [block] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    (workspace / "dvc.yaml").touch()
    names: dict[str, Any] = {}
    exec(block, names)
    (workspace / "dvc.yaml").unlink()
    samples = np.load(workspace / "data/sample/samples.npy", allow_pickle=False)
    np.testing.assert_array_equal(names["bees"], samples[0, :8])
    np.testing.assert_array_equal(names["model"].sample("sea turtle", 2, first=8), samples[1, 8:])
    np.testing.assert_array_equal(names["completed"][:, :, :14], np.repeat(samples[0, :8, np.newaxis, :14], 4, axis=1))
    assert names["others"].shape == names["bees"].shape and (names["others"] != names["bees"]).any()
    assert names["bits"].shape == (8,) and names["probabilities"].shape == (8, 3)


def test_the_notebook_runs_on_the_model_of_the_run(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = json.loads((ROOT / "docs/tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code), "strip its outputs"
    (workspace / "docs").mkdir()
    monkeypatch.chdir(workspace / "docs")  # where Jupyter starts a notebook
    (workspace / "dvc.yaml").touch()
    names: dict[str, Any] = {}
    with matplotlib.rc_context({"backend": "agg"}):
        for cell in code:
            exec("".join(cell["source"]), names)
    (workspace / "docs").rmdir()
    (workspace / "dvc.yaml").unlink()
    assert names["names"] == CLASSES
    completed = np.array(names["completed"])
    assert completed.shape == (3, 5, 28, 28, 1) and (completed[:, :, :14] == completed[:, 4:, :14]).all()
    bits = names["bits"][0].mean()
    assert capsys.readouterr().out.splitlines()[-1].endswith(f" {bits:.3f} bits per dimension")


def test_a_sheet_shows_the_generated_drawings_below_the_real_ones(workspace: Path) -> None:
    samples = np.load(workspace / "data/sample/samples.npy", allow_pickle=False)
    sheet = np.asarray(Image.open(workspace / "reports/classes/255_sea_turtle.png"))
    assert sheet.shape == (560, 560)
    np.testing.assert_array_equal(sheet[285::10, 5::10], np.hstack(list(samples[1, :2, :, :, 0])))


def test_running_a_stage_again_gives_the_same_bytes(workspace: Path, settings: params.Params) -> None:
    def hashes() -> dict[str, str]:
        return {str(path): files.sha256(path) for path in workspace.rglob("*") if path.is_file()}

    before = hashes()
    for stage in (extract, filter, sample, judge, evaluate, report):
        stage.main(settings)
    assert hashes() == before
