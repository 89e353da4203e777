"""`python -m pipeline export --push`, against a stand-in of the hub's HTTP API. Needs the extra `hub`."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.exporting import hub
from pipeline.exporting.checksums import ExportError

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (the extra `hub`)")

TOKEN = "hf_of_this_test"
FILES = {"README.md": "---\nlicense: cc-by-4.0\n---\n# A model\n", "config.json": "{}", "savedmodel/a.pb": "b"}


class Hub(ThreadingHTTPServer):
    """A hub with at most one repository: it answers the requests of an upload of small files.

    Attributes:
      created: the bodies of the requests that create a repository.
      files: the content of each file that has been committed, by path.
      refuses: whether it answers each request with 401.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.refuses = False


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.server.refuses or self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid credentials in Authorization header"}, 401)
        match self.path.partition("?")[0]:
            case "/api/repos/create":
                self.server.created.append(json.loads(body))
                self.answer({"url": f"http://{self.headers['Host']}/me/drawings"})
            case "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            case "/api/models/me/drawings/preupload/main":
                paths = [file["path"] for file in json.loads(body)["files"]]
                self.answer(
                    {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
                )
            case "/api/models/me/drawings/commit/main":
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.answer({"commitUrl": f"http://{self.headers['Host']}/me/drawings/commit/1", "commitOid": "1"})
            case _:
                self.answer({"error": f"unexpected: {self.path}"}, 404)

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/me/drawings"):
            return self.answer({"id": "me/drawings", "sha": "0", "siblings": []})
        self.answer({"error": f"unexpected: {self.path}"}, 404)

    def answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the package uses, with a token that it accepts."""
    import huggingface_hub.constants

    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_folder_is_uploaded_to_a_new_repository(server: Hub, folder: Path) -> None:
    hub.check("me/drawings")
    assert hub.push(folder, "me/drawings") == f"http://127.0.0.1:{server.server_port}/me/drawings"
    assert [entry["name"] for entry in server.created] == ["drawings"]
    assert server.files == {name: text.encode() for name, text in FILES.items()}


def test_a_refusal_says_how_to_go_on(server: Hub, folder: Path) -> None:
    server.refuses = True
    with pytest.raises(ExportError) as raised:
        hub.push(folder, "me/drawings")
    message = str(raised.value)
    assert message.startswith("--push: ") and "401" in message and "\n" not in message
    assert message.endswith(
        f"{folder} is complete; `hf auth login` logs in, and `hf upload me/drawings {folder}` uploads it"
    )
    assert TOKEN not in message


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "a b", "--x"])
def test_a_name_that_is_not_one_of_a_repository(name: str) -> None:
    with pytest.raises(ExportError, match=r"^--push: .* is not the name of a repository; expected: user/name$"):
        hub.check(name)
