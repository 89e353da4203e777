"""The time that Prefect adds to DVC when all stages are up to date.

    python -m tests.benchmarks.flows [--times 3]

Six stages that are up to date are reproduced again: by `dvc repro`; by `python -m pipeline run` without a server, which
also saves the run as an experiment; and by the flow `reproduce` alone, with a running server and with the server that
Prefect starts if none is running. The commands alternate, so that other load on the machine slows all of them. A figure
is the median of the wall times; `processor` is the CPU time of the command and its children. Prints a table, and then
all figures as one line of JSON.
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
        for path in (home, root):
            path.mkdir()
        fake_project.write(root, source="doodles")
        server = Server(home)
        try:
            figures = measure(server, root, home, times)
        finally:
            server.stop()

    base = figures["dvc repro"]["wall"]
    print(f"{'':26} {'wall':>7} {'over':>7} {'processor':>10}   seconds")
    for name, figure in figures.items():
        print(f"{name:26} {figure['wall']:7.2f} {figure['wall'] - base:7.2f} {figure['processor']:10.2f}")
    print(json.dumps(figures))


def measure(server: Server, root: Path, home: Path, times: int) -> dict[str, dict[str, float]]:
    """The median seconds of each command, after one warm-up run of each."""
    without_server = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    without_server |= {
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(home / "alone"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    times_by_name: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(times + 1):
        for name, arguments in COMMANDS.items():
            times_by_name[name].append(run(arguments, root, server.variables if "running" in name else without_server))
    return {
        name: {
            "wall": statistics.median(wall for wall, _ in values[1:]),
            "processor": statistics.median(processor for _, processor in values[1:]),
        }
        for name, values in times_by_name.items()
    }


def run(arguments: list[str], root: Path, environment: dict[str, str]) -> tuple[float, float]:
    """The wall time and the CPU time of a command, in seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, processor


if __name__ == "__main__":
    main()
