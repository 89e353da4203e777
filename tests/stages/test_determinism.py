"""The same settings give the same bytes, with one thread and core and with more.

Every stage gives the same bytes with the same number of threads. With another number, only the stages that do not train
do: TensorFlow splits a training step's sums over a batch among its threads, and the split affects the rounding.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.common import files
from stages.params import Params
from tests.settings import ROOT, write

pytestmark = pytest.mark.slow

TINY = {
    "source": "doodles",
    "classes": ["bee", "sea turtle", "tree"],
    "num_drawings": 2000,
    "num_resnet": 1,
    "num_hierarchies": 2,
    "num_filters": 16,
    "max_steps": 30,
    "samples_per_class": 9,
    "eval_samples_per_class": 9,
    "judge_steps": 20,
    "device": "cpu",
}
# Limits the cores, which limits sampling's threads. Environment variables limit TensorFlow's and oneDNN's threads.
STAGE = "import os, runpy, sys; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv.pop(1))]); "
STAGE += "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"


def run(folder: Path, stage: str, threads: int) -> dict[str, str]:
    """Run a stage with this number of threads, and return the hashes of its outputs."""
    number = str(threads)
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    variables = os.environ | {"PYTHONPATH": str(ROOT), "QUICKDRAW_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", STAGE, number, f"stages.{stage}"]
    subprocess.run(command, cwd=folder, env=variables | dict.fromkeys(names, number), check=True, capture_output=True)
    return hashes(folder, stage)


def hashes(folder: Path, stage: str) -> dict[str, str]:
    """Return the hashes of a stage's outputs."""
    outs = [folder / "data" / stage, *([folder / "reports"] if stage == "evaluate" else [])]
    return {path.name: files.sha256(path) for out in outs for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def trained(full_run: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages before evaluate have run, with two threads."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: nothing runs in parallel")
    folder = tmp_path_factory.mktemp("trained")
    write(folder, full_run.model_dump(mode="json") | TINY)
    for stage in ("extract", "filter", "train", "sample", "judge"):
        run(folder, stage, 2)
    return folder


@pytest.mark.parametrize("stage", ["extract", "filter", "sample", "evaluate"])
def test_the_number_of_threads_does_not_change_the_bytes(trained: Path, stage: str) -> None:
    assert run(trained, stage, 1) == run(trained, stage, 2)


@pytest.mark.parametrize("stage", ["train", "judge"])
def test_training_with_equal_threads_gives_the_same_bytes(trained: Path, stage: str, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    assert run(folder, stage, 2) == hashes(trained, stage)


def test_generating_more_drawings_keeps_the_first_ones(trained: Path, full_run: Params, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    before = np.load(folder / "data/sample/samples.npy", allow_pickle=False)
    write(folder, full_run.model_dump(mode="json") | TINY | {"eval_samples_per_class": 40})
    run(folder, "sample", 2)
    more = np.load(folder / "data/sample/samples.npy", allow_pickle=False)
    assert more.shape[1] == 40
    np.testing.assert_array_equal(more[:, :9], before)
