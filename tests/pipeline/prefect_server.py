"""A Prefect server on the loopback interface, and workers, for tests."""

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

from ruamel.yaml import YAML

from tests.settings import ROOT

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def eventually(condition: Callable[[], Any], seconds: float = 900, every: float = 0.2) -> Any:
    """Call `condition` until its result is true, and return the result; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not true after {seconds:g} seconds"
        time.sleep(every)
    return result


class Refused(Exception):
    """The server has rejected a request; the message is its response."""


class Server:
    """A Prefect server, started when constructed.

    Attributes:
      url: its address.
      variables: the environment variables for commands that use it.

    Args:
      home: the folder for its database and log.
      variables: additional environment variables.
    """

    def __init__(self, home: Path, **variables: str) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "DVC_"))}
        self.variables = inherited | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_PREFETCH_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(ROOT),
            **variables,
        }
        self._log = (home / "server.log").open("wb")
        arguments = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
        self._process = self.start(*arguments, cwd=home, log=self._log)
        eventually(self._is_ready)

    def start(self, *arguments: str, cwd: Path, log: Any, **variables: str) -> "subprocess.Popen[bytes]":
        """Start a Prefect command in the background, with additional environment variables."""
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        environment = self.variables | variables
        return subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(300)
        self._log.close()

    def _is_ready(self) -> bool:
        try:
            return bool(self.call("GET", "/health"))
        except OSError:
            return False

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to the server's API and return its response, parsed. Raises `Refused` for an HTTP error."""
        request = urllib.request.Request(
            f"{self.url}/api{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        for retry_seconds in (1, 5, 20, 0):
            try:
                with urllib.request.urlopen(request, timeout=300) as response:
                    text = response.read()
                break
            except urllib.error.HTTPError as error:
                if error.code != 503 or not retry_seconds:  # 503: SQLite is busy, and the server asks to retry
                    raise Refused(error.read().decode()) from None
                time.sleep(retry_seconds)
        return json.loads(text) if text else None

    def deploy(self, folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
        """Run `prefect deploy --all` with prefect.yaml, after `change` has modified it.

        Args:
          folder: gets the modified file and the log.
          change: modifies the content of the file in place.
        """
        content = YAML(typ="safe", pure=True).load(ROOT / "prefect.yaml")
        change(content)
        (folder / "prefect.yaml").write_text(json.dumps(content), encoding="utf-8")
        with (folder / "deploy.log").open("wb") as log:
            code = self.start("deploy", "--all", cwd=folder, log=log).wait(900)
        assert code == 0, (folder / "deploy.log").read_text()

    def start_run(self, deployment: str, parameters: Mapping[str, Any]) -> str:
        """Start a run of a deployment, and return its ID."""
        deployment_id = self.call("GET", f"/deployments/name/{deployment}")["id"]
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.call("POST", f"/deployments/{deployment_id}/create_flow_run", body)["id"])

    def run(self, flow_run: str) -> dict[str, Any]:
        """A flow run by its ID."""
        run: dict[str, Any] = self.call("GET", f"/flow_runs/{flow_run}")
        return run

    def wait_for_end(self, flow_run: str) -> dict[str, Any]:
        """Wait until a flow run is in a final state, and return it."""
        eventually(lambda: self.run(flow_run)["state_type"] in FINAL)
        return self.run(flow_run)

    def runs(self, **filters: Any) -> list[dict[str, Any]]:
        """The flow runs that match the API's filters."""
        runs: list[dict[str, Any]] = self.call("POST", "/flow_runs/filter", {"flow_runs": filters})
        return runs

    def stages(self, flow_run: str) -> dict[str, str]:
        """The state of each stage of a flow run, by name."""
        body = {"task_runs": {"flow_run_id": {"any_": [flow_run]}}}
        return {task["name"]: task["state_name"] for task in self.call("POST", "/task_runs/filter", body)}

    def artifacts(self, flow_run: str) -> dict[str, Any]:
        """The artifacts of a flow run, by key; tables are parsed."""
        body = {"artifacts": {"flow_run_id": {"any_": [flow_run]}}}
        artifacts = self.call("POST", "/artifacts/filter", body)
        return {
            artifact["key"]: json.loads(artifact["data"]) if artifact["type"] == "table" else artifact["data"]
            for artifact in artifacts
        }

    def logs(self, flow_run: str) -> str:
        """The log lines of a flow run."""
        body = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC"}
        return "\n".join(line["message"] for line in self.call("POST", "/logs/filter", body))


class Worker:
    """A process worker of the pool in prefect.yaml. It has a home folder, like a machine that shares only the store.

    Args:
      server: its server.
      home: its home folder, which is created.
      limit: how many runs it starts at once.
      variables: additional environment variables.

    Attributes:
      home: its home folder, where its fake stages read and write their control files.
      log: the file with its output.
      process: the running worker.
    """

    def __init__(self, server: Server, home: Path, limit: int = 9, /, **variables: str) -> None:
        home.mkdir(parents=True)
        self._limit = str(limit)
        self._server, self.home = server, home
        self.log = home / "worker.log"
        self._variables = {"TMPDIR": str(home), "FAKE_PROJECT": str(home), "HOME": str(home), **variables}
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        arguments = ["worker", "start", "--pool", "quickdraw", "--type", "process", "--limit", self._limit]
        with self.log.open("ab") as log:
            return self._server.start(*arguments, cwd=self.home, log=log, **self._variables)

    def restart(self) -> None:
        """Wait for its end, and start it again."""
        self.process.wait(300)
        self.process = self._start()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(300)
