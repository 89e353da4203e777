"""A run that is killed: whatever the moment, the next one goes on, and the outcome is byte for byte the same."""

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
OUTCOME = ("data/extract/index.parquet", "data/filter/images.npy", "data/filter/drawings.parquet")

# What is written once a second is written a hundred times here, so that twenty kills do not take a minute.
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


def start(folder: Path, cache: Path, way: str, unsaved: str = "0.01") -> "subprocess.Popen[str]":
    """A run in a folder, that has imported what it needs."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "QUICKDRAW_CACHE": str(cache), "QUICKDRAW_FETCH": way}
    environment.pop("DVC_ROOT", None)
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, unsaved], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert run.stdout is not None and run.stdout.readline() == "ready\n"
    return run


def finish(run: "subprocess.Popen[str]") -> None:
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors


@pytest.mark.parametrize("way", ["ranges", "files"])
def test_a_fetch_that_is_killed_twenty_times(
    way: str, full_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"num_drawings": 1600, "classes": ("bee", "tree", "zorro")}
    mirror = make_mirror(tmp_path / "mirror", COUNTS)
    with Server(mirror, latency=0.02) as server:
        server.listing = True
        folders = {name: tmp_path / name for name in ("killed", "whole")}
        for folder in folders.values():
            folder.mkdir()
            settings = full_run.model_copy(update=changes | {"mirror": server.address})
            write(folder, settings.model_dump(mode="json"))

        finish(start(folders["whole"], tmp_path / "its own cache", way))
        whole = len(server.requests)

        # A moment is a number of requests into the run, and some milliseconds: few enough that twenty kills do not
        # reach the end, and enough to get through what each run asks first.
        chance = random.Random(0)
        kept = []
        for _ in range(KILLS):
            run = start(folders["killed"], tmp_path / "cache", way)
            moment = len(server.requests) + chance.randrange(max(whole // 8, 24))
            while len(server.requests) < moment and run.poll() is None:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.02))
            run.kill()
            run.communicate()
            kept.append(sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.rows")))
        finish(start(folders["killed"], tmp_path / "cache", way))
        more = len(server.requests) - 2 * whole
        print(f"{way}: {KILLS} kills cost {more} requests on top of {whole}; kept after each: {kept}")

    for path in OUTCOME:
        assert (folders["killed"] / path).read_bytes() == (folders["whole"] / path).read_bytes(), path
    assert kept == sorted(kept), "nothing that was kept is lost"
    assert way == "files" or len(set(kept)) > 10, "the kills came at different moments"


def test_two_runs_of_the_stages_at_once(full_run: Params, tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path / "mirror", COUNTS)
    settings = full_run.model_copy(update={"num_drawings": 1600, "classes": ("bee", "tree", "zorro")})
    with Server(mirror, latency=0.01) as server:
        server.listing = True
        runs = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            write(tmp_path / name, settings.model_copy(update={"mirror": server.address}).model_dump(mode="json"))
            runs.append(start(tmp_path / name, tmp_path / "cache", "ranges"))
        for run in runs:
            finish(run)
        asked = [(request.path, request.start) for request in server.parts()]
    assert len(asked) == len(set(asked)), "no drawing is fetched twice"
    for path in OUTCOME:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
    assert len(np.load(tmp_path / "one/data/filter/images.npy")) > 900


def test_an_interrupt_keeps_what_has_come(full_run: Params, tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path / "mirror", COUNTS)
    with Server(mirror, latency=0.05) as server:
        server.listing = True
        changes = {"mirror": server.address, "num_drawings": 1600, "classes": ("bee", "tree")}
        write(tmp_path, full_run.model_copy(update=changes).model_dump(mode="json"))
        run = start(tmp_path, tmp_path / "cache", "ranges", unsaved="3600")
        while len(server.requests) < 300 and run.poll() is None:
            time.sleep(0.001)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate()
    assert run.returncode == 130
    assert "Traceback" not in errors
    kept = sum(path.stat().st_size // 792 - 1 for path in (tmp_path / "cache").rglob("*.rows"))
    assert kept > 200, "all that had come, though nothing had been written yet"
    assert not list(tmp_path.glob("data/filter/*"))
