"""A stage starts quickly as a command, and checks every setting."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.settings import FULL, ROOT, write

STAGES = ["extract", "filter", "train", "sample", "judge", "evaluate", "report"]


def start(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


HEAVY = {
    "tensorflow",
    "tensorflow_probability",
    "tf_keras",
    "scipy",
    "sklearn",
    "pandas",
    "pyarrow",
    "matplotlib",
    "PIL",
    "jinja2",
}


@pytest.mark.parametrize("stage", STAGES)
def test_help_imports_no_heavy_library(stage: str, tmp_path: Path) -> None:
    """So a second is enough for it, which a test on a busy machine cannot measure."""
    done = start("-X", "importtime", "-m", f"stages.{stage}", "--help", folder=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: python -m stages.{stage} [-h]")
    assert f"data/{stage}/" in done.stdout or "reports/" in done.stdout, "the help lists the outputs"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "stages.params" in imported
    assert not HEAVY & imported


WHOLE = "expected: a whole number from 1 to 20"
LIST = "expected: a list of one or more class names"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_resnet": 0}, f"num_resnet is 0; {WHOLE}"),
        ({"num_resnet": "abc"}, f"num_resnet is 'abc'; {WHOLE}"),
        ({"num_resnt": 5}, "num_resnt is not a setting. Did you mean 'num_resnet'?"),
        ({"classes": ["bee", "bycicle"]}, "classes: 'bycicle' is not a class of Quick, Draw!. Did you mean 'bicycle'?"),
        ({"classes": ["bee", "bee"]}, "classes: 'bee' is listed twice; list each class once"),
        ({"classes": []}, f"classes is empty; {LIST}"),
        ({"classes": None}, f"classes is None; {LIST}"),
    ],
)
def test_an_invalid_setting_is_one_line_and_exit_code_2(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, FULL | changes)
    done = start("-m", "stages.extract", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: params.yaml: {message}\n"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_checks_every_setting_first(stage: str, tmp_path: Path) -> None:
    write(tmp_path, FULL | {"temperature": 0})
    done = start("-m", f"stages.{stage}", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: params.yaml: temperature is 0; expected: a number above 0 and at most 10\n"


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_without_its_input_names_the_stage_to_run(stage: str, tmp_path: Path) -> None:
    write(tmp_path, FULL)
    done = start("-m", f"stages.{stage}", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: data/"), "before TensorFlow is imported"
    assert len(done.stderr.splitlines()) == 1


def test_a_python_without_the_packages_is_a_one_line_error(tmp_path: Path) -> None:
    done = start("-S", "-m", "stages.extract", folder=ROOT)  # -S: without site-packages
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("lacks the project's packages: activate the environment with . .venv/bin/activate\n")
