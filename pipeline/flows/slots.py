"""Run the experiments of a sweep in parallel, each in a slot: one GPU, or the whole machine if it has none."""

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

# The environment variables of the slot that the current experiment runs in.
slot_variables: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("variables", default={})  # noqa: B039


def make_slots(requested: int) -> list[Mapping[str, str]]:
    """The environment variables of each slot, which select its GPU.

    Args:
      requested: the number of slots, which may share a GPU; 0 for one per GPU, or one if there is no GPU.
    """
    devices = _gpus()
    slots = [{"CUDA_VISIBLE_DEVICES": device} for device in devices] or [{}]
    return [slots[index % len(slots)] for index in range(requested or len(slots))]


def _gpus() -> list[str]:
    """The GPUs that this process may use, as written in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip() not in ("", "-1")]
    try:
        result = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.strip() for line in result.stdout.splitlines() if line.strip()]


def run_in_slots(
    run: Callable[[str], State[Any]], names: list[str], slots: list[Mapping[str, str]]
) -> dict[str, State[Any]]:
    """Call `run` with each name, in parallel, and return the states by name.

    Each call takes a free slot and sets `slot_variables` to it. If one raises, the running experiments are stopped and
    no more are started.

    Args:
      run: runs the experiment of this name and returns its final state.
      names: the experiments.
      slots: the environment variables of each slot.
    """
    free: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)
    stopped = threading.Event()

    def run_in_free_slot(name: str) -> State[Any]:
        if stopped.is_set():
            return Cancelled(message="stopped with the sweep")
        slot = free.get()
        slot_variables.set(slot)
        try:
            return run(name)
        finally:
            free.put(slot)

    with ThreadPoolExecutor(len(slots)) as executor:
        try:
            futures: dict[str, Future[State[Any]]] = {
                name: executor.submit(contextvars.copy_context().run, run_in_free_slot, name) for name in names
            }
            return {name: future.result() for name, future in futures.items()}
        except BaseException:
            stopped.set()
            for workspace in list(running_workspaces):
                workspace.stop()
            raise
