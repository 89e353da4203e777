"""Prefect for a person with one machine: its server, the deployments of prefect.yaml, and a worker, in one command."""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline import dvc
from pipeline.server import server_answers
from pipeline.subprocesses.signals import exit_on_signals
from pipeline.subprocesses.supervisor import Stopped, Supervisor
from stages.common import files
from stages.common.errors import UserError

READY_TIMEOUT = 180.0  # seconds for the server to answer, and for the worker to be there
DEPLOYMENTS = Path(".dvc") / "tmp" / "prefect.yaml"


class ServeError(UserError):
    """What stands in the way: one line for a person."""


def serve(port: int, schedules: bool) -> None:
    """Serve until interrupted. Runs happen in the checkout at hand, one at a time.

    Args:
      port: of the server, on this machine alone.
      schedules: whether the schedules of prefect.yaml start runs.
    """
    root = dvc.find_root(Path.cwd())
    address = f"http://127.0.0.1:{port}"
    if server_answers(f"{address}/api"):
        raise ServeError(f"something is served at {address} already; --port names another")
    pool = write_deployments(root, root / DEPLOYMENTS, schedules)

    variables = dvc.environment(root) | {
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # SQLite waits for a processor that trains
    }
    parts: list[_Service] = []

    def start(*words: str, shown: bool) -> _Service:
        command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
        parts.append(_Service(command, root, variables, shown))
        return parts[-1]

    with exit_on_signals(), contextlib.ExitStack() as stack:
        stack.callback(lambda: stop_services(reversed(parts)))  # the server last: it hears how runs end
        server = start("server", "start", "--host", "127.0.0.1", "--port", str(port), shown=False)
        server.until(lambda: server_answers(f"{address}/api"))
        worker = start("worker", "start", "--pool", pool, "--type", "process", "--limit", "1", shown=True)
        worker.until(lambda: server_answers(f"{address}/api", f"work_pools/{pool}"))
        start("deploy", "--all", "--prefect-file", str(root / DEPLOYMENTS), shown=False).until(None)
        print(
            f"\nThe runs, and the forms that start them: {address}\n"
            f"Their schedules are {'on' if schedules else 'off; --schedules turns them on'}.\n"
            f"For `python -m pipeline run` to be seen there: export PREFECT_API_URL={address}/api\n",
            flush=True,
        )
        while all(part.runs() for part in (server, worker)):
            time.sleep(0.5)
        next(part for part in (server, worker) if not part.runs()).until(None)


def stop_services(parts: Iterable["_Service"]) -> None:
    """End parts one after the other."""
    for part in parts:
        part.stop()


def write_deployments(root: Path, path: Path, schedules: bool) -> str:
    """Write prefect.yaml as it is for the checkout at hand, and return the name of its work pool."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    text: dict[str, Any] = yaml.load(root / "prefect.yaml")
    text["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": str(root)}}]
    for deployment in text["deployments"]:
        for schedule in deployment.get("schedules", []):
            schedule["active"] = schedules
    pools = sorted({str(deployment["work_pool"]["name"]) for deployment in text["deployments"]})
    if len(pools) != 1:
        raise ServeError(f"prefect.yaml names {len(pools)} work pools ({', '.join(pools)}); to serve them, name one")
    with files.atomic_file(path) as temporary:
        temporary.write_text(json.dumps(text, indent=1), encoding="utf-8")  # JSON is YAML too
    return pools[0]


class _Service:
    """One of the commands that run side by side, in a thread that reads what it says."""

    def __init__(self, command: list[str], root: Path, variables: dict[str, str], shown: bool) -> None:
        self._processes = Supervisor()
        self._said: list[str] = []
        self._code: int | None = None
        self._name = " ".join(command[4:6])
        self._shown = shown
        self._thread = threading.Thread(target=self._run, args=(command, root, variables))
        self._thread.start()

    def _run(self, command: list[str], root: Path, variables: dict[str, str]) -> None:
        with contextlib.suppress(Stopped):
            self._code = self._processes.run(command, cwd=root, env=variables, line=self._say)

    def _say(self, line: str) -> None:
        self._said = [*self._said[-20:], line]
        if self._shown:
            print(line, flush=True)

    def runs(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._processes.stop()
        self._thread.join()

    def until(self, holds: Callable[[], bool] | None) -> None:
        """Wait until `holds`, or without it until the command has ended well; raise what it says where it fails."""
        deadline = time.monotonic() + READY_TIMEOUT
        while self.runs() and not (holds and holds()):
            if time.monotonic() > deadline:
                raise ServeError(f"prefect {self._name} is not ready after {READY_TIMEOUT:g} seconds")
            time.sleep(0.2)
        if not self.runs() and (holds or self._code):
            raise ServeError("\n".join([*self._said, f"prefect {self._name} ended; the lines above say why"]))
