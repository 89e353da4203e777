"""Run Prefect on one machine with one command: its server, the deployments of prefect.yaml, and a worker."""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline import dvc
from pipeline.run_settings import resolve_source
from pipeline.server import server_answers
from pipeline.subprocesses.supervisor import Stopped, Supervisor, exit_on_signals
from stages.common import files
from stages.common.errors import UserError
from stages.params import is_folder

READY_TIMEOUT = 180.0  # seconds for the server, the worker and the deployments to become ready, each
MAX_OUTPUT_LINES = 21  # of a command's output, shown if it fails
DEPLOYMENTS = Path(".dvc") / "tmp" / "prefect.yaml"
LOST_RUNS = Path("deploy") / "lost-runs.yaml"
HOME = Path(".dvc") / "tmp" / "prefect"  # the folder of the server's database


class ServeError(UserError):
    """Prefect cannot be started, or one of its commands failed."""


def serve(port: int, schedules: bool, source: str | None = None) -> None:
    """Serve until interrupted. The worker runs flows in this checkout, one at a time.

    Prefect's variables and profiles are not read: they may name the server of a team and its database, and its
    deployments would then run in this checkout.

    Args:
      port: of the server, which listens on 127.0.0.1 only.
      schedules: whether the schedules of prefect.yaml start runs.
      source: the default of the setting `source` for the deployments, but a folder relative to the current one; or
        `auto`. None for the source of the committed params.yaml.

    Raises:
      ServeError: the port is in use, the folder does not exist, prefect.yaml cannot be served, or a command of Prefect
        failed.
    """
    root = dvc.find_root(Path.cwd())
    address = f"http://127.0.0.1:{port}"
    if server_answers(f"{address}/api"):
        raise ServeError(f"a server already runs at {address}: choose another port with --port")
    if source is not None:
        source = resolve_source(source, Path.cwd(), root)
        if is_folder(source) and not (root / source).is_dir():
            raise ServeError(f"--source: the folder {root / source} does not exist")
    pool = write_deployments(root, root / DEPLOYMENTS, schedules, source)

    variables = {key: value for key, value in dvc.environment(root).items() if not key.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(root / HOME),
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # SQLite is slow while training uses all cores
    }
    services: list[_Service] = []

    def start(*arguments: str, echo: bool) -> _Service:
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        services.append(_Service(command, root, variables, echo))
        return services[-1]

    with exit_on_signals(), contextlib.ExitStack() as stack:
        stack.callback(lambda: stop_services(reversed(services)))  # the server last: the others report to it
        server = start("server", "start", "--host", "127.0.0.1", "--port", str(port), echo=False)
        server.wait(lambda: server_answers(f"{address}/api"))
        worker = start("worker", "start", "--pool", pool, "--type", "process", "--limit", "1", echo=True)
        worker.wait(lambda: server_answers(f"{address}/api", f"work_pools/{pool}"))
        try:
            start("automation", "inspect", LOST_RUNS.stem, echo=False).wait(None)
        except ServeError:  # it does not exist yet
            start("automation", "create", "--from-file", str(root / LOST_RUNS), echo=False).wait(None)
        start("deploy", "--all", "--prefect-file", str(root / DEPLOYMENTS), echo=False).wait(None)
        print(
            f"\nRuns, and forms that start them: {address}\n"
            f"Schedules: {'on' if schedules else 'off (--schedules enables them)'}\n"
            f"To show `python -m pipeline run` there as well: export PREFECT_API_URL={address}/api\n",
            flush=True,
        )
        while all(service.is_running() for service in (server, worker)):
            time.sleep(0.5)
        next(service for service in (server, worker) if not service.is_running()).wait(None)


def stop_services(services: Iterable["_Service"]) -> None:
    """Stop services one after another."""
    for service in services:
        service.stop()


def write_deployments(root: Path, path: Path, schedules: bool, source: str | None = None) -> str:
    """Write a copy of prefect.yaml whose deployments run in this checkout.

    Args:
      root: the checkout, which contains prefect.yaml.
      path: of the copy, written atomically.
      schedules: whether the schedules of the deployments are active.
      source: the default of the setting `source`, for each deployment that runs a profile; None for the profile's.

    Returns:
      The name of the work pool that all deployments use.

    Raises:
      ServeError: the deployments use more than one work pool, or none.
    """
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    document: dict[str, Any] = yaml.load(root / "prefect.yaml")
    document["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": str(root)}}]
    for deployment in document["deployments"]:
        for schedule in deployment.get("schedules", []):
            schedule["active"] = schedules
        parameters = deployment.get("parameters", {})
        if source is not None and "profile" in parameters:
            parameters["settings"] = {"source": source} | parameters.get("settings", {})
    pools = sorted({str(deployment["work_pool"]["name"]) for deployment in document["deployments"]})
    if len(pools) != 1:
        raise ServeError(f"prefect.yaml names {len(pools)} work pools ({', '.join(pools)}); expected: one")
    with files.atomic_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")  # JSON is valid YAML
    return pools[0]


class _Service:
    """A command of Prefect that runs in the background, with a thread that reads its output."""

    def __init__(self, command: list[str], root: Path, variables: dict[str, str], echo: bool) -> None:
        self._supervisor = Supervisor()
        self._last_lines: list[str] = []
        self._exit_code: int | None = None
        self._name = " ".join(command[4:6])
        self._echo = echo
        self._thread = threading.Thread(target=self._run, args=(command, root, variables))
        self._thread.start()

    def _run(self, command: list[str], root: Path, variables: dict[str, str]) -> None:
        with contextlib.suppress(Stopped):
            self._exit_code = self._supervisor.run(command, cwd=root, env=variables, line=self._handle_line)

    def _handle_line(self, line: str) -> None:
        self._last_lines = [*self._last_lines, line][-MAX_OUTPUT_LINES:]
        if self._echo:
            print(line, flush=True)

    def is_running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._supervisor.stop()
        self._thread.join()

    def wait(self, is_ready: Callable[[], bool] | None) -> None:
        """Wait until `is_ready` returns true. If it is None, wait until the command ends with exit code 0.

        Raises:
          ServeError: the command failed, with its last lines of output, or took longer than `READY_TIMEOUT`.
        """
        deadline = time.monotonic() + READY_TIMEOUT
        while self.is_running() and not (is_ready and is_ready()):
            if time.monotonic() > deadline:
                raise ServeError(f"prefect {self._name} is not ready after {READY_TIMEOUT:g} seconds; try again")
            time.sleep(0.2)
        if not self.is_running() and (is_ready or self._exit_code):
            raise ServeError("\n".join([*self._last_lines, f"prefect {self._name} ended: see its output above"]))
