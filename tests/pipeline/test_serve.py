"""What `python -m pipeline serve` starts listens on this machine alone, whatever the environment asks for."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests import fake_project
from tests.settings import ROOT

# As much of Prefect's command as is spoken to: a server where it is told to listen, and what ends at once or never.
PREFECT = """
import http.server, os, sys, time
words = sys.argv[1:]
if "server" in words:
    host = words[words.index("--host") + 1] if "--host" in words else os.environ["PREFECT_SERVER_API_HOST"]
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
    http.server.HTTPServer((host, int(words[words.index("--port") + 1])), Handler).serve_forever()
elif "worker" in words:
    time.sleep(600)
"""


def test_the_server_listens_on_loopback_only(tmp_path: Path) -> None:
    fake_project.write(tmp_path)
    (tmp_path / "prefect.yaml").write_text((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    (tmp_path / "fake" / "prefect").mkdir(parents=True)
    (tmp_path / "fake" / "prefect" / "__init__.py").touch()
    (tmp_path / "fake" / "prefect" / "__main__.py").write_text(PREFECT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"PYTHONPATH": f"{tmp_path / 'fake'}{os.pathsep}{ROOT}", "PREFECT_SERVER_API_HOST": "0.0.0.0"}
    command = [sys.executable, "-m", "pipeline", "serve", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | variables, stdout=subprocess.PIPE, text=True
    ) as serve:
        assert serve.stdout is not None
        said = iter(serve.stdout.readline, "")
        assert any(f"http://127.0.0.1:{port}" in line for line in said)
        deadline = time.monotonic() + 120
        listening: set[str] = set()
        while not listening and time.monotonic() < deadline:
            family = [psutil.Process(serve.pid), *psutil.Process(serve.pid).children(recursive=True)]
            connections = [found for process in family for found in process.net_connections("inet")]
            listening = {found.laddr.ip for found in connections if found.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
        serve.terminate()
        serve.stdout.read()
