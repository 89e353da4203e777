"""End a flow run when its worker ends, and report to the server the runs that were killed.

A killed worker leaves its flow runs behind: a thread in each run watches for this, and ends the run. A worker that is
asked to stop kills its flow runs, which then cannot report their end: a second process, which runs this file as a
script, waits for the end of the run's process and reports it. It imports Prefect only then.
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
WATCH_SECONDS = 1.0  # between two checks of the worker
REPORTING_SECONDS = 30.0  # the time for a worker to report that a run is cancelled or scheduled again
# What `prefect flow-run execute`, which runs in a container, does with a run on SIGTERM: `reschedule` schedules it
# again, and `relinquish` leaves it to the next container.
SIGTERM_VARIABLE = "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"
KILLED = "Its process was killed."


@contextlib.contextmanager
def with_watchdog() -> Iterator[None]:
    """End the flow run if its worker ends while the block runs, and report its end to the server if it is killed."""
    with _report_end_to_server(), _end_with_worker():
        yield


@contextlib.contextmanager
def _end_with_worker() -> Iterator[None]:
    """End this process if the worker that started it ends: otherwise nothing could cancel its stages."""
    worker = _find_worker()
    if worker is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(WATCH_SECONDS):
            if _has_ended(worker):
                null = os.open(os.devnull, os.O_WRONLY)
                for stream in (1, 2):  # the worker read both: logging into the broken pipe would end this thread
                    os.dup2(null, stream)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, daemon=True, name="worker watch").start()
    try:
        yield
    finally:
        done.set()


def _has_ended(process: Any) -> bool:
    """Whether a process has ended. A zombie counts: in a container there may be no process that waits for it."""
    import psutil

    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _find_worker() -> Any:
    """The process that started this flow run on this machine, or None: the nearest ancestor outside the flow run."""
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


# The reporters of runs that have not ended, or that a signal has ended: their pipes stay open as long as this process.
_reporters: list["subprocess.Popen[bytes]"] = []


@contextlib.contextmanager
def _report_end_to_server() -> Iterator[None]:
    """Report the end of this process to the server if it ends before Prefect itself can report it."""
    from prefect.runtime import flow_run
    from prefect.settings import get_current_settings

    server = get_current_settings().api.url
    if server is None or flow_run.id is None:
        yield
        return
    reporter = subprocess.Popen(
        [sys.executable, "-I", __file__, str(flow_run.id), str(flow_run.run_count)],
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
    reporter.communicate(b"done")
    _reporters.remove(reporter)


def _report_end(run: str, attempt: int) -> None:
    """Wait for the end of the run's process, and set the state of the run if nobody else does.

    Args:
      run: the ID of the flow run.
      attempt: which of its attempts this process was; the state of a later one is not its business.
    """
    if sys.stdin.buffer.read():  # the run has ended by itself
        return
    from uuid import UUID

    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled, Crashed

    handed_on = os.environ.get(SIGTERM_VARIABLE, "").lower()
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + REPORTING_SECONDS
        flow_run = client.read_flow_run(UUID(run))
        while _is_reported_by_another(flow_run.state, handed_on) and time.monotonic() < deadline:
            time.sleep(1)
            flow_run = client.read_flow_run(UUID(run))
        state = flow_run.state
        if flow_run.run_count != attempt or state is None:
            return
        if state.is_cancelling():
            client.set_flow_run_state(UUID(run), Cancelled(message=KILLED), force=True)
        elif state.is_pending() or (state.is_running() and handed_on != "relinquish"):
            client.set_flow_run_state(UUID(run), Crashed(message=KILLED), force=True)


def _is_reported_by_another(state: Any, handed_on: str) -> bool:
    """Whether another process may report the end of a run in this state.

    Args:
      state: the state of the run.
      handed_on: what the process that started the run does with it on SIGTERM, if anything.
    """
    return state is not None and (state.is_cancelling() or (state.is_running() and handed_on == "reschedule"))


if __name__ == "__main__":
    _report_end(sys.argv[1], int(sys.argv[2]))
