"""What Prefect costs over DVC, where nothing is left to run.

    python -m tests.benchmarks.flows [--times 3]

Six stages that are all up to date, brought up to date again: by `dvc repro`; by `python -m pipeline run` with no
server, which also keeps the run as an experiment; by the flow `reproduce` alone, against a server that runs and against
the one that Prefect starts where there is none. They take their turns, so that what else the machine does slows all of
them. A figure is the median of the wall times; `processor` is what the command and its children took of a processor.
Prints a table, and then all figures as one line of JSON.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import fake_project
from tests.pipeline.prefect_server import Server
from tests.settings import ROOT

FLOW = "from pipeline.flows.flows import reproduce; raise SystemExit(not reproduce(return_state=True).is_completed())"
COMMANDS = {
    "dvc repro": ["-m", "dvc", "repro"],
    "run, no server": ["-m", "pipeline", "run"],
    "flow, a running server": ["-c", FLOW],
    "flow, an embedded server": ["-c", FLOW],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as folder:
        home, root = Path(folder) / "home", Path(folder) / "project"
        for place in (home, root):
            place.mkdir()
        fake_project.write(root, mirror="doodles")
        server = Server(home)
        try:
            figures = measure(server, root, home, times)
        finally:
            server.stop()

    base = figures["dvc repro"]["wall"]
    print(f"{'':26} {'wall':>7} {'over':>7} {'processor':>10}   seconds")
    for name, found in figures.items():
        print(f"{name:26} {found['wall']:7.2f} {found['wall'] - base:7.2f} {found['processor']:10.2f}")
    print(json.dumps(figures))


def measure(server: Server, root: Path, home: Path, times: int) -> dict[str, dict[str, float]]:
    """The median seconds of each command, after one run of each that warms it up."""
    alone = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    alone |= {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(home / "alone"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(times + 1):
        for name, words in COMMANDS.items():
            took[name].append(run(words, root, server.variables if "running" in name else alone))
    return {
        name: {
            "wall": statistics.median(wall for wall, _ in found[1:]),
            "processor": statistics.median(processor for _, processor in found[1:]),
        }
        for name, found in took.items()
    }


def run(words: list[str], root: Path, environment: dict[str, str]) -> tuple[float, float]:
    """The seconds that a command took, by the clock and of a processor."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, processor


if __name__ == "__main__":
    main()
