"""A child process, its lines as they come, and its end with all that it started: on a stop, a time-out, or ours."""

import contextlib
import os
import pty
import selectors
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stages.common.errors import UserError

REAPER = Path(__file__).with_name("reaper.py")
STDOUT, STDERR = 1, 2

LineCallback = Callable[[str], object]


class Stopped(UserError):
    """The process was ended before its time."""


class TimedOut(Stopped):
    """The process took longer than it had."""


class Supervisor:
    """The child processes of one piece of work, which any thread can stop all at once, for good."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._guards: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def stop(self) -> None:
        """End what runs, and start nothing more. Does not wait."""
        with self._lock:
            self._stopped = True
            self._changed.notify_all()
            for guard in self._guards:
                _release(guard)

    def wait(self) -> None:
        """Wait until nothing runs."""
        with self._lock:
            self._changed.wait_for(lambda: not self._guards)

    def pause(self, seconds: float) -> None:
        """Do nothing for a while. Raises `Stopped` after `stop`, at once."""
        with self._lock:
            if self._changed.wait_for(lambda: self._stopped, seconds):
                raise Stopped("ended before its time")

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        line: LineCallback,
        echo: bool = False,
        seconds: float | None = None,
    ) -> int:
        """Run `command` to its end and return its exit code (128 + n for signal n).

        Args:
          line: called with each line of its output and errors, without the line's end.
          echo: whether to pass both on as well, bars and colours included where this is a terminal.
          seconds: how long it may take; None is any time.

        Raises:
          TimedOut: after `seconds`.
          Stopped: after `stop`, from whichever thread.
        """
        streams = _Streams(echo)
        guarded = [sys.executable, "-I", str(REAPER), *command]
        with self._lock:
            if self._stopped:
                streams.close()
                raise Stopped(f"{command[0]} was not started")
            guard = subprocess.Popen(
                guarded,
                cwd=cwd,
                env=env,
                stdin=subprocess.PIPE,
                stdout=streams.child[0],
                stderr=streams.child[1],
                start_new_session=True,
            )
            self._guards.add(guard)
        streams.close_child()
        try:
            in_time = streams.read(guard, line, None if seconds is None else time.monotonic() + seconds)
        finally:
            _release(guard)
            code = guard.wait()  # a second interrupt ends the waiting; the guard goes on
            streams.close()
            with self._lock:
                self._guards.discard(guard)
                self._changed.notify_all()
        if not in_time:
            raise TimedOut(f"ended after {seconds:g} seconds, the most that it may take")
        if self._stopped:
            raise Stopped("ended before its time")
        return code


def _release(guard: "subprocess.Popen[bytes]") -> None:
    """Close the pipe that keeps the guard's tree alive."""
    assert guard.stdin is not None
    with contextlib.suppress(OSError):
        guard.stdin.close()


class _Streams:
    """What a child writes: through one terminal where it is shown in one, else through a pipe for each stream."""

    def __init__(self, echo: bool) -> None:
        self.echo = echo
        self.reading: dict[int, int] = {}
        if echo and sys.stdout.isatty() and sys.stderr.isatty():
            ours, theirs = pty.openpty()
            _copy_size(theirs)
            self.child: tuple[int, int] = (theirs, theirs)
            self.reading[ours] = STDOUT
        else:
            (out, out_child), (err, err_child) = os.pipe(), os.pipe()
            self.child = (out_child, err_child)
            self.reading |= {out: STDOUT, err: STDERR}

    def read(self, guard: "subprocess.Popen[bytes]", line: LineCallback, deadline: float | None) -> bool:
        """Hand on all that comes until the child is done; False where the deadline passes first."""
        rest = dict.fromkeys(self.reading, b"")
        with selectors.DefaultSelector() as selector:
            for ours in self.reading:
                selector.register(ours, selectors.EVENT_READ)
            while selector.get_map():
                wait = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
                if wait <= 0:
                    return False
                ready = selector.select(wait)
                for key, _ in ready:
                    try:
                        data = os.read(key.fd, 65536)
                    except OSError:  # a terminal whose other end is closed
                        data = b""
                    if not data:
                        selector.unregister(key.fd)
                    if self.echo:
                        _write(self.reading[key.fd], data)
                    *lines, rest[key.fd] = (rest[key.fd] + data).replace(b"\r", b"\n").split(b"\n")
                    for text in lines if data else [*lines, rest[key.fd]]:
                        if text.strip():
                            line(text.decode("utf-8", "replace").rstrip())
                if not ready and guard.poll() is not None:
                    break  # a stranger holds the stream open
        return True

    def close_child(self) -> None:
        for end in set(self.child):
            os.close(end)

    def close(self) -> None:
        for ours in self.reading:
            os.close(ours)


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
