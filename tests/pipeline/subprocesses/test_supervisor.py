"""A child's lines are read as they are written, and its process tree ends on a stop, a timeout and its parent's end."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from pipeline.subprocesses import reaper
from pipeline.subprocesses.supervisor import Stopped, Supervisor, TimedOut
from tests.settings import ROOT

# Three generations of processes that ignore every signal that can be ignored; the last is in a session of its own.
TREE = """
    trap '' INT TERM HUP
    sh -c 'echo $$ >> pids; setsid sh -c "trap \\"\\" INT TERM HUP; echo \\$\\$ >> pids; while :; do sleep 1; done" &
           while :; do sleep 1; done' &
    echo $$ >> pids
    echo ready
    while :; do sleep 1; done
    """
ONE_PROCESS = "echo $$ >> pids; echo ready; exec sleep 600"
RUNNER = """
    import sys
    from pathlib import Path
    from pipeline.subprocesses.supervisor import Supervisor
    Supervisor().run(["sh", "-c", sys.argv[1]], cwd=Path.cwd(), env={"PATH": "/usr/bin:/bin"}, line=print)
    """


def pids(folder: Path) -> list[int]:
    file = folder / "pids"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def eventually(condition: Callable[[], bool], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def all_ended(folder: Path) -> bool:

    def ended(pid: int) -> bool:
        try:
            return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    return all(map(ended, pids(folder)))


@pytest.fixture(autouse=True)
def kill_remaining_processes(tmp_path: Path) -> Iterator[None]:
    yield
    for pid in pids(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def run(
    folder: Path, script: str, supervisor: Supervisor | None = None, seconds: float | None = None
) -> tuple[int, str]:
    lines: list[str] = []
    environment = {"PATH": os.environ["PATH"]}
    code = (supervisor or Supervisor()).run(
        ["sh", "-c", script], cwd=folder, env=environment, line=lines.append, seconds=seconds
    )
    return code, "\n".join(lines)


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("exec /no/such/thing", 127)],
)
def test_the_exit_code_is_that_of_the_command(tmp_path: Path, script: str, code: int) -> None:
    assert run(tmp_path, script)[0] == code


def test_a_command_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    lines: list[str] = []
    assert Supervisor().run(["/no/such/thing"], cwd=tmp_path, env={}, line=lines.append) == 127
    assert lines == ["error: /no/such/thing: No such file or directory"]


def test_lines_are_read_as_they_are_written_and_progress_bars_as_lines(tmp_path: Path) -> None:
    """The script waits after its first line until that line has been read."""
    lines: list[str] = []

    def read(text: str) -> None:
        lines.append(text)
        (tmp_path / "read").touch()

    script = "echo one; until [ -e read ]; do sleep 0.02; done; printf ' 50%%\\r100%%\\n\\n' >&2; printf 'no end'"
    Supervisor().run(["sh", "-c", script], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, line=read)
    assert sorted(lines) == [" 50%", "100%", "no end", "one"]
    assert lines[0] == "one"


def test_the_command_has_no_input_and_default_signal_handlers(tmp_path: Path) -> None:
    assert run(tmp_path, "cat; kill -INT $$; echo ignored") == (130, "")


def test_stop_ends_the_process_tree_and_prevents_later_runs(tmp_path: Path) -> None:
    supervisor = Supervisor()
    stopper = threading.Thread(
        target=lambda: (eventually(lambda: len(pids(tmp_path)) == 3), supervisor.stop()),  # type: ignore[func-returns-value]
    )
    stopper.start()
    with pytest.raises(Stopped):
        run(tmp_path, TREE, supervisor)
    stopper.join()
    assert len(pids(tmp_path)) == 3
    assert all_ended(tmp_path)
    with pytest.raises(Stopped):
        run(tmp_path, "echo $$ >> pids", supervisor)
    assert len(pids(tmp_path)) == 3


@pytest.mark.parametrize(("child", "ended_by"), [("sleep 600", "its child"), ("", "an interrupt")])
def test_a_command_is_interrupted_only_while_it_runs_nothing(tmp_path: Path, child: str, ended_by: str) -> None:
    """DVC, for example, ends when its stage does, and what it writes meanwhile is whole."""
    code = f"""
import pathlib, subprocess, time
try:
    pathlib.Path("ready").touch()
    subprocess.run({child.split()!r}) if {child!r} else time.sleep(600)
    time.sleep(0.2)
    print("ended by its child")
