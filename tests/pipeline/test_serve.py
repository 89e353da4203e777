"""`python -m pipeline serve` has a server of its own on 127.0.0.1, even if the environment sets another one."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests import fake_project
from tests.settings import ROOT

# A fake command `prefect`: its server listens and responds, its worker sleeps, and any other command ends at once.
PREFECT = """
import http.server, os, sys, time
import json
arguments = sys.argv[1:]
with open(os.environ["COMMANDS"], "a") as file:
    variables = {key: value for key, value in os.environ.items() if key.startswith("PREFECT_")}
    print(json.dumps([arguments, variables]), file=file)
if "inspect" in arguments:
    sys.exit(not os.path.exists(os.environ["COMMANDS"] + ".exists"))
if "server" in arguments:
    option = "--host"
    host = arguments[arguments.index(option) + 1] if option in arguments else os.environ["PREFECT_SERVER_API_HOST"]
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
    http.server.HTTPServer((host, int(arguments[arguments.index("--port") + 1])), Handler).serve_forever()
elif "worker" in arguments:
    time.sleep(600)
"""


TEAM = "postgresql+asyncpg://prefect:secret@db.example/prefect"


@contextmanager
def served(folder: Path, **variables: str) -> Iterator[tuple[psutil.Process, int]]:
    """Run `serve` until the block ends; yields its process and port, once it is ready."""
    fake_project.write(folder)
    (folder / "prefect.yaml").write_text((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    (folder / "fake" / "prefect").mkdir(parents=True)
    (folder / "fake" / "prefect" / "__init__.py").touch()
    (folder / "fake" / "prefect" / "__main__.py").write_text(PREFECT)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    environment = os.environ | variables
    environment |= {"PYTHONPATH": f"{folder / 'fake'}{os.pathsep}{ROOT}", "COMMANDS": str(folder / "commands")}
    command = [sys.executable, "-m", "pipeline", "serve", "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as serve:
        assert serve.stdout is not None
        lines = iter(serve.stdout.readline, "")
        assert any(f"http://127.0.0.1:{port}" in line for line in lines)
        try:
            yield psutil.Process(serve.pid), port
        finally:
            serve.terminate()
            serve.stdout.read()


def test_the_server_listens_on_loopback_only_and_is_not_that_of_a_team(tmp_path: Path) -> None:
    """The shell has the variables of a team's server, with its database and its deployments."""
    team = {
        "PREFECT_SERVER_API_HOST": "0.0.0.0",
        "PREFECT_API_DATABASE_CONNECTION_URL": TEAM,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": TEAM,
        "PREFECT_SERVER_DATABASE_HOST": "db.example",
        "PREFECT_API_URL": "http://prefect.example:4200/api",
        "PREFECT_UI_API_URL": "http://prefect.example:4200/api",
        "PREFECT_SERVER_API_AUTH_STRING": "admin:secret",
        "PREFECT_PROFILES_PATH": "/team/profiles.toml",
    }
    with served(tmp_path, **team) as (serve, port):
        deadline = time.monotonic() + 120
        listening: set[str] = set()
        while not listening and time.monotonic() < deadline:
            processes = [serve, *serve.children(recursive=True)]
            connections = [connection for process in processes for connection in process.net_connections("inet")]
            listening = {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
    commands = [json.loads(line) for line in (tmp_path / "commands").read_text().splitlines()]
    names = [arguments[1] for arguments, _ in commands]
    assert sorted(names) == ["automation", "automation", "deploy", "server", "worker"] and names[-1] == "deploy"
    for _, variables in commands:
        home = tmp_path / ".dvc" / "tmp" / "prefect"
        assert variables["PREFECT_HOME"] == str(home), "the folder of its database and its profiles"
        assert variables["PREFECT_API_URL"] == f"http://127.0.0.1:{port}/api"
        assert variables.keys() == {
            "PREFECT_HOME", "PREFECT_API_URL", "PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_SERVER_DATABASE_TIMEOUT",
        }  # fmt: skip


@pytest.mark.slow
def test_the_automation_for_lost_runs_is_created_once(tmp_path: Path) -> None:
    (tmp_path / "commands.exists").touch()
    with served(tmp_path):
        pass
    commands = [json.loads(line)[0] for line in (tmp_path / "commands").read_text().splitlines()]
    assert [command[1:3] for command in commands if command[1] == "automation"] == [["automation", "inspect"]]
