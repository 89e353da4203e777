"""Run a command, and end all its processes when the parent of this script ends. `supervisor.py` starts this script.

The script's standard input is a pipe whose only write end the parent holds. When the parent ends, even by SIGKILL, the
pipe closes, and the script ends the command and all its descendants. When the command itself ends, the script ends the
descendants that are still running.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

INTERRUPT_SECONDS = 5.0  # to wait after an interrupt, before the other signals
ALONE_SECONDS = 0.5  # that the command itself has to end after what it ran has ended, before it is interrupted
# The signals that end a process tree after that, in order, each with the seconds to wait before the next.
END_SIGNALS = ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0))
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def main(command: list[str]) -> int:
    """Run `command` until it ends or standard input closes, and return its exit code (128 + n for signal n)."""
    _adopt_orphans()
    wakeup_read, wakeup_write = os.pipe()
    for end in (wakeup_read, wakeup_write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    # A child does not inherit Python's handlers: the command starts with the default ones, as in a terminal.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, _record_signal)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return 127

    code = None
    while code is None:
        ready, _, _ = select.select([sys.stdin.fileno(), wakeup_read], [], [])
        if wakeup_read in ready:
            os.read(wakeup_read, 4096)
        if sys.stdin.fileno() in ready or _received_signals:
            code = _interrupt(child.pid)
            ended = _end(child.pid, END_SIGNALS)
            return next((number for number in (code, ended) if number is not None), 1)
        code = _reap(child.pid)
    _end(child.pid, END_SIGNALS)  # without SIGINT: shells start background jobs with SIGINT ignored
    return code


_received_signals: list[int] = []


def _record_signal(number: int, _: FrameType | None) -> None:
    if number != signal.SIGCHLD:
        _received_signals.append(number)


def _adopt_orphans() -> None:
    """On Linux, become the parent of every descendant whose parent ends. Other systems have no such call."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap(pid: int) -> int | None:
    """Collect the children that have ended; return the exit code of `pid`, or None if it is not among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if not ended:
                break
            if ended == pid:
                code = os.waitstatus_to_exitcode(status)
                code = 128 - code if code < 0 else code
    return code


def _interrupt(pid: int) -> int | None:
    """Interrupt all descendants; return the exit code of `pid`, or None if it has not ended.

    The command itself is interrupted only if it goes on alone for a while. DVC ends by itself when its stage fails, and
    if it is interrupted while it writes dvc.lock, it leaves a part of the file.
    """
    import psutil

    code, interrupted = None, set[psutil.Process]()
    deadline = time.monotonic() + INTERRUPT_SECONDS
    alone_since = time.monotonic()
    while (now := time.monotonic()) < deadline:
        if (ended := _reap(pid)) is not None:
            code = ended
        processes = set(psutil.Process().children(recursive=True))
        if not processes:
            break
        others = {process for process in processes if process.pid != pid}
        if others:
            alone_since = now
        to_interrupt = others if now - alone_since < ALONE_SECONDS else processes
        _send(signal.SIGINT, to_interrupt - interrupted)
        interrupted |= to_interrupt
        time.sleep(0.02)
    return code


def _end(pid: int, signals: Sequence[tuple[signal.Signals, float]]) -> int | None:
    """End all descendants with the given signals; return the exit code of `pid`, or None if it is not among them.

    Args:
      pid: the process ID of the command.
      signals: the signals to send, in order, each with the seconds to wait before the next.
    """
    import psutil

    this_process, code = psutil.Process(), None
    for number, seconds in signals:
        remaining, deadline = this_process.children(recursive=True), time.monotonic() + seconds
        _send(number, remaining)
        while time.monotonic() < deadline:
            if (ended := _reap(pid)) is not None:
                code = ended
            remaining = this_process.children(recursive=True)
            if not remaining:
                return code
            if number == signal.SIGKILL:
                _send(number, remaining)  # some may have started since the last kill
            time.sleep(0.02)
    return code


def _send(number: signal.Signals, processes: Iterable["psutil.Process"]) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
