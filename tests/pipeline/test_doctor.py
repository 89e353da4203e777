"""`python -m pipeline doctor`: it reports each problem that the tests cause, and still prints all other checks."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import doctor, dvc, server
from pipeline.__main__ import main
from pipeline.doctor import Finding, Level
from stages.common.urls import hide_secrets
from stages.params import Params
from tests import fake_project
from tests.settings import FULL, ROOT, write
from tests.stages.drawings import make_mirror, noise

SECRET = "hunter2"
probe_tensorflow = doctor.probe_tensorflow  # the fixture `root` replaces it
NAMES = [
    "Python", "packages", "settings", "Git", "DVC", "store", "source", "Prefect", "processor", "memory", "workspace",
    "DVC's cache", "user's cache", "TensorFlow",
]  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    fake_project.write(folder, source="doodles")
    shutil.copy(ROOT / "pyproject.toml", folder)
    fake_project.git(folder, "add", "--all")
    fake_project.git(
        folder, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "-m", "add pyproject.toml"
    )
    return folder


@pytest.fixture
def root(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project in which a run would work. TensorFlow is imported in the slow tests only."""
    folder = tmp_path / "project"
    shutil.copytree(template, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(server, "configured_server", lambda: None)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    probe = completed_probe(cuda=False)
    monkeypatch.setattr(doctor, "probe_tensorflow", lambda: probe)
    return folder


def completed_probe(
    gpus: Sequence[str] = (), cuda: bool = True, stderr: str = ""
) -> "subprocess.CompletedProcess[str]":
    """A result of `probe_tensorflow`."""
    text = json.dumps({"version": "2.21", "cuda": cuda, "gpus": gpus})
    return subprocess.CompletedProcess([], 0, f"a start-up message\n{text}\n", stderr)


def run_doctor(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, tuple[str, str]]]:
    """Run the command. Returns the exit code, and the level and message of each check by its name."""
    exit_code = main(["doctor"])
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    assert (err == "") is (exit_code == 0) and err.count("\n") <= 1
    return exit_code, {line[6:20].strip(): (line[:6].strip(), line[20:]) for line in out.splitlines()}


def failed_checks(findings: dict[str, tuple[str, str]]) -> set[str]:
    return {name for name, (level, _) in findings.items() if level == "error"}


