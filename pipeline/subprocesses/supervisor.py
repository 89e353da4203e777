"""Run child processes, read their output line by line, and end them with all their descendants.

A child ends on `Supervisor.stop`, when its time limit has passed, and when this process ends.
"""

import contextlib
import os
import pty
import re
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from stages.common.errors import UserError

REAPER = Path(__file__).with_name("reaper.py")
STDOUT, STDERR = 1, 2

LineCallback = Callable[[str], object]
EchoFilter = Callable[[str], bool]


class Stopped(UserError):
    """The process was ended before it finished."""


class TimedOut(Stopped):
    """The process exceeded its time limit."""


class Supervisor:
    """A group of child processes that any thread can stop together. A stopped supervisor starts no more processes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._reapers: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def stop(self) -> None:
        """End the running processes, and start no more. Does not wait."""
        with self._lock:
            self._stopped = True
            self._changed.notify_all()
            for reaper in self._reapers:
                _release(reaper)

    def wait(self) -> None:
        """Wait until no process runs."""
        with self._lock:
            self._changed.wait_for(lambda: not self._reapers)

    def pause(self, seconds: float) -> None:
        """Sleep for `seconds`. Raises `Stopped` as soon as `stop` is called."""
        with self._lock:
            if self._changed.wait_for(lambda: self._stopped, seconds):
                raise Stopped("stopped before it finished")

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        line: LineCallback,
        echo: EchoFilter | None = None,
        seconds: float | None = None,
    ) -> int:
        """Run `command` to its end and return its exit code (128 + n for signal n).

        Args:
          command: the program and its arguments.
          cwd: the folder to run it in.
          env: its environment variables.
          line: called with each line of its standard output and standard error, without the line ending.
          echo: called after `line`, and with blank lines too: whether to write the line to that of this process as
            well. A terminal shows progress bars and colours. None echoes nothing.
          seconds: the time limit; None for none.

        Raises:
          TimedOut: the time limit has passed.
          Stopped: `stop` was called.
        """
        streams = _Streams(terminal=echo is not None and sys.stdout.isatty() and sys.stderr.isatty())
        reaper_command = [sys.executable, "-I", str(REAPER), *command]
        with self._lock:
            if self._stopped:
                streams.close_child_ends()
                streams.close()
                raise Stopped(f"{command[0]} was not started")
            reaper = subprocess.Popen(
                reaper_command,
                cwd=cwd,
                env=env,
                stdin=subprocess.PIPE,
                stdout=streams.child_ends[0],
                stderr=streams.child_ends[1],
                start_new_session=True,
            )
            self._reapers.add(reaper)
        streams.close_child_ends()
        try:
            in_time = streams.read(reaper, line, echo, None if seconds is None else time.monotonic() + seconds)
        finally:
            _release(reaper)
            code = reaper.wait()  # a second interrupt ends this wait, but not the reaper
            streams.close()
            with self._lock:
                self._reapers.discard(reaper)
                self._changed.notify_all()
        if not in_time:
            raise TimedOut(f"timed out after {seconds:g} seconds")
        if self._stopped:
            raise Stopped("stopped before it finished")
        return code


def _release(reaper: "subprocess.Popen[bytes]") -> None:
    """Close the pipe to a reaper, which then ends its command and exits."""
    assert reaper.stdin is not None
    with contextlib.suppress(OSError):
        reaper.stdin.close()


class _Streams:
    """The standard output and standard error of a child.

    Args:
      terminal: whether the child writes both to one pseudo-terminal, and not each to its own pipe.

    Attributes:
      parent_ends: the file descriptors to read from; each maps to the stream to echo to, STDOUT or STDERR.
      child_ends: the file descriptors for the child's standard output and standard error.
    """

    def __init__(self, terminal: bool) -> None:
        self.parent_ends: dict[int, int] = {}
        if terminal:
            parent_end, child_end = pty.openpty()
            _copy_size(child_end)
            self.child_ends: tuple[int, int] = (child_end, child_end)
            self.parent_ends[parent_end] = STDOUT
        else:
            (stdout, child_stdout), (stderr, child_stderr) = os.pipe(), os.pipe()
            self.child_ends = (child_stdout, child_stderr)
            self.parent_ends |= {stdout: STDOUT, stderr: STDERR}

    def read(
        self, reaper: "subprocess.Popen[bytes]", line: LineCallback, echo: EchoFilter | None, deadline: float | None
    ) -> bool:
        """Call `line` and `echo` with each line until the child ends; return False if the deadline passes first."""
        unfinished = dict.fromkeys(self.parent_ends, b"")
        with selectors.DefaultSelector() as selector:
            for parent_end in self.parent_ends:
                selector.register(parent_end, selectors.EVENT_READ)
            while selector.get_map():
                wait = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
                if wait <= 0:
                    return False
                ready = selector.select(wait)
                for key, _ in ready:
                    try:
                        data = os.read(key.fd, 65536)
                    except OSError:  # the child's end of the pseudo-terminal is closed
                        data = b""
                    if not data:
                        selector.unregister(key.fd)
                    *lines, unfinished[key.fd] = re.split(rb"(?<=[\r\n])", unfinished[key.fd] + data)
                    for raw in lines if data else [*lines, unfinished[key.fd]]:
                        text = raw.decode("utf-8", "replace").rstrip()
                        if text:
                            line(text)
                        if echo is not None and echo(text):
                            _write(self.parent_ends[key.fd], raw)
                if not ready and reaper.poll() is not None:
                    break  # the child has ended, but an unrelated process still holds the stream open
        return True

    def close_child_ends(self) -> None:
        for end in set(self.child_ends):
            os.close(end)

    def close(self) -> None:
        for end in self.parent_ends:
            os.close(end)


def _write(stream: int, data: bytes) -> None:
    (sys.stdout if stream == STDOUT else sys.stderr).flush()
    while data:
        data = data[os.write(stream, data) :]


def _copy_size(terminal: int) -> None:
    import fcntl
    import termios

    columns, rows = shutil.get_terminal_size()
    with contextlib.suppress(OSError):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """Raise `SystemExit(128 + n)` inside the block on SIGTERM and SIGHUP, so that cleanup runs as after Ctrl-C."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous_handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
