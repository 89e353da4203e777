"""TODO"""

import contextvars
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from prefect import State
from prefect.states import Cancelled

from pipeline.flows.run_stages import running_workspaces

# --- Side by side ---

slot_variables: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("variables", default={})  # noqa: B039


def make_slots(wanted: int) -> list[Mapping[str, str]]:
    """For each experiment that may run at once, the environment that gives it its GPU."""
    devices = _gpus()
    slots = [{"CUDA_VISIBLE_DEVICES": device} for device in devices] or [{}]
    return [slots[place % len(slots)] for place in range(wanted or len(slots))]


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()]


def run_in_slots(
    one: Callable[[str], State[Any]], names: list[str], slots: list[Mapping[str, str]]
) -> dict[str, State[Any]]:
    """Call `one` with each name, as many at once as there are slots, each call in the slot that is free."""
    free: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)
    ended = threading.Event()

    def in_a_slot(name: str) -> State[Any]:
        if ended.is_set():
            return Cancelled(message="ended with the sweep")
        slot = free.get()
        slot_variables.set(slot)
        try:
            return one(name)
        finally:
            free.put(slot)

    with ThreadPoolExecutor(len(slots)) as executor:
        try:
            futures: dict[str, Future[State[Any]]] = {
                name: executor.submit(contextvars.copy_context().run, in_a_slot, name) for name in names
            }
            return {name: future.result() for name, future in futures.items()}
        except BaseException:
            ended.set()
            for workspace in list(running_workspaces):
                workspace.stop()
            raise
