"""A store that does not answer, or refuses: what is said, and that a run goes on. The client and S3 are real."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline import dvc
from pipeline.dvc import Outcome, Workspace
from pipeline.dvc.workspace import OutputParser
from tests.pipeline import s3
from tests.pipeline.dvc.test_workspace import clone, make

REFUSED = "http://127.0.0.1:9"  # nothing listens here
URL = "s3://bucket/a"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key, value in s3.VARIABLES.items():
        monkeypatch.setenv(key, value)
    return make(tmp_path / "my project")


@pytest.fixture
def endpoint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The endpoint of S3, in the variable that Amazon's clients read; the clone of a run has no other place for it."""
    with contextlib.ExitStack() as stack:
        match request.param:
            case "refused":
                url = REFUSED
            case "forbidden":
                pytest.importorskip("dvc_s3")
                url = stack.enter_context(s3.forbidding_server())
            case "no bucket":
                url = stack.enter_context(s3.moto_server())
            case _:
                url = stack.enter_context(s3.moto_server("bucket"))
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield url


ANSWERS = [
    ("refused", (False, r"read: Could not connect to the endpoint URL: .http://127\.0\.0\.1:9/"), (False, "read")),
    ("forbidden", (True, "read: Forbidden"), (True, "read: Forbidden")),
    ("no bucket", None, (True, "written to: The specified bucket does not exist")),
    ("bucket", None, None),
]


@pytest.mark.parametrize(
    ("endpoint", "read", "write"), ANSWERS, indirect=["endpoint"], ids=[case[0] for case in ANSWERS]
)
def test_an_error_of_a_store_names_it_and_the_reason_and_whether_asking_again_helps(
    root: Path, endpoint: str, read: tuple[bool, str] | None, write: tuple[bool, str] | None
) -> None:
    dvc.configure_store(root, URL)
    for expected, writing in ((read, False), (write, True)):
        if expected is None:
            dvc.check_store(root, write=writing)
            continue
        with pytest.raises(dvc.StoreError, match=f"^the store {URL} cannot be {expected[1]}") as caught:
            dvc.check_store(root, write=writing)
        assert caught.value.is_refusal is expected[0]
    if write is None:
        assert "Contents" not in s3.client(endpoint).list_objects_v2(Bucket="bucket"), "no file is left behind"


def test_a_password_in_the_address_of_a_store_is_not_shown(root: Path) -> None:
    with pytest.raises(dvc.StoreError) as caught:
        dvc.check_store(root, write=False, url="ssh://a:hunter2@127.0.0.1/a")
    assert "hunter2" not in str(caught.value) and "requires 'dvc-ssh'" in str(caught.value)


