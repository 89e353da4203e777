"""The memory that each stage takes, including all processes that it starts.

    python -m tests.benchmarks.memory [--source FOLDER] [--profile quick] [--drawings N] [stage …]

Runs the stages one after the other in an empty folder, with the settings of a profile, and prints a table:

- peak: the peak of the sum over the stage's processes, with shared pages counted once. It is sampled twenty times a
  second (Linux: PSS; elsewhere: the sum of the resident sets).
- own: the same without the pages of mapped files, which the system can drop when it needs memory.
- largest: the peak of a single process of the stage, as recorded by the system.

Training and the judge allocate their memory in the first steps, so they run for only `STEPS` steps. `extract` is
measured a second time for 500,000 drawings of the public bucket, whose row counts are known, so nothing is downloaded.
With `--drawings`, the drawings that filter writes are repeated until there are N, of which 1,000 are held out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psutil

from pipeline.run_settings import profiles
from stages import params
from stages.outputs import dataset
from tests.settings import FULL, ROOT, write

STAGES = ["extract", "filter", "train", "sample", "judge", "evaluate", "report"]
STEPS = 100
HELDOUT = 1000  # of repeated drawings
INTERVAL = 0.05  # seconds between two samples


class Memory(NamedTuple):
    """The memory of a command in MiB, and its duration in seconds."""

    peak: float
    own: float
    largest: float
    seconds: float


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "stages", nargs="*", metavar="stage", help="stages to measure (all); the stages before them run as well"
    )
    parser.add_argument("--source", default=params.DOODLES, help="a folder of drawings (doodles)")
    parser.add_argument("--profile", default="quick", choices=profiles())
    parser.add_argument("--drawings", type=int, help="repeat the drawings for train, judge and evaluate")
    options = parser.parse_args(arguments)
    source = options.source if options.source == params.DOODLES else str(Path(options.source).resolve())
    settings = FULL | profiles()[options.profile] | {"source": source, "max_steps": STEPS, "judge_steps": STEPS}
    requested = options.stages or STAGES

    print(f"| stage, profile {options.profile} | peak, MiB | own, MiB | largest process, MiB | seconds |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "extract" in requested:
            all_drawings = FULL | {"source": params.BUCKET, "num_drawings": 500_000}
            show("extract, 500,000 drawings", measure(folder / "all", "extract", all_drawings))
        for stage in STAGES[: max(map(STAGES.index, requested)) + 1]:
            memory = measure(folder / "run", stage, settings)
            if stage in requested:
                show(stage, memory)
            if stage == "filter" and options.drawings:
                repeat_drawings(folder / "run" / dataset.FOLDER, options.drawings)


def repeat_drawings(folder: Path, number: int) -> None:
    """Repeat the drawings in a folder until there are `number`, of which HELDOUT are held out."""
    images = np.load(folder / dataset.IMAGES)
    rows = np.arange(number) % len(images)
    repeated = np.lib.format.open_memmap(folder / dataset.IMAGES, "w+", np.uint8, (number, *images.shape[1:]))
    for start in range(0, number, 1 << 16):
        repeated[start : start + (1 << 16)] = images[rows[start : start + (1 << 16)]]
    repeated.flush()
    table = pd.read_parquet(folder / dataset.TABLE).iloc[rows].reset_index(drop=True)
    table.assign(position=np.arange(number), heldout=np.arange(number) % (number // HELDOUT) == 0).to_parquet(
        folder / dataset.TABLE
    )


def show(name: str, memory: Memory) -> None:
    """Print a row of the table."""
    figures = (memory.peak, memory.own, memory.largest, memory.seconds)
    print(f"| {name} | {' | '.join(f'{figure:,.0f}' for figure in figures)} |", flush=True)


def measure(folder: Path, stage: str, settings: dict[str, Any]) -> Memory:
    """Run a stage in a folder, which is created if necessary, and measure it."""
    folder.mkdir(exist_ok=True)
    write(folder, settings)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "QUICKDRAW_CACHE": str(folder / "cache")}
    environment.pop("DVC_ROOT", None)
    started, peak, own = time.monotonic(), 0, 0
    log = folder / f"{stage}.log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=environment, stderr=file)
        while True:
            memory, owned = memory_of(process.pid)
            peak, own = max(peak, memory), max(own, owned)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            time.sleep(INTERVAL)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{stage} failed:\n{log.read_text(errors='replace')}")
    largest = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Memory(max(peak, largest) / 2**20, own / 2**20, largest / 2**20, time.monotonic() - started)


def memory_of(pid: int) -> tuple[int, int]:
    """The memory of a process and its descendants now, in bytes: of all their pages, and without those of files."""
    total, own = 0, 0
    try:
        for process in (root := psutil.Process(pid), *root.children(recursive=True)):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
            own += memory.rss - getattr(memory, "shared", 0)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):  # it has ended
        pass
    return total, own


if __name__ == "__main__":
    main(sys.argv[1:])
