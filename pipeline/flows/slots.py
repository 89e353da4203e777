"""Run the experiments of a sweep in parallel, each in a slot: one GPU, or the whole machine if it has none."""

import contextvars
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from prefect import State

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
    run: Callable[[str], State[Any]],
    names: Iterable[str],
    slots: list[Mapping[str, str]],
    ended: Callable[[str, State[Any]], object],
) -> None:
    """Call `run` with each name, in parallel.

    Each call has a slot, and `slot_variables` is set to it. If one raises, the running experiments are stopped and no
    more are started.

    Args:
      run: runs the experiment of this name and returns its final state.
      names: the experiments; a name is asked for when a slot is free, by one thread at a time.
      slots: the environment variables of each slot.
      ended: called with the name and the final state of each experiment; not while a name is asked for.
    """
    waiting, lock, stopped = iter(names), threading.Lock(), threading.Event()

    def run_in_slot(slot: Mapping[str, str]) -> None:
        slot_variables.set(slot)
        while True:
            with lock:
                name = None if stopped.is_set() else next(waiting, None)
            if name is None:
                return
            state = run(name)
            with lock:
                ended(name, state)

    with ThreadPoolExecutor(len(slots)) as executor:
        try:
            for future in as_completed(
                [executor.submit(contextvars.copy_context().run, run_in_slot, slot) for slot in slots]
            ):
                future.result()
        except BaseException:
            stopped.set()
            for workspace in list(running_workspaces):
                workspace.stop()
            raise
