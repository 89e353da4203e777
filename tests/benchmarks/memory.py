"""What memory each stage takes, as a whole process with all that it starts.

    python -m tests.benchmarks.memory [--mirror FOLDER] [--profile quick] [stage …]

Runs the stages one after the other in an empty folder, with the settings of a profile, and prints a table:

- peak: the most that the stage's processes held at one time, each page that they share counted once. Looked at twenty
  times a second (Linux's PSS; elsewhere the sum of their resident sets).
- largest: the most that one process of the stage held at any time, as the system itself kept count of it.

Training and the judge take their memory with the first steps, so they take `STEPS` of them and no more. `extract` is
measured a second time for all 500,000 drawings of the public bucket, whose row counts are known: it asks for nothing.
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

import psutil

from pipeline.settings import profiles
from stages import params
from tests.settings import FULL, ROOT, write

STAGES = ["extract", "filter", "train", "sample", "judge", "evaluate", "report"]
STEPS = 100
EVERY = 0.05  # seconds between two looks


class Memory(NamedTuple):
    """Of a command, in MiB, and how many seconds it took."""

    peak: float
    largest: float
    seconds: float


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="stage", help="those to measure; the ones before run as well")
    parser.add_argument("--mirror", default=params.DOODLES, help="a folder of drawings (doodles)")
    parser.add_argument("--profile", default="quick", choices=profiles())
    options = parser.parse_args(arguments)
    mirror = options.mirror if options.mirror == params.DOODLES else str(Path(options.mirror).resolve())
    settings = FULL | profiles()[options.profile] | {"mirror": mirror, "max_steps": STEPS, "judge_steps": STEPS}
    wanted = options.stages or STAGES

    print(f"| stage, profile {options.profile} | peak, MiB | largest process, MiB |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if "extract" in wanted:
            everything = FULL | {"mirror": params.BUCKET, "num_drawings": 500_000}
            show("extract, 500,000 drawings", measure(folder / "all", "extract", everything))
        for stage in STAGES[: max(map(STAGES.index, wanted)) + 1]:
            memory = measure(folder / "run", stage, settings)
            if stage in wanted:
                show(stage, memory)


def show(what: str, memory: Memory) -> None:
    """A row of the table."""
    print(f"| {what} | {memory.peak:,.0f} | {memory.largest:,.0f} |", flush=True)


def measure(folder: Path, stage: str, settings: dict[str, Any]) -> Memory:
    """What a stage takes in a folder, which is made where it is missing."""
    folder.mkdir(exist_ok=True)
    write(folder, settings)
    variables = os.environ | {"PYTHONPATH": str(ROOT), "QUICKDRAW_CACHE": str(folder / "cache")}
    variables.pop("DVC_ROOT", None)
    started, peak = time.monotonic(), 0
    log = folder / f"{stage}.log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=variables, stderr=file)
        while True:
            peak = max(peak, held_by(process.pid))
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            time.sleep(EVERY)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{stage} failed:\n{log.read_text(errors='replace')}")
    largest = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Memory(max(peak, largest) / 2**20, largest / 2**20, time.monotonic() - started)


def held_by(pid: int) -> int:
    """The bytes that a process and its descendants hold now."""
    total = 0
    try:
        for process in (root := psutil.Process(pid), *root.children(recursive=True)):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):  # ended meanwhile
        pass
    return total


if __name__ == "__main__":
    main(sys.argv[1:])
