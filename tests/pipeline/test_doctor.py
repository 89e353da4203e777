"""`python -m pipeline doctor`: what can be wrong is made wrong and found, and the rest is seen all the same."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline import doctor, dvc, server
from pipeline.__main__ import main
from pipeline.doctor import Level
from stages.common.urls import hide_secrets
from stages.params import Params
from tests import fake_project
from tests.settings import FULL, ROOT, write

SECRET = "hunter2"
ASK_TENSORFLOW = doctor.ask_tensorflow
NAMES = [
    "Python", "packages", "settings", "Git", "DVC", "remote", "mirror", "Prefect", "processor", "memory", "workspace",
    "DVC's cache", "user's cache", "TensorFlow",
]  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    fake_project.write(folder, mirror="doodles")
    shutil.copy(ROOT / "pyproject.toml", folder)
    fake_project.git(folder, "add", "--all")
    fake_project.git(folder, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "-m", "more")
    return folder


@pytest.fixture
def root(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project in which a run would work; TensorFlow is asked for in the slow tests."""
    folder = tmp_path / "project"
    shutil.copytree(template, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(server, "configured_server", lambda: None)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    answer = json.dumps({"version": "2.21", "cuda": False, "gpus": []})
    monkeypatch.setattr(doctor, "ask_tensorflow", lambda: subprocess.CompletedProcess([], 0, answer, ""))
    return folder


def look(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and level and words by name: a line each."""
    code = main(["doctor"])
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    assert (err == "") is (code == 0) and err.count("\n") <= 1
    return code, {line[6:20].strip(): (line[:6].strip(), line[20:]) for line in out.splitlines()}


def only_wrong(capsys: pytest.CaptureFixture[str], name: str) -> str:
    """What is said of the one thing that is wrong."""
    code, found = look(capsys)
    assert code == 1
    assert [name for name in found if found[name][0] == "wrong"] == [name]
    assert found.keys() >= set(NAMES)
    return found[name][1]


def test_where_a_run_would_work(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = look(capsys)
    assert code == 0
    assert list(found) == NAMES
    assert {name: level for name, (level, _) in found.items() if level != "ok"} == {"TensorFlow": "note"}
    assert found["DVC"][1] == "dvc.lock has 0 of the 7 stages as run"


def test_from_a_folder_below_too(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root / "reviews")
    assert look(capsys)[0] == 0
    monkeypatch.chdir("/")
    assert main(["doctor"]) == 1
    assert "no dvc.yaml here or above" in capsys.readouterr().err


def change(file: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / file).write_text(text)


def take_away(path: str) -> Callable[[Path], object]:
    return lambda root: shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()


def with_settings(**settings: object) -> Callable[[Path], object]:
    return lambda root: write(root, FULL | {"mirror": "doodles"} | settings)


def with_config(text: str) -> Callable[[Path], object]:
    return lambda root: (root / ".dvc" / "config.local").write_text(text)


WRONG: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "an old Python": (
        change("pyproject.toml", 'requires-python = ">=3.99"\n'),
        "Python",
        r"needs >=3.99; make an environment",
    ),
    "a bad setting": (with_settings(num_resnet=0), "settings", r"num_resnet is 0; permitted: .* `git restore params"),
    "two of them": (with_settings(num_resnet=0, epochs=-1), "settings", r"epochs is -1.*git restore"),
    "no YAML": (change("params.yaml", "mirror: [\n"), "settings", r"params.yaml, line \d: not YAML"),
    "no settings": (take_away("params.yaml"), "settings", "params.yaml is not here"),
    "no repository": (take_away(".git"), "Git", "is not a Git repository with a commit .* git init"),
    "no .dvc": (take_away(".dvc"), "DVC", r"has no folder .dvc; `git restore .dvc`"),
    "a graph that is none": (
        change("dvc.yaml", "stages: {a: {cmd: x, deps: [a], outs: [a]}}\n"),
        "DVC",
        "a dependency and an output in stage: a",
    ),
    "a lock that is none": (change("dvc.lock", "stages: [\n"), "DVC", r"dvc\.lock"),
    "no mirror": (with_settings(mirror="nowhere"), "mirror", r"there is no folder .*/nowhere; name another"),
    "nobody's home": (with_settings(mirror="~nosuchuser/x"), "mirror", r"there is no folder .*/~nosuchuser/x; name"),
    "an empty mirror": (with_settings(mirror="reviews"), "mirror", r"reviews has no file bee.npy and 19 more"),
    "a mirror that is a file": (with_settings(mirror="dvc.yaml"), "mirror", "dvc.yaml is not a folder"),
    "a store without its package": (with_settings(mirror="s3://bucket/a"), "mirror", "a package is missing"),
    "no prepared drawings": (with_settings(source="tfds", data_dir="none"), "data_dir", "set source to mirror"),
    "a remote under a file": (
        with_config("[core]\nremote = there\n['remote \"there\"']\nurl = ../dvc.yaml/store\n"),
        "remote",
        r"'there' cannot be written to: .*Not a directory.*dvc push -r there",
    ),
    "a remote that nobody named": (with_config("[core]\nremote = there\n"), "remote", "'there' cannot be written to"),
}


@pytest.mark.parametrize("trouble", WRONG)
def test_what_is_wrong_is_said_and_the_rest_is_seen(
    root: Path, trouble: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, name, says = WRONG[trouble]
    spoil(root)
    code, found = look(capsys)
    assert code == 1
    assert found[name][0] == "wrong" and re.search(says, found[name][1]), found
    assert found.keys() >= set(NAMES)
    others = {other for other in found if found[other][0] == "wrong"} - {name}
    depends = {"no YAML": {"DVC", "DVC's cache"}, "no .dvc": {"DVC's cache"}, "no repository": {"DVC", "DVC's cache"}}
    assert others <= depends.get(trouble, set()), found


@pytest.mark.parametrize("place", ["file/below", "/proc/none"])
def test_a_cache_that_cannot_be_written_to(
    root: Path, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root.parent / "file").touch()
    monkeypatch.setenv("QUICKDRAW_CACHE", str(root.parent / place))
    assert re.search("is not a folder|cannot be written to", only_wrong(capsys, "user's cache"))


def test_a_full_disk(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "NO_DISK", 1e30)
    code, found = look(capsys)
    assert code == 1
    assert {name for name in found if found[name][0] == "wrong"} == {"workspace", "DVC's cache", "user's cache"}
    assert "dvc gc" in found["workspace"][1]


def test_what_differs_from_the_commit_is_a_note(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "stage.py").write_text("changed")
    code, found = look(capsys)
    assert code == 0
    assert found["Git"][0] == "note" and "git status" in found["Git"][1]


def test_another_python_on_the_path_is_a_note(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "bin").mkdir()
    (root / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(root / "bin"), prepend=os.pathsep)
    code, found = look(capsys)
    assert code == 0
    assert found["Python"][0] == "note" and "would find" in found["Python"][1]


def test_a_remote_that_can_be_written_to_is_left_as_it_was(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_config("[core]\nremote = there\n['remote \"there\"']\nurl = ../../store\n")(root)
    assert look(capsys)[1]["remote"] == ("ok", "'there' can be written to")
    assert list((root.parent / "store").iterdir()) == []


def test_a_check_that_breaks_or_hangs_leaves_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hang() -> doctor.Finding:
        time.sleep(60)
        raise AssertionError

    monkeypatch.setattr(doctor, "check_memory", lambda: 1 // 0)
    monkeypatch.setattr(doctor, "check_processor", hang)
    monkeypatch.setattr(doctor, "CHECK_TIMEOUT", 0.5)
    code, found = look(capsys)
    assert code == 1
    assert list(found) == NAMES
    assert found["memory"] == ("note", "could not be looked at: ZeroDivisionError: integer division or modulo by zero")
    assert found["processor"] == ("wrong", "no answer within 0.5 seconds")


# --- The mirror on a network, and Prefect ---


@pytest.fixture
def http_server() -> Iterator[tuple[str, list[str], list[int]]]:
    """An address, what was asked there, and the status that is answered."""
    asked: list[str] = []
    status = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_response(status[0])
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as there:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{there.server_port}", asked, status
        there.shutdown()


@pytest.mark.parametrize(("status", "level"), [(200, "ok"), (302, "ok"), (405, "ok"), (404, "wrong"), (403, "wrong")])
def test_a_mirror_on_the_web(
    root: Path,
    http_server: tuple[str, list[str], list[int]],
    status: int,
    level: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, asked, answer = http_server
    answer[0] = status
    with_settings(mirror=f"http://me:{SECRET}@{address}/draw ings/?key={SECRET}")(root)
    code, found = look(capsys)
    assert (code, found["mirror"][0]) == (int(level == "wrong"), level)
    assert f"http://{address}/draw ings/" in found["mirror"][1]
    assert asked == [f"/draw%20ings/bee.npy?key={SECRET} Basic bWU6aHVudGVyMg=="]


def test_nobody_there(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as held:  # nothing listens
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with_settings(mirror=f"http://me:{SECRET}@{address}/a")(root)
        # Not by PREFECT_API_URL, which Prefect reads once in the life of a process.
        monkeypatch.setattr(server, "configured_server", lambda: f"http://me:{SECRET}@{address}/api")
        code, found = look(capsys)
    assert code == 1
    assert re.search(r"does not answer \(.*refused\)", found["mirror"][1])
    assert found["Prefect"][0] == "note", "a run works without"
    assert f"http://{address}/api does not answer" in found["Prefect"][1]


def test_a_server_that_is_configured_and_answers(
    root: Path,
    http_server: tuple[str, list[str], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(server, "configured_server", lambda: f"http://{http_server[0]}/api")
    assert look(capsys)[1]["Prefect"] == ("ok", f"the server at http://{http_server[0]}/api answers")


@pytest.mark.parametrize(
    "text",
    [
        f"cannot reach https://me:{SECRET}@host/a?x=1",
        f"https://host/a?X-Amz-Signature={SECRET}: no",
        f"Max retries exceeded with url: /a?sig={SECRET} (Caused by x)",
        f"'s3://{SECRET}@bucket'",
        f"http://me:p@{SECRET}@host",
    ],
)
def test_no_secret_is_shown(text: str) -> None:
    assert SECRET not in hide_secrets(text)
    assert hide_secrets("see https://host/a b, and why?") == "see https://host/a b, and why?"


# --- TensorFlow, asked for in a process of its own ---

TENSORFLOW = {
    "raise ImportError('not built')": r"cannot be imported: ImportError: not built; pip install",
    "import os; os.abort()": r"cannot be imported: it ended with exit code -6",
    "import time; time.sleep(60)": r"takes longer than 1 seconds",
}


@pytest.mark.parametrize("code", TENSORFLOW)
def test_a_tensorflow_that_does_not_work(
    tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "ask_tensorflow", ASK_TENSORFLOW)
    (tmp_path / "tensorflow.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "TENSORFLOW_TIMEOUT", 1.0 if "sleep" in code else 60.0)
    code_, found = look(capsys)
    assert code_ == 1
    assert found["TensorFlow"][0] == "wrong" and re.search(TENSORFLOW[code], found["TensorFlow"][1])


def answer(gpus: list[str], cuda: bool = True, said: str = "") -> "subprocess.CompletedProcess[str]":
    text = json.dumps({"version": "2.21", "cuda": cuda, "gpus": gpus})
    return subprocess.CompletedProcess([], 0, f"a greeting\n{text}\n", said)


def test_a_gpu_or_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_tensorflow(answer(["H100"]), "gpu") == (Level.OK, "TensorFlow 2.21 computes on H100", "")
    none = doctor.check_tensorflow(answer([], cuda=False), "auto")
    assert none.level is Level.NOTE and "without CUDA" in none.says
    assert doctor.check_tensorflow(answer([], cuda=False), "gpu").level is Level.WRONG
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: "nvidia" not in str(path) and exists(path))
    assert "no NVIDIA driver" in doctor.check_tensorflow(answer([]), "auto").says
    monkeypatch.setattr(Path, "exists", lambda path: "nvidia" in str(path) or exists(path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "[gpu]" in doctor.check_tensorflow(answer([], said="Cannot dlopen some GPU libraries."), "auto").remedy
    assert "nvidia-smi" in doctor.check_tensorflow(answer([]), "auto").remedy
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert doctor.check_tensorflow(answer([]), "auto").remedy == "unset CUDA_VISIBLE_DEVICES"


@pytest.mark.slow
def test_the_command_as_a_person_types_it(root: Path, full_run: Params) -> None:
    write(root, FULL | {"mirror": "doodles", "device": "gpu"})
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "doctor"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert re.search(r"^wrong TensorFlow +TensorFlow 2.21.+ sees no GPU, and device is gpu", done.stdout, re.MULTILINE)
    assert done.stderr == "error: a run would not work here: 1 of the lines above begin with `wrong`\n"


@pytest.mark.slow
def test_the_stages_that_have_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dvc.Workspace(root).reproduce("extract")
    assert look(capsys)[1]["DVC"] == ("ok", "dvc.lock has 1 of the 7 stages as run")
