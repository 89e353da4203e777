"""A stage that is killed at any moment and run again writes the same bytes as an uninterrupted one.

The environment variable `KILLS` is the number of kills per stage, for example `KILLS=20`.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages import params
from stages.common import files
from tests.settings import ROOT, write

pytestmark = pytest.mark.robustness

STAGES = ["extract", "filter", "train", "sample", "judge", "evaluate", "report"]
WITH_CHECKPOINTS = ("train", "sample")
KILLS = int(os.environ.get("KILLS", "1"))
# A small run in which each stage still takes at least a second.
SMALL = {
    "source": "doodles",
    "num_drawings": 1500,
    "prefetch": True,
    "classes": ("bee", "cactus", "tree"),
    "num_resnet": 1,
    "num_hierarchies": 2,
    "num_filters": 8,
    "epochs": 200,
    "max_steps": 150,
    "batch_size": 4,
    "learning_rate_decay": 0.1,
    "clip_norm": 1.0,
    "device": "cpu",
    "samples_per_class": 2,
    "eval_samples_per_class": 20,
    "judge_steps": 60,
}
# Runs a stage as its command does, but prints a line before it starts, and saves checkpoints as often as possible.
RUN = """
import importlib, sys
from stages import command
from stages.common import checkpoints
checkpoints.SAVE_EVERY_SECONDS, checkpoints.MAX_TIME_SHARE = 0.05, 0.9
name = sys.argv.pop()
stage = importlib.import_module(f"stages.{name}")
if name in ("train", "sample", "judge", "evaluate"):
    from stages.pixelcnn import sampling
    sampling.MAX_CPU_BATCH = 4
else:
    import matplotlib.figure, pandas
print("ready", flush=True)
raise SystemExit(command.run(stage.main, stage.__doc__))
"""


class Runs:
    """Runs stages as processes in a folder with a separate cache."""

    def __init__(self, folder: Path, settings: params.Params) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.checkpoints = folder / "cache" / "checkpoints"
        write(folder, settings.model_dump(mode="json"))

    def start(self, stage: str) -> "subprocess.Popen[bytes]":
        """Start a process, and return it just before it runs the stage."""
        variables = os.environ | {"PYTHONPATH": str(ROOT), "QUICKDRAW_CACHE": str(self.folder / "cache")}
        variables.pop("DVC_ROOT", None)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", RUN, stage], cwd=self.folder, env=variables, stdout=subprocess.PIPE, stderr=log
            )
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"ready\n", self.log.read_text()
        return process

    def finish(self, stage: str) -> float:
        """Run the stage to its end, and return its seconds."""
        process, started = self.start(stage), time.monotonic()
        assert process.wait() == 0, self.log.read_text()
        return time.monotonic() - started

    def hashes(self) -> dict[str, str]:
        """Return the hash of every file among the outputs, including temporary files."""
        outputs = [path for top in ("data", "reports") for path in (self.folder / top).rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): files.sha256(path) for path in outputs}

    def delete_outputs(self, stage: str) -> None:
        """Delete the stage's outputs, as DVC does before it reruns a stage."""
        reports = {
            "evaluate": ("metrics.json", "metrics.csv", "classes.csv", "confusion.csv"),
            "report": ("index.html", "classes"),
        }
        for path in [Path("data", stage), *(Path("reports", name) for name in reports.get(stage, ()))]:
            if (self.folder / path).is_dir():
                shutil.rmtree(self.folder / path)
            else:
                (self.folder / path).unlink(missing_ok=True)

    def checkpoint_names(self) -> set[str]:
        """Return the names of the existing checkpoints."""
        return {path.name for path in self.checkpoints.glob("*/0*.safetensors")}


@pytest.fixture(scope="module")
def runs(full_run: params.Params, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("killed"), full_run.model_copy(update=SMALL))


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_writes_the_same_bytes_when_run_again(stage: str, runs: Runs) -> None:
    for earlier in STAGES[: STAGES.index(stage)]:
        if not (runs.folder / "data" / earlier).exists():
            runs.finish(earlier)
    seconds = runs.finish(stage)
    expected = runs.hashes()
    assert any(name.startswith((f"data/{stage}/", "reports/")) for name in expected)
    assert not list(runs.checkpoints.glob("*")), "a finished run deletes its checkpoints"

    rng = random.Random(stage)
    runs.log.write_text("")
    kills = 0
    while kills < KILLS:
        if rng.random() < 0.5:
            runs.delete_outputs(stage)
        existing, process = runs.checkpoint_names(), runs.start(stage)
        if stage in WITH_CHECKPOINTS and kills % 2 == 0:
            while runs.checkpoint_names() <= existing and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5))
        else:
            time.sleep(rng.uniform(0, seconds))
        process.kill()
        if process.wait() == 0:
            assert runs.hashes() == expected, "it ended before the kill"
        else:
            kills += 1
    runs.finish(stage)
    assert runs.hashes() == expected
    assert not list(runs.checkpoints.glob("*"))
    if stage in WITH_CHECKPOINTS:
        assert f"{stage}: resumes after" in runs.log.read_text()