def test_a_project_in_which_a_run_would_work(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, findings = run_doctor(capsys)
    assert exit_code == 0
    assert list(findings) == NAMES
    assert {name: level for name, (level, _) in findings.items() if level != "ok"} == {"TensorFlow": "note"}
    assert findings["DVC"][1] == "0 of the 7 stages have run, according to dvc.lock"


def test_doctor_runs_in_a_subfolder_and_fails_outside_the_project(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root / "reviews")
    assert run_doctor(capsys)[0] == 0
    monkeypatch.chdir("/")
    assert main(["doctor"]) == 1
    assert "no dvc.yaml here or above" in capsys.readouterr().err


def replace_file(file: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / file).write_text(text)


def delete(path: str) -> Callable[[Path], object]:
    return lambda root: shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()


def with_settings(**settings: object) -> Callable[[Path], object]:
    return lambda root: write(root, FULL | {"source": "doodles"} | settings)


def with_config(text: str) -> Callable[[Path], object]:
    return lambda root: (root / ".dvc" / "config.local").write_text(text)


PROBLEMS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "an unsupported Python": (
        replace_file("pyproject.toml", 'requires-python = ">=3.99"\n'),
        "Python",
        r"needs >=3.99; create an environment",
    ),
    "an invalid setting": (
        with_settings(num_resnet=0),
        "settings",
        r"num_resnet is 0; expected: a whole .* `git restore params",
    ),
    "two invalid settings": (with_settings(num_resnet=0, epochs=-1), "settings", r"epochs is -1.*git restore"),
    "not YAML": (replace_file("params.yaml", "source: [\n"), "settings", r"params.yaml, line \d: not YAML"),
    "no params.yaml": (delete("params.yaml"), "settings", "params.yaml is missing"),
    "no repository": (delete(".git"), "Git", "is not a Git repository with a commit .* git init"),
    "no .dvc": (delete(".dvc"), "DVC", r"has no folder .dvc; run `git restore .dvc`"),
    "an invalid graph": (
        replace_file("dvc.yaml", "stages: {a: {cmd: x, deps: [a], outs: [a]}}\n"),
        "DVC",
        "a dependency and an output in stage: a",
    ),
    "a dvc.lock with the conflicts of a merge": (
        replace_file("dvc.lock", "<<<<<<< HEAD\n"),
        "DVC",
        r"dvc\.lock cannot be read .* run `git restore dvc\.lock`",
    ),
    "a folder that does not exist": (
        with_settings(source="nowhere"),
        "source",
        r"the folder .*/nowhere does not exist; set another",
    ),
    "a folder in an unknown user's home": (
        with_settings(source="~nosuchuser/x"),
        "source",
        r"~nosuchuser/x is in the home folder of an unknown user; set another source",
    ),
    "a folder without classes": (
        with_settings(source="reviews"),
        "source",
        r"reviews holds no <class>.npy, but 'README.md'; convert",
    ),
    "a folder that is a file": (with_settings(source="dvc.yaml"), "source", "dvc.yaml is not a folder"),
    "a store without its package": (with_settings(source="gs://bucket/a"), "source", "needs a package that is missing"),
    "a dataset that is not prepared": (
        with_settings(source="tfds:quickdraw_bitmap"),
        "source",
        "holds no prepared quickdraw_bitmap 3.0.0; set TFDS_DATA_DIR",
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_problem_is_an_error_and_the_other_checks_still_run(
    root: Path, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cause, name, message = PROBLEMS[problem]
    cause(root)
    exit_code, findings = run_doctor(capsys)
    assert exit_code == 1
    assert findings[name][0] == "error" and re.search(message, findings[name][1]), findings
    assert findings.keys() >= set(NAMES)
    consequences = {
        "not YAML": {"DVC", "DVC's cache"},
        "no .dvc": {"DVC's cache"},
        "no repository": {"DVC", "DVC's cache"},
    }
    assert failed_checks(findings) - {name} <= consequences.get(problem, set()), findings


@pytest.mark.parametrize(("errors", "lines"), [(1, "the line above that begins"), (3, "the 3 lines above that begin")])
def test_the_last_line_says_where_to_look(
    root: Path, errors: int, lines: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda root: [("disk", Finding(Level.ERROR, "full"))] * errors)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == f"error: a run would fail on this machine: see {lines} with `error`\n"


@pytest.mark.parametrize(("setting", "file"), [("\u00e9clair", "e\u0301clair"), ("e\u0301clair", "\u00e9clair")])
def test_a_file_in_the_other_form_of_unicode_is_found(
    root: Path, setting: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "drawings").mkdir()
    np.save(root / "drawings" / f"{file}.npy", noise("bee", 12))
    with_settings(source="drawings", classes=[setting], num_drawings=12)(root)
    assert run_doctor(capsys)[1]["source"] == (
        "ok",
        "drawings has 12 drawings of 28×28 pixels, grey, and enough of each class of the run",
    )


def saves(name: str, array: "np.typing.NDArray[Any]") -> Callable[[Path], object]:
    return lambda folder: np.save(folder / f"{name}.npy", array)


@pytest.mark.parametrize(
    ("cause", "settings", "level", "message"),
    [
        (lambda _: None, {}, "ok", "460 drawings of 28×28 pixels, grey, and enough of each class of the run"),
        (lambda _: None, {"num_drawings": "all"}, "ok", "460 drawings"),
        (lambda _: None, {"num_drawings": 461}, "note", "num_drawings is 461: a run uses all that there are"),
        (lambda _: None, {"num_drawings": 2}, "error", "classes: the index of 2 drawings has .* raise num_drawings"),
        (lambda _: None, {"classes": ["bee", "trea"]}, "error", "classes: 'trea' is not a class.* mean 'tree'"),
        (lambda folder: (folder / "bee.npy").rename(folder / "bee (1).npy"), {}, "error", r"Rename 'bee \(1\).npy' to"),
        (
            lambda folder: (folder / "sun.npy").write_text("<html>"),
            {},
            "error",
            "sun.npy is not a .npy file, but a web",
        ),
        (saves("tree", noise("tree", 9).reshape(9, 7, 112)), {}, "error", "convert it: python -m pipeline import"),
        (saves("tree", noise("tree", 9).reshape(9, 56, 14)), {}, "error", "28×28.*tree.npy of 56×14"),
        (saves("tree", noise("tree", 1)), {}, "error", "the source has 1 of 'tree'; expected: at least 2"),
        (saves("tree", noise("tree", 110) // 255), {}, "error", "no pixel of 'tree' is above 1.*pipeline import"),
        (saves("tree", noise("bee", 120)), {}, "error", "100 of the 100 drawings of '(bee|tree)' are also in other"),
        (saves("tree", 255 - noise("tree", 110) // 4), {"classes": ["tree"]}, "error", "of the paper .*--invert"),
        (saves("zorro", noise("zorro", 40) // 255), {}, "ok", "460 drawings"),
    ],
)
def test_a_folder_is_checked_as_the_stages_do(
    root: Path,
    cause: Callable[[Path], object],
    settings: dict[str, object],
    level: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cause(make_mirror(root / "drawings"))
    with_settings(**{"source": "drawings", "classes": ["bee", "tree"], "num_drawings": 200} | settings)(root)
    exit_code, findings = run_doctor(capsys)
    assert findings["source"][0] == level, findings
    assert re.search(message, findings["source"][1]), findings
    assert exit_code == (level == "error")


def test_digits_are_checked_as_the_stages_do(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_settings(source="digits", classes=["0", "1"], num_drawings="all")(root)
    assert run_doctor(capsys)[1]["source"] == (
        "ok",
        "digits has 1,797 drawings of 8×8 pixels, grey, and enough of each class of the run",
    )


@pytest.mark.parametrize("path", ["file/below", "/proc/none"])
def test_a_cache_that_cannot_be_written_to(
    root: Path, path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root.parent / "file").touch()
    monkeypatch.setenv("QUICKDRAW_CACHE", str(root.parent / path))
    exit_code, findings = run_doctor(capsys)
    assert exit_code == 1
    assert failed_checks(findings) == {"user's cache"}
    assert findings.keys() >= set(NAMES)
    assert re.search("is not a folder|cannot be written to", findings["user's cache"][1])


def test_a_full_disk(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "MIN_DISK", 1e30)
    exit_code, findings = run_doctor(capsys)
    assert exit_code == 1
    assert failed_checks(findings) == {"workspace", "DVC's cache", "user's cache"}
    assert "dvc gc" in findings["workspace"][1]


def test_uncommitted_changes_are_a_note(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "stage.py").write_text("changed")
    exit_code, findings = run_doctor(capsys)
    assert exit_code == 0
    level, message = findings["Git"]
    assert level == "note" and message.startswith("stage.py: not as in the last commit")


def test_the_files_that_a_run_has_changed_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor(capsys)[1]["Git"] == ("ok", "all files are as in the last commit")
    with (root / "params.yaml").open("a", encoding="utf-8") as file:
        file.write("# The settings of a run.\n")
    (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n# of a run\n", encoding="utf-8")
    files = "params.yaml dvc.lock"
    message = f"changed by the last run: `git commit {files}` keeps the run, `git restore {files}` goes back"
    assert run_doctor(capsys)[1]["Git"] == ("ok", message)


def test_a_torn_lock_file_is_a_note_with_the_remedy(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "dvc.lock").write_text("")
    exit_code, findings = run_doctor(capsys)
    assert exit_code == 0
    assert findings["DVC"] == (
        "note",
        "dvc.lock is damaged, probably by an interrupt: `dvc repro` fails; `python -m pipeline run` repairs it",
    )


def test_another_python_on_the_path_is_a_note(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "bin").mkdir()
    (root / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(root / "bin"), prepend=os.pathsep)
    exit_code, findings = run_doctor(capsys)
    assert exit_code == 0
    assert findings["Python"][0] == "note" and "would use" in findings["Python"][1]


def test_the_check_of_a_store_leaves_no_file_behind(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_config("[core]\nremote = storage\n['remote \"storage\"']\nurl = ../../store\n")(root)
    assert run_doctor(capsys)[1]["store"] == ("ok", "'storage' can be read and written to")
    assert list((root.parent / "store").iterdir()) == []


STORAGE = "[core]\nremote = storage\n"


@pytest.mark.parametrize(
    ("config", "variable", "level", "message"),
    [
        (STORAGE + "['remote \"storage\"']\nurl = ../dvc.yaml/store\n", "", "note",
         r"the store /.*/dvc.yaml/store cannot be written to: .*Not a directory: a run works without it"),
        (STORAGE, "", "note", "the store storage cannot be read: "),
        ("", "file://{root}/../shared store", "ok", "file://.*shared store can be read and written to"),
        ("", "{root}/../cache", "ok", ".*cache: .* GB are free"),
        ("", "{root}/dvc.yaml/cache", "error", ".*dvc.yaml is not a folder"),
        ("", "somewhere", "error", "QUICKDRAW_STORE is 'somewhere'; expected: a URL or an absolute folder"),
        ("", "ssh://a:{secret}@host/a", "note", "the store ssh://.*host/a cannot be read: .*requires 'dvc-ssh'"),
    ],
)  # fmt: skip
def test_a_store_that_cannot_be_used_is_named_with_the_reason(
    root: Path,
    config: str,
    variable: str,
    level: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_config(config)(root)
    monkeypatch.setenv("QUICKDRAW_STORE", variable.format(root=root, secret=SECRET))
    _, findings = run_doctor(capsys)
    assert findings["store"][0] == level and re.match(message, findings["store"][1]), findings["store"]
    assert (root / ".dvc" / "config.local").read_text() == config, "doctor changes no configuration"


def test_a_check_that_raises_or_hangs_does_not_stop_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hang() -> doctor.Finding:
        time.sleep(60)
        raise AssertionError

    monkeypatch.setattr(doctor, "check_memory", lambda: 1 // 0)
    monkeypatch.setattr(doctor, "check_processor", hang)
    monkeypatch.setattr(doctor, "CHECK_TIMEOUT", 0.5)
    exit_code, findings = run_doctor(capsys)
    assert exit_code == 1
    assert list(findings) == NAMES
    assert findings["memory"] == ("note", "check failed: ZeroDivisionError: integer division or modulo by zero")
    assert findings["processor"] == ("error", "timed out after 0.5 seconds")


# --- The network: a mirror on the web, and Prefect ---


@pytest.fixture
def http_server() -> Iterator[tuple[str, list[str], list[int]]]:
    """A server's address, the requests that it received, and a list of the one status with which it responds."""
    requests: list[str] = []
    status = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            requests.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_response(status[0])
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}", requests, status
        running.shutdown()


@pytest.mark.parametrize(("status", "level"), [(200, "ok"), (302, "ok"), (405, "ok"), (404, "error"), (403, "error")])
def test_a_mirror_on_the_web(
    root: Path,
    http_server: tuple[str, list[str], list[int]],
    status: int,
    level: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, requests, response_status = http_server
    response_status[0] = status
    with_settings(source=f"http://me:{SECRET}@{address}/draw ings/?key={SECRET}")(root)
    exit_code, findings = run_doctor(capsys)
    assert (exit_code, findings["source"][0]) == (int(level == "error"), level)
    assert f"http://{address}/draw ings/" in findings["source"][1]
    assert requests == [f"/draw%20ings/bee.npy?key={SECRET} Basic bWU6aHVudGVyMg=="]


def test_a_mirror_and_a_prefect_server_that_do_not_answer(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:  # bound, but not listening
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with_settings(source=f"http://me:{SECRET}@{address}/a")(root)
        # Prefect reads PREFECT_API_URL only once in a process, so setting it here would have no effect.
        monkeypatch.setattr(server, "configured_server", lambda: f"http://me:{SECRET}@{address}/api")
        exit_code, findings = run_doctor(capsys)
    assert exit_code == 1
    assert re.search(r"does not answer \(.*refused\)", findings["source"][1])
    assert findings["Prefect"][0] == "note", "Prefect is optional"
    assert f"http://{address}/api does not answer" in findings["Prefect"][1]


def test_a_prefect_server_that_answers(
    root: Path,
    http_server: tuple[str, list[str], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(server, "configured_server", lambda: f"http://{http_server[0]}/api")
    assert run_doctor(capsys)[1]["Prefect"] == ("ok", f"the server at http://{http_server[0]}/api answers")


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
def test_secrets_in_urls_are_hidden(text: str) -> None:
    assert SECRET not in hide_secrets(text)
    assert hide_secrets("see https://host/a b, and why?") == "see https://host/a b, and why?"


# --- TensorFlow, imported in a separate process ---

# The code of a fake module `tensorflow`, and the message.
BROKEN_TENSORFLOW = {
    "raise ImportError('not built')": r"cannot be imported: ImportError: not built; pip install",
    "import os; os.abort()": r"cannot be imported: exit code -6",
    "import time; time.sleep(60)": r"takes longer than 1 seconds",
}


@pytest.mark.parametrize("code", BROKEN_TENSORFLOW)
def test_a_tensorflow_that_cannot_be_imported(
    tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "probe_tensorflow", probe_tensorflow)
    (tmp_path / "tensorflow.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "TENSORFLOW_TIMEOUT", 1.0 if "sleep" in code else 60.0)
    exit_code, findings = run_doctor(capsys)
    assert exit_code == 1
    assert findings["TensorFlow"][0] == "error" and re.search(BROKEN_TENSORFLOW[code], findings["TensorFlow"][1])


def test_a_gpu_or_the_reason_why_tensorflow_finds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(device: str = "auto", **probe: Any) -> doctor.Finding:
        return doctor.check_tensorflow(completed_probe(**probe), device)

    assert check("gpu", gpus=["H100"]) == (Level.OK, "TensorFlow 2.21 computes on H100", "")
    no_cuda = check(cuda=False)
    assert no_cuda.level is Level.NOTE and "without CUDA" in no_cuda.message
    assert check("gpu", cuda=False).level is Level.ERROR
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: "nvidia" not in str(path) and exists(path))
    assert "no NVIDIA driver" in check().message
    monkeypatch.setattr(Path, "exists", lambda path: "nvidia" in str(path) or exists(path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "[gpu]" in check(stderr="Cannot dlopen some GPU libraries.").remedy
    assert "nvidia-smi" in check().remedy
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert check().remedy == "unset CUDA_VISIBLE_DEVICES"


@pytest.mark.slow
def test_the_command_in_a_new_process(root: Path, full_run: Params) -> None:
    write(root, FULL | {"source": "doodles", "device": "gpu"})
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    process = subprocess.run(
        [sys.executable, "-m", "pipeline", "doctor"], capture_output=True, text=True, env=environment, check=False
    )
    assert process.returncode == 1
    assert re.search(
        r"^error TensorFlow +TensorFlow 2.21.+ finds no GPU, but device is gpu", process.stdout, re.MULTILINE
    )
    assert process.stderr == ("error: a run would fail on this machine: see the line above that begins with `error`\n")


@pytest.mark.slow
def test_the_number_of_stages_that_have_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dvc.Workspace(root).reproduce("extract")
    assert run_doctor(capsys)[1]["DVC"] == ("ok", "1 of the 7 stages have run, according to dvc.lock")
