"""A child's lines come as it writes them, and nothing of its tree outlives a stop, a time-out, or this process."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from pipeline.subprocesses import reaper
from pipeline.subprocesses.supervisor import Stopped, Supervisor, TimedOut
from tests.settings import ROOT

# Three generations, the last in a session of its own and deaf to all that can be ignored.
TREE = """
    trap '' INT TERM HUP
    sh -c 'echo $$ >> pids; setsid sh -c "trap \\"\\" INT TERM HUP; echo \\$\\$ >> pids; while :; do sleep 1; done" &
           while :; do sleep 1; done' &
    echo $$ >> pids
    echo ready
    while :; do sleep 1; done
    """
GENTLE = "echo $$ >> pids; echo ready; exec sleep 600"
RUNNER = """
    import sys
    from pathlib import Path
    from pipeline.subprocesses.supervisor import Supervisor
    Supervisor().run(["sh", "-c", sys.argv[1]], cwd=Path.cwd(), env={"PATH": "/usr/bin:/bin"}, line=print)
    """


def pids(folder: Path) -> list[int]:
    file = folder / "pids"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def eventually(holds: Callable[[], bool], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone(folder: Path) -> bool:
    return not any(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids(folder)
    )


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    for pid in pids(tmp_path):
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


def run(
    folder: Path, script: str, processes: Supervisor | None = None, seconds: float | None = None
) -> tuple[int, str]:
    lines: list[str] = []
    environment = {"PATH": os.environ["PATH"]}
    code = (processes or Supervisor()).run(
        ["sh", "-c", script], cwd=folder, env=environment, line=lines.append, seconds=seconds
    )
    return code, "\n".join(lines)


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("exec /no/such/thing", 127)],
)
def test_the_exit_code_is_the_commands(tmp_path: Path, script: str, code: int) -> None:
    assert run(tmp_path, script)[0] == code


def test_a_command_that_is_not_there_says_so(tmp_path: Path) -> None:
    lines: list[str] = []
    assert Supervisor().run(["/no/such/thing"], cwd=tmp_path, env={}, line=lines.append) == 127
    assert lines == ["error: /no/such/thing: No such file or directory"]


def test_lines_come_when_they_are_written_and_bars_as_lines(tmp_path: Path) -> None:
    """What comes after the first line waits for it to have been read."""
    lines: list[str] = []

    def read(text: str) -> None:
        lines.append(text)
        (tmp_path / "read").touch()

    script = "echo one; until [ -e read ]; do sleep 0.02; done; printf ' 50%%\\r100%%\\n\\n' >&2; printf 'no end'"
    Supervisor().run(["sh", "-c", script], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, line=read)
    assert sorted(lines) == [" 50%", "100%", "no end", "one"]
    assert lines[0] == "one"


def test_the_command_reads_nothing_and_hears_signals(tmp_path: Path) -> None:
    assert run(tmp_path, "cat; kill -INT $$; echo deaf") == (130, "")


def test_a_stop_ends_the_tree_and_what_would_come_after(tmp_path: Path) -> None:
    processes = Supervisor()
    stopper = threading.Thread(
        target=lambda: (eventually(lambda: len(pids(tmp_path)) == 3), processes.stop()),  # type: ignore[func-returns-value]
    )
    stopper.start()
    with pytest.raises(Stopped):
        run(tmp_path, TREE, processes)
    stopper.join()
    assert len(pids(tmp_path)) == 3
    assert gone(tmp_path)
    with pytest.raises(Stopped):
        run(tmp_path, "echo $$ >> pids", processes)
    assert len(pids(tmp_path)) == 3


def test_a_timeout_ends_the_tree(tmp_path: Path) -> None:
    with pytest.raises(TimedOut, match=r"ended after 0.5 seconds"):
        run(tmp_path, GENTLE, seconds=0.5)
    assert gone(tmp_path)


def test_what_a_command_leaves_in_the_background_ends_with_it(tmp_path: Path) -> None:
    script = "setsid sh -c 'echo $$ >> pids; exec sleep 600' & while [ ! -s pids ]; do sleep 0.02; done; exit 5"
    assert run(tmp_path, script)[0] == 5
    assert len(pids(tmp_path)) == 1
    assert gone(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(("script", "generations"), [pytest.param(TREE, 3, marks=pytest.mark.slow), (GENTLE, 1)])
def test_the_tree_ends_with_the_process_that_asked_for_it(
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
    assert eventually(lambda: gone(tmp_path))
    process.wait()


def test_what_is_started_while_the_tree_is_killed_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf:
        """A process that ends when it is killed, and has started another by then."""

        left: ClassVar[list["Deaf"]] = []

        def __init__(self, heirs: int) -> None:
            self.heirs = heirs

        def send_signal(self, number: signal.Signals) -> None:
            if number == signal.SIGKILL:
                Deaf.left.remove(self)
                Deaf.left.extend([Deaf(self.heirs - 1)] * bool(self.heirs))

        @classmethod
        def children(cls, recursive: bool) -> list["Deaf"]:
            return list(cls.left)

    Deaf.left.append(Deaf(heirs=3))
    monkeypatch.setattr(psutil, "Process", lambda: Deaf)
    monkeypatch.setattr(reaper, "_reap", lambda pid: None)
    reaper._end(0, [(signal.SIGTERM, 0.1), (signal.SIGKILL, 60.0)])
    assert Deaf.left == []


def test_a_pause_ends_with_a_stop(tmp_path: Path) -> None:
    processes = Supervisor()
    processes.pause(0.01)
    threading.Timer(0.05, processes.stop).start()
    with pytest.raises(Stopped):
        processes.pause(600)


def test_a_terminal_stays_a_terminal(tmp_path: Path) -> None:
    """A bar is drawn in the terminal, and its lines are read all the same."""
    code = (
        "import sys; from pathlib import Path; from pipeline.subprocesses.supervisor import Supervisor; lines = [];"
        "script = 'test -t 1 && test -t 2 && printf \"1%%\\\\r2%%\\\\n\" && stty size < /dev/stderr';"
        "Supervisor().run(['sh', '-c', script],"
        "cwd=Path.cwd(), env={'PATH': '/usr/bin:/bin', 'LINES': '7', 'COLUMNS': '99'}, line=lines.append, echo=True);"
        "Path('lines').write_text(repr(lines))"
    )
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LINES": "33", "COLUMNS": "99"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=theirs, stderr=theirs, check=True
    )
    assert done.returncode == 0
    shown = os.read(ours, 4096)
    for end in (ours, theirs):
        os.close(end)
    assert b"1%\r2%" in shown
    assert (tmp_path / "lines").read_text() == "['1%', '2%', '33 99']"
