"""Run a command so that nothing of it outlives the process that started it: a script, which processes.py starts.

The guard holds the reading end of a pipe whose writing end only its parent holds. Whatever ends the parent, SIGKILL
included, closes the pipe, and the guard then ends the command and all that descends from it. Nor does a descendant
outlive the command itself.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

# What a tree is sent when it must end, and how many seconds it then has.
END_SIGNALS = ((signal.SIGINT, 4.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0))
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def main(command: list[str]) -> int:
    """Run `command` until it ends or standard input does, and return its exit code (128 + n for signal n)."""
    _adopt_orphans()
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    # Handlers of Python's are not inherited: the command starts with the signals as a shell in a terminal leaves them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, _note_signal)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return 127

    code = None
    while code is None:
        ready, _, _ = select.select([sys.stdin.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        if sys.stdin.fileno() in ready or _end_signals:
            code = _end(child.pid, END_SIGNALS)
            return 1 if code is None else code
        code = _reap(child.pid)
    _end(child.pid, END_SIGNALS[1:])  # what it has left in the background, where shells leave it deaf to interrupts
    return code


_end_signals: list[int] = []


def _note_signal(number: int, _: FrameType | None) -> None:
    if number != signal.SIGCHLD:
        _end_signals.append(number)


def _adopt_orphans() -> None:
    """Become the parent of each descendant whose own parent ends; where only Linux can, there is nothing to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap(pid: int) -> int | None:
    """Take leave of the children that have ended; return the exit code of `pid` where it is among them."""
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


def _end(pid: int, steps: Sequence[tuple[signal.Signals, float]]) -> int | None:
    """End all descendants, ever more firmly, and return the exit code of `pid` where it is among them."""
    import psutil

    this, code = psutil.Process(), None
    for number, seconds in steps:
        left, deadline = this.children(recursive=True), time.monotonic() + seconds
        _send(number, left)
        while time.monotonic() < deadline:
            if (ended := _reap(pid)) is not None:
                code = ended
            left = this.children(recursive=True)
            if not left:
                return code
            if number == signal.SIGKILL:
                _send(number, left)  # some may have been started since
            time.sleep(0.02)
    return code


def _send(number: signal.Signals, processes: Sequence["psutil.Process"]) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
