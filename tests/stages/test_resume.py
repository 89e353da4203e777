"""A stage that is killed at any moment, and run again, ends with the bytes of an undisturbed one.

`KILLS=20` in the environment has each killed twenty times.
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

pytestmark = pytest.mark.torture

STAGES = ["extract", "filter", "train", "sample", "judge", "evaluate", "report"]
WITH_CHECKPOINTS = ("train", "sample")
KILLS = int(os.environ.get("KILLS", "1"))
# As little as leaves each stage a second or more of work.
QUICK = {
    "mirror": "doodles",
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
# The stage as its command runs it, but that it says when it begins, and that checkpoints come as often as can be.
RUN = """
import importlib, sys
from stages import command
from stages.common import checkpoints
checkpoints.SAVE_EVERY_SECONDS, checkpoints.MAX_TIME_SHARE = 0.05, 0.9
name = sys.argv.pop()
stage = importlib.import_module(f"stages.{name}")
if name in ("train", "sample", "judge", "evaluate"):
    from stages.pixelcnn import sampling
    sampling.MAX_TILE = 4
else:
    import matplotlib.figure, pandas
print("ready", flush=True)
raise SystemExit(command.run(stage.main, stage.__doc__))
"""


class Runs:
    """Stages as processes, in one folder with a cache of its own."""

    def __init__(self, folder: Path, settings: params.Params) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.checkpoints = folder / "cache" / "checkpoints"
        write(folder, settings.model_dump(mode="json"))

    def start(self, stage: str) -> "subprocess.Popen[bytes]":
        """A process that is about to begin with the stage."""
        variables = os.environ | {"PYTHONPATH": str(ROOT), "QUICKDRAW_CACHE": str(self.folder / "cache")}
        variables.pop("DVC_ROOT", None)
        with self.log.open("ab") as log:
            run = subprocess.Popen(
                [sys.executable, "-c", RUN, stage], cwd=self.folder, env=variables, stdout=subprocess.PIPE, stderr=log
            )
        assert run.stdout is not None
        with run.stdout:
            assert run.stdout.readline() == b"ready\n", self.log.read_text()
        return run

    def finish(self, stage: str) -> float:
        """Run the stage to its end; how long it took."""
        run, began = self.start(stage), time.monotonic()
        assert run.wait() == 0, self.log.read_text()
        return time.monotonic() - began

    def hashes(self) -> dict[str, str]:
        """Of every output, what is left of half-written ones among them."""
        outputs = [path for top in ("data", "reports") for path in (self.folder / top).rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): files.sha256(path) for path in outputs}

    def forget(self, stage: str) -> None:
        """Delete what the stage wrote, as DVC does before it runs a stage again."""
        of_reports = {
            "evaluate": ("metrics.json", "metrics.csv", "classes.csv", "confusion.csv"),
            "report": ("index.html", "classes"),
        }
        for path in [Path("data", stage), *(Path("reports", name) for name in of_reports.get(stage, ()))]:
            if (self.folder / path).is_dir():
                shutil.rmtree(self.folder / path)
            else:
                (self.folder / path).unlink(missing_ok=True)

    def written(self) -> set[str]:
        """The checkpoints that there are."""
        return {path.name for path in self.checkpoints.glob("*/0*.safetensors")}


@pytest.fixture(scope="module")
def runs(full_run: params.Params, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("killed"), full_run.model_copy(update=QUICK))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_killed(stage: str, runs: Runs) -> None:
    for before in STAGES[: STAGES.index(stage)]:
        if not (runs.folder / "data" / before).exists():
            runs.finish(before)
    seconds = runs.finish(stage)
    undisturbed = runs.hashes()
    assert any(name.startswith((f"data/{stage}/", "reports/")) for name in undisturbed)
    assert not list(runs.checkpoints.glob("*")), "a run that has ended needs none"

    chance = random.Random(stage)
    runs.log.write_text("")
    killed = 0
    while killed < KILLS:
        if chance.random() < 0.5:
            runs.forget(stage)
        there, run = runs.written(), runs.start(stage)
        if stage in WITH_CHECKPOINTS and killed % 2 == 0:
            while runs.written() <= there and run.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.5))
        else:
            time.sleep(chance.uniform(0, seconds))
        run.kill()
        if run.wait() == 0:
            assert runs.hashes() == undisturbed, "it was quicker"
        else:
            killed += 1
    runs.finish(stage)
    assert runs.hashes() == undisturbed
    assert not list(runs.checkpoints.glob("*"))
    if stage in WITH_CHECKPOINTS:
        assert f"{stage}: goes on after" in runs.log.read_text()
