"""How a stage starts as a command: quickly, and with every setting checked."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.settings import FULL, ROOT, write

STAGES = ["extract", "filter", "train", "sample", "judge", "evaluate", "report"]


def start(*words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("stage", STAGES)
def test_help_comes_at_once(stage: str, tmp_path: Path) -> None:
    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()  # processor time: it does not depend on what else the machine does
    done = start("-m", f"stages.{stage}", "--help", folder=tmp_path)
    assert used() - before < 1
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: python -m stages.{stage} [-h]")
    assert f"data/{stage}/" in done.stdout or "reports/" in done.stdout, "the help says what is written"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_imported_without_the_heavy_libraries(stage: str, tmp_path: Path) -> None:
    done = start("-c", f"import sys, stages.{stage}; print(*sys.modules)", folder=tmp_path)
    heavy = {
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
    assert not heavy & set(done.stdout.split())


WHOLE = "permitted: a whole number from 1 to 20"
LIST = "permitted: a list of class names, one or more"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_resnet": 0}, f"num_resnet is 0; {WHOLE}"),
        ({"num_resnet": "abc"}, f"num_resnet is 'abc'; {WHOLE}"),
        ({"num_resnt": 5}, "num_resnt is not a setting. Did you mean 'num_resnet'?"),
        ({"classes": ["bee", "bycicle"]}, "classes: 'bycicle' is no class of Quick, Draw!. Did you mean 'bicycle'?"),
        ({"classes": ["bee", "bee"]}, "classes: 'bee' is there twice; name each class once"),
        ({"classes": []}, f"classes is empty; {LIST}"),
        ({"classes": None}, f"classes is None; {LIST}"),
    ],
)
def test_a_bad_setting_is_one_line_and_exit_code_2(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    write(tmp_path, FULL | changes)
    done = start("-m", "stages.extract", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: params.yaml: {said}\n"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_checks_every_setting_first(stage: str, tmp_path: Path) -> None:
    write(tmp_path, FULL | {"temperature": 0})
    done = start("-m", f"stages.{stage}", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: params.yaml: temperature is 0; permitted: a number above 0 to 10\n"


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_without_its_input_says_what_to_run(stage: str, tmp_path: Path) -> None:
    write(tmp_path, FULL)
    done = start("-m", f"stages.{stage}", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: data/"), "and before TensorFlow is imported"
    assert len(done.stderr.splitlines()) == 1


def test_a_python_without_the_packages_is_told_from_a_defect(tmp_path: Path) -> None:
    done = start("-S", "-m", "stages.extract", folder=ROOT)  # -S: without site-packages
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("has none of the project's packages: activate its environment, . .venv/bin/activate\n")
