"""A killed run can be resumed at any moment, and its outputs are the same to the byte."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stages.params import Params
from tests.settings import ROOT, write
from tests.stages.drawings import make_mirror
from tests.stages.quickdraw.server import Server

pytestmark = pytest.mark.robustness

COUNTS = {"bee": 5000, "sea turtle": 4000, "tree": 6000, "zorro": 1000}
KILLS = 20
OUTPUTS = ("data/extract/index.parquet", "data/filter/images.npy", "data/filter/drawings.parquet")

# Rows are saved a hundred times a second instead of once, so that twenty kills do not take a minute.
RUN = """
import sys
from stages import command, extract, filter
from stages.quickdraw import remote, sources
import aiohttp, pandas
remote.SAVE_EVERY_SECONDS = float(sys.argv[1])
print("ready", flush=True)
for stage in (extract, filter):
    if code := command.run(stage.main, stage.__doc__, []):
        raise SystemExit(code)
"""


def start(folder: Path, cache: Path, strategy: str, save_every: str = "0.01") -> "subprocess.Popen[str]":
    """Start a run in a folder, and wait until it has imported its modules."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "QUICKDRAW_CACHE": str(cache), "QUICKDRAW_FETCH": strategy}
    environment.pop("DVC_ROOT", None)
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, save_every], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert run.stdout is not None and run.stdout.readline() == "ready\n"
    return run


def finish(run: "subprocess.Popen[str]") -> None:
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors


@pytest.mark.parametrize("strategy", ["ranges", "files"])
def test_a_fetch_killed_twenty_times_has_the_same_outputs(
    strategy: str, full_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"num_drawings": 1600, "classes": ("bee", "tree", "zorro")}
    mirror = make_mirror(tmp_path / "mirror", COUNTS)
    with Server(mirror, latency=0.02) as server:
        server.listing = True
        folders = {name: tmp_path / name for name in ("killed", "uninterrupted")}
        for folder in folders.values():
            folder.mkdir()
            settings = full_run.model_copy(update=changes | {"source": server.address})
            write(folder, settings.model_dump(mode="json"))

        finish(start(folders["uninterrupted"], tmp_path / "second cache", strategy))
        uninterrupted = len(server.requests)

        # Each kill comes after a random number of requests and milliseconds: few enough that the fetch is not complete
        # after twenty kills, and enough to get beyond the first requests of each run.
        random_numbers = random.Random(0)
        cached_bytes = []
        for _ in range(KILLS):
            run = start(folders["killed"], tmp_path / "cache", strategy)
            requests = len(server.requests) + random_numbers.randrange(max(uninterrupted // 8, 24))
            while len(server.requests) < requests and run.poll() is None:
                time.sleep(0.001)
            time.sleep(random_numbers.uniform(0, 0.02))
            run.kill()
            run.communicate()
            cached_bytes.append(sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.rows")))
        finish(start(folders["killed"], tmp_path / "cache", strategy))
        extra = len(server.requests) - 2 * uninterrupted
        print(
            f"{strategy}: {KILLS} kills cost {extra} requests more than {uninterrupted}; cached bytes: {cached_bytes}"
        )

    for path in OUTPUTS:
        assert (folders["killed"] / path).read_bytes() == (folders["uninterrupted"] / path).read_bytes(), path
    assert cached_bytes == sorted(cached_bytes), "a kill lost cached rows"
    assert strategy == "files" or len(set(cached_bytes)) > 10, "the kills all came at the same moments"


def test_two_concurrent_runs_fetch_each_drawing_once(full_run: Params, tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path / "mirror", COUNTS)
    settings = full_run.model_copy(update={"num_drawings": 1600, "classes": ("bee", "tree", "zorro")})
    with Server(mirror, latency=0.01) as server:
        server.listing = True
        runs = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            write(tmp_path / name, settings.model_copy(update={"source": server.address}).model_dump(mode="json"))
            runs.append(start(tmp_path / name, tmp_path / "cache", "ranges"))
        for run in runs:
            finish(run)
        ranges = [(request.path, request.start) for request in server.parts()]
    assert len(ranges) == len(set(ranges)), "a drawing was fetched twice"
    for path in OUTPUTS:
        assert (tmp_path / "first" / path).read_bytes() == (tmp_path / "second" / path).read_bytes()
    assert len(np.load(tmp_path / "first/data/filter/images.npy")) > 900


def test_an_interrupted_run_saves_the_rows_it_received(full_run: Params, tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path / "mirror", COUNTS)
    with Server(mirror, latency=0.05) as server:
        server.listing = True
        changes = {"source": server.address, "num_drawings": 1600, "classes": ("bee", "tree")}
        write(tmp_path, full_run.model_copy(update=changes).model_dump(mode="json"))
        run = start(tmp_path, tmp_path / "cache", "ranges", save_every="3600")
        while len(server.requests) < 300 and run.poll() is None:
            time.sleep(0.001)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate()
    assert run.returncode == 130
    assert "Traceback" not in errors
    cached = sum(path.stat().st_size // 792 - 1 for path in (tmp_path / "cache").rglob("*.rows"))
    assert cached > 200, "received rows were lost"
    assert not list(tmp_path.glob("data/filter/*"))