except KeyboardInterrupt:
    print("ended by an interrupt")
"""
    supervisor, lines = Supervisor(), list[str]()

    def stop() -> None:
        eventually((tmp_path / "ready").exists)
        supervisor.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(Stopped):
        supervisor.run([sys.executable, "-c", code], cwd=tmp_path, env=dict(os.environ), line=lines.append)
    stopper.join()
    assert lines == [f"ended by {ended_by}"]


def test_lines_are_echoed_as_chosen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    script = "echo one; echo secret; echo; printf '50%%\\r100%%\\r'; printf end"
    Supervisor().run(
        ["sh", "-c", script],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        line=lines.append,
        echo=lambda text: text != "secret",
    )
    assert lines == ["one", "secret", "50%", "100%", "end"]
    assert capfd.readouterr().out == "one\n\n50%\r100%\rend"


def test_a_timeout_ends_the_process(tmp_path: Path) -> None:
    with pytest.raises(TimedOut, match=r"timed out after 0.5 seconds"):
        run(tmp_path, ONE_PROCESS, seconds=0.5)
    assert all_ended(tmp_path)


def test_background_jobs_of_a_command_end_with_it(tmp_path: Path) -> None:
    script = "setsid sh -c 'echo $$ >> pids; exec sleep 600' & while [ ! -s pids ]; do sleep 0.02; done; exit 5"
    assert run(tmp_path, script)[0] == 5
    assert len(pids(tmp_path)) == 1
    assert all_ended(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(("script", "generations"), [pytest.param(TREE, 3, marks=pytest.mark.slow), (ONE_PROCESS, 1)])
def test_the_process_tree_ends_with_the_process_that_started_it(
    tmp_path: Path, number: signal.Signals, script: str, generations: int
) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    code = "\n".join(line.strip() for line in RUNNER.splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", code, script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert eventually(lambda: len(pids(tmp_path)) == generations)
    process.send_signal(number)
    assert eventually(lambda: all_ended(tmp_path))
    process.wait()


def test_a_process_started_while_the_tree_is_killed_is_killed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Respawning:
        """A process that ends only on SIGKILL, and starts another one just before."""

        running: ClassVar[list["Respawning"]] = []

        def __init__(self, respawns: int) -> None:
            self.respawns = respawns

        def send_signal(self, number: signal.Signals) -> None:
            if number == signal.SIGKILL:
                Respawning.running.remove(self)
                Respawning.running.extend([Respawning(self.respawns - 1)] * bool(self.respawns))

        @classmethod
        def children(cls, recursive: bool) -> list["Respawning"]:
            return list(cls.running)

    Respawning.running.append(Respawning(respawns=3))
    monkeypatch.setattr(psutil, "Process", lambda: Respawning)
    monkeypatch.setattr(reaper, "_reap", lambda pid: None)
    reaper._end(0, [(signal.SIGTERM, 0.1), (signal.SIGKILL, 60.0)])
    assert Respawning.running == []


def test_stop_ends_a_pause(tmp_path: Path) -> None:
    supervisor = Supervisor()
    supervisor.pause(0.01)
    threading.Timer(0.05, supervisor.stop).start()
    with pytest.raises(Stopped):
        supervisor.pause(600)


def test_a_command_in_a_terminal_writes_to_a_terminal(tmp_path: Path) -> None:
    """A progress bar is shown in the terminal, and its lines are read as well."""
    code = (
        "import sys; from pathlib import Path; from pipeline.subprocesses.supervisor import Supervisor; lines = [];"
        "script = 'test -t 1 && test -t 2 && printf \"1%%\\\\r2%%\\\\n\" && stty size < /dev/stderr';"
        "environment = {'PATH': '/usr/bin:/bin', 'LINES': '7', 'COLUMNS': '99'};"
        "command = ['sh', '-c', script];"
        "Supervisor().run(command, cwd=Path.cwd(), env=environment, line=lines.append, echo=lambda _: True);"
        "Path('lines').write_text(repr(lines))"
    )
    parent_end, child_end = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LINES": "33", "COLUMNS": "99"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=child_end, stderr=child_end, check=True
    )
    assert result.returncode == 0
    shown = os.read(parent_end, 4096)
    for end in (parent_end, child_end):
        os.close(end)
    assert b"1%\r2%" in shown
    assert (tmp_path / "lines").read_text() == "['1%', '2%', '33 99']"
