"""A Prefect server on loopback, workers for it, and what they leave there."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.settings import ROOT

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def eventually(holds: Callable[[], Any], seconds: float = 900, every: float = 0.2) -> Any:
    """What `holds` returns, once it is something."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(every)
    return found


class Refused(Exception):
    """The server's answer to what it does not accept."""


class Server:
    """A Prefect server in a folder of its own."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.page = f"http://127.0.0.1:{port}"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "DVC_"))}
        self.variables = inherited | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"{self.page}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_PREFETCH_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(ROOT),
        }
        self._log = (home / "server.log").open("wb")
        words = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
        self._process = self.start(*words, cwd=home, log=self._log)
        eventually(self._answers)

    def start(self, *words: str, cwd: Path, log: Any, **variables: str) -> "subprocess.Popen[bytes]":
        """A command of Prefect's in the background."""
        command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
        environment = self.variables | variables
        return subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(300)
        self._log.close()

    def _answers(self) -> bool:
        try:
            return bool(self.call("GET", "/health"))
        except OSError:
            return False

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the server's API."""
        request = urllib.request.Request(
            f"{self.page}/api{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        for patience in (1, 5, 20, 0):
            try:
                with urllib.request.urlopen(request, timeout=300) as answer:
                    text = answer.read()
                break
            except urllib.error.HTTPError as error:
                if error.code != 503 or not patience:  # SQLite is busy; the server asks to come again
                    raise Refused(error.read().decode()) from None
                time.sleep(patience)
        return json.loads(text) if text else None

    def ask(self, deployment: str, parameters: Mapping[str, Any]) -> str:
        """Have a deployment run, and return the run's id."""
        found = self.call("GET", f"/deployments/name/{deployment}")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.call("POST", f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def run(self, flow_run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/flow_runs/{flow_run}")
        return found

    def ended(self, flow_run: str) -> dict[str, Any]:
        """A run, once it has come to an end."""
        eventually(lambda: self.run(flow_run)["state_type"] in FINAL)
        return self.run(flow_run)

    def runs(self, **filters: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("POST", "/flow_runs/filter", {"flow_runs": filters})
        return found

    def stages(self, flow_run: str) -> dict[str, str]:
        """The states of a run's stages by name."""
        body = {"task_runs": {"flow_run_id": {"any_": [flow_run]}}}
        return {task["name"]: task["state_name"] for task in self.call("POST", "/task_runs/filter", body)}

    def artifacts(self, flow_run: str) -> dict[str, Any]:
        """What a run has left, by key; tables are read."""
        body = {"artifacts": {"flow_run_id": {"any_": [flow_run]}}}
        found = self.call("POST", "/artifacts/filter", body)
        return {one["key"]: json.loads(one["data"]) if one["type"] == "table" else one["data"] for one in found}

    def logs(self, flow_run: str) -> str:
        body = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC"}
        return "\n".join(line["message"] for line in self.call("POST", "/logs/filter", body))


class Worker:
    """A process worker of the pool that prefect.yaml names, on a machine that shares nothing but the store."""

    def __init__(self, server: Server, home: Path, **variables: str) -> None:
        home.mkdir(parents=True)
        self._server, self._home = server, home
        self.log = home / "worker.log"
        self._variables = {"TMPDIR": str(home), "STAND_IN": str(home), "HOME": str(home), **variables}
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        words = ["worker", "start", "--pool", "quickdraw", "--type", "process"]
        with self.log.open("ab") as log:
            return self._server.start(*words, cwd=self._home, log=log, **self._variables)

    def again(self) -> None:
        """Start it anew, after its end."""
        self.process.wait(300)
        self.process = self._start()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(300)

    @property
    def place(self) -> Path:
        """Where its stages say what they do."""
        return self._home
