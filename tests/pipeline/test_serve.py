"""`python -m pipeline serve` listens on 127.0.0.1 only, even if the environment sets another host."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests import fake_project
from tests.settings import ROOT

# A fake command `prefect`: its server listens and responds, its worker sleeps, and any other command ends at once.
PREFECT = """
import http.server, os, sys, time
arguments = sys.argv[1:]
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


def test_the_server_listens_on_loopback_only(tmp_path: Path) -> None:
    fake_project.write(tmp_path)
    (tmp_path / "prefect.yaml").write_text((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    (tmp_path / "fake" / "prefect").mkdir(parents=True)
    (tmp_path / "fake" / "prefect" / "__init__.py").touch()
    (tmp_path / "fake" / "prefect" / "__main__.py").write_text(PREFECT)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    variables = {"PYTHONPATH": f"{tmp_path / 'fake'}{os.pathsep}{ROOT}", "PREFECT_SERVER_API_HOST": "0.0.0.0"}
    command = [sys.executable, "-m", "pipeline", "serve", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | variables, stdout=subprocess.PIPE, text=True
    ) as serve:
        assert serve.stdout is not None
        lines = iter(serve.stdout.readline, "")
        assert any(f"http://127.0.0.1:{port}" in line for line in lines)
        deadline = time.monotonic() + 120
        listening: set[str] = set()
        while not listening and time.monotonic() < deadline:
            processes = [psutil.Process(serve.pid), *psutil.Process(serve.pid).children(recursive=True)]
            connections = [connection for process in processes for connection in process.net_connections("inet")]
            listening = {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
        serve.terminate()
        serve.stdout.read()
