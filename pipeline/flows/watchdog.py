"""A flow run, the worker above it and the server that hears of it: a run ends with its worker, and never unheard.

A worker that is killed leaves its runs behind, and one that is asked to end kills them where they stand: the first is
answered here by a thread that watches the worker, the second by a process that waits for the run's own to be gone. That
process is this file as a script: it imports nothing of Prefect's until it has something to tell.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

FLOW_RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"
WATCH_SECONDS = 1.0
CANCELLING_SECONDS = 30.0  # what a worker may take to say that a run is cancelled


@contextlib.contextmanager
def with_watchdog() -> Iterator[None]:
    """Within, the flow run at hand ends with the worker that started it, and the server hears of its end."""
    with _report_end_to_server(), _end_with_worker():
        yield


# --- The run ends with its worker ---


@contextlib.contextmanager
def _end_with_worker() -> Iterator[None]:
    """End this process where the worker that started it is gone: nobody would look after its stages."""
    worker = _worker()
    if worker is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            if _is_gone(worker):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                for stream in (1, 2):  # the worker read them; to log into a broken pipe would end this thread
                    os.dup2(nowhere, stream)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, daemon=True, name="worker watch").start()
    try:
        yield
    finally:
        over.set()


def _is_gone(process: Any) -> bool:
    """Whether a process has ended, if only in name: in a container there may be nobody to take leave of it."""
    import psutil

    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _worker() -> Any:
    """The process that started this flow run on this machine: the nearest above that is not of the run itself."""
    import psutil

    run = os.environ.get(FLOW_RUN_VARIABLE)
    if run is None:
        return None
    for process in psutil.Process().parents():
        try:
            if process.environ().get(FLOW_RUN_VARIABLE) != run:
                return process
        except psutil.Error:
            return process
    return None


# --- The server hears of its end ---

_reporters: list["subprocess.Popen[bytes]"] = []  # of runs that are cut short: their pipes stay open until we are gone


@contextlib.contextmanager
def _report_end_to_server() -> Iterator[None]:
    """Have the end of this process told to the server, where it comes before Prefect can tell it."""
    from prefect.runtime import flow_run
    from prefect.settings import get_current_settings

    server = get_current_settings().api.url
    if server is None or flow_run.id is None:
        yield
        return
    reporter = subprocess.Popen(
        [sys.executable, "-I", __file__, str(flow_run.id)],
        env=os.environ | {"PREFECT_API_URL": server},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _reporters.append(reporter)
    try:
        yield
    except Exception:
        _dismiss(reporter)
        raise
    _dismiss(reporter)


def _dismiss(reporter: "subprocess.Popen[bytes]") -> None:
    reporter.communicate(b"relieved")
    _reporters.remove(reporter)


def _report(run: str) -> None:
    """Wait for the run's process to be gone, and tell the server of it if nobody else has."""
    if sys.stdin.buffer.read():
        return
    from uuid import UUID

    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled, Crashed

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(run)).state
        deadline = time.monotonic() + CANCELLING_SECONDS
        while state is not None and state.is_cancelling() and time.monotonic() < deadline:
            time.sleep(1)
            state = client.read_flow_run(UUID(run)).state
        if state is None or not state.is_final():
            end = Cancelled if state is not None and state.is_cancelling() else Crashed
            client.set_flow_run_state(UUID(run), end(message="Its process was ended from outside."), force=True)


if __name__ == "__main__":
    _report(sys.argv[1])