class Unreadable(Workspace):
    """A workspace in which DVC runs stages only if it does not ask the store."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.commands: list[list[str]] = []
        self.paused: list[float] = []

    def _dvc(self, arguments: Sequence[str], parser: OutputParser | None = None, *_: Any, **__: Any) -> None:
        assert parser is not None
        self.commands.append(list(arguments))
        parser.add("Stage 'first' is cached - skipping run, checking out outputs")
        if "--pull" in arguments:
            raise dvc.DvcError("unexpected error - Forbidden")
        parser.add("Stage 'first' didn't change, skipping")
        parser.add("Running stage 'left':")

    def pause(self, seconds: float) -> None:
        self.paused.append(seconds)


@pytest.mark.parametrize(
    ("endpoint", "paused"),
    [("refused", [5, 20]), ("forbidden", [])],
    indirect=["endpoint"],
    ids=["refused", "forbidden"],
)
@pytest.mark.usefixtures("endpoint")
def test_a_run_goes_on_without_a_store_that_cannot_be_read(root: Path, paused: list[float]) -> None:
    dvc.configure_store(root, URL)
    workspace, lines = Unreadable(root), list[str]()
    assert workspace.reproduce(line=lines.append) == {"first": Outcome.RESTORED, "left": Outcome.RAN}
    assert workspace.commands == [["repro", "--pull"], ["repro"]] and workspace.paused == paused
    assert len(lines) == len(paused) + 1 and all(f"the store {URL} cannot be read: " in line for line in lines)
    assert lines[-1].endswith("; this run goes on without it")
    workspace.reproduce("right")
    assert workspace.commands[2:] == [["repro", "--single-item", "right"]], "it is not asked again"


@pytest.mark.parametrize("endpoint", ["bucket"], indirect=True)
@pytest.mark.usefixtures("endpoint")
def test_a_store_that_can_be_read_again_is_read_again(root: Path) -> None:
    dvc.configure_store(root, URL)
    workspace = Unreadable(root)
    with pytest.raises(dvc.DvcError, match="Forbidden"):
        workspace.reproduce("first")
    assert workspace.commands == [["repro", "--pull", "--single-item", "first"]] * 2 and workspace.paused == []


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (["Running stage 'first':"], dvc.DvcError("failed to reproduce 'first': output 'first' does not exist")),
        (["Running stage 'first':"], dvc.DvcError("unexpected error - [Errno 28] No space left on device")),
        ([], dvc.OutOfTime("timed out")),
    ],
)
@pytest.mark.parametrize("endpoint", ["forbidden"], indirect=True)
@pytest.mark.usefixtures("endpoint")
def test_a_stage_that_has_failed_is_not_run_again_although_the_store_fails_too(
    root: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], error: dvc.DvcError
) -> None:
    dvc.configure_store(root, URL)

    def fail(self: Workspace, arguments: list[str], parser: OutputParser, **_: Any) -> None:
        assert "--pull" in arguments
        for line in lines:
            parser.add(line)
        raise error

    monkeypatch.setattr(Workspace, "_dvc", fail)
    with pytest.raises(dvc.DvcError) as caught:
        Workspace(root).reproduce("first")
    assert caught.value is error


def test_a_stage_has_started_until_dvc_has_recorded_its_outputs() -> None:
    parser = OutputParser()
    for line, expected in [
        ("Stage 'first' didn't change, skipping", False),
        ("Running stage 'left':", True),
        ("training: 1 of 4 steps", True),
        ("Updating lock file 'dvc.lock'", False),
        ("Running stage 'right':", True),
        ("Stage 'last' is cached - skipping run, checking out outputs", False),
    ]:
        parser.add(line)
        assert parser.in_stage is expected


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", ["no bucket", "refused"], indirect=True)
@pytest.mark.usefixtures("endpoint")
def test_stages_run_and_a_push_says_why_it_failed(
    root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dvc.workspace.READ_RETRY_SECONDS", (0.1,))
    dvc.configure_store(root, URL)
    workspace = Workspace(root)
    assert set(workspace.reproduce().values()) == {Outcome.RAN}
    with pytest.raises(dvc.StoreError, match=f"^the store {URL} cannot be ") as caught:
        workspace.push()
    assert caught.value.is_refusal is ("no bucket" in request.node.name)


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", ["bucket"], indirect=True)
def test_a_killed_push_to_s3_is_completed_by_the_same_command(root: Path, endpoint: str, tmp_path: Path) -> None:
    """It is killed as soon as S3 has something of it. A clone then restores every stage."""
    dvc.configure_store(root, URL)
    Workspace(root).reproduce()
    command = [sys.executable, "-m", "dvc", "push", "--run-cache", "--jobs", "1"]
    push = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while "Contents" not in s3.client(endpoint).list_objects_v2(Bucket="bucket"):
        assert time.monotonic() < deadline and push.poll() is None
    push.send_signal(signal.SIGKILL)
    push.wait()
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    other = clone(root, tmp_path / "other")
    dvc.configure_store(other, URL)
    assert set(Workspace(other).reproduce().values()) == {Outcome.RESTORED}
    assert (other / "last").read_text() == (root / "last").read_text()
    assert not (other / "ran").exists(), "nothing was computed"
