"""The same settings give the same bytes, whatever the machine is busy with: with one thread and core, and with more.

That holds for every stage run again with as many threads. With another number of them it holds for what does not
train: a training step's sums over a batch are shared out among TensorFlow's threads, and rounded as they are shared.
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
    "mirror": "doodles",
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
# Of the cores that there are only so many, to which sampling keeps; TensorFlow's and oneDNN's threads by variables.
STAGE = "import os, runpy, sys; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv.pop(1))]); "
STAGE += "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"


def run(folder: Path, stage: str, threads: int) -> dict[str, str]:
    """Run a stage with so many threads; the hashes of what it leaves."""
    number = str(threads)
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    variables = os.environ | {"PYTHONPATH": str(ROOT), "QUICKDRAW_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", STAGE, number, f"stages.{stage}"]
    subprocess.run(command, cwd=folder, env=variables | dict.fromkeys(names, number), check=True, capture_output=True)
    return hashes(folder, stage)


def hashes(folder: Path, stage: str) -> dict[str, str]:
    """Of what a stage has left."""
    outs = [folder / "data" / stage, *([folder / "reports"] if stage == "evaluate" else [])]
    return {path.name: files.sha256(path) for out in outs for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def trained(full_run: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all that leads to sampling and measuring has run, with two threads."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: nothing runs side by side")
    folder = tmp_path_factory.mktemp("trained")
    write(folder, full_run.model_dump(mode="json") | TINY)
    for stage in ("extract", "filter", "train", "sample", "judge"):
        run(folder, stage, 2)
    return folder


@pytest.mark.parametrize("stage", ["extract", "filter", "sample", "evaluate"])
def test_the_number_of_threads_does_not_show(trained: Path, stage: str) -> None:
    assert run(trained, stage, 1) == run(trained, stage, 2)


@pytest.mark.parametrize("stage", ["train", "judge"])
def test_what_trains_repeats_itself_with_as_many_threads(trained: Path, stage: str, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    assert run(folder, stage, 2) == hashes(trained, stage)


def test_more_samples_leave_those_that_there_were(trained: Path, full_run: Params, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    before = np.load(folder / "data/sample/samples.npy", allow_pickle=False)
    write(folder, full_run.model_dump(mode="json") | TINY | {"eval_samples_per_class": 40})
    run(folder, "sample", 2)
    more = np.load(folder / "data/sample/samples.npy", allow_pickle=False)
    assert more.shape[1] == 40
    np.testing.assert_array_equal(more[:, :9], before)
