"""Shared by the benchmarks of the engine: model sizes, and implementations that are timed alternately.

Each implementation runs in a separate process. The process reads names of actions from stdin and writes the seconds
that each action took to stdout. The processes alternate, so that other load on the machine slows all of them.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

CLASSES, LOGISTICS = 20, 5
PEAK = "peak_mib"

Request = Callable[[str, str], float]


class Model(NamedTuple):
    """The size of a network and of its batch."""

    num_resnet: int
    num_hierarchies: int
    num_filters: int
    batch: int

    @classmethod
    def parse(cls, text: str) -> Model:
        return cls(*map(int, text.split(",")))

    def __str__(self) -> str:
        return f"({self.num_resnet}, {self.num_hierarchies}, {self.num_filters}) × {self.batch}"

    def arguments(self) -> dict[str, Any]:
        """The arguments of both constructors, TFP's and this project's."""
        return {
            "image_shape": (28, 28, 1),
            "conditional_shape": (CLASSES,),
            "num_resnet": self.num_resnet,
            "num_hierarchies": self.num_hierarchies,
            "num_filters": self.num_filters,
            "num_logistic_mix": LOGISTICS,
        }

    def data(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Random drawings, with as much ink as real ones, and their one-hot classes."""
        random = np.random.default_rng(0)
        shape = (self.batch, 28, 28, 1)
        ink = random.random(shape) < 0.2
        labels = random.integers(0, CLASSES, self.batch)
        return (ink * random.integers(0, 256, shape)).astype(np.float32), np.eye(CLASSES, dtype=np.float32)[labels]


@contextmanager
def start_processes(module: str, model: str, names: Sequence[str]) -> Iterator[Request]:
    """Start a process per implementation, with `python -m module --model … --implementation …`; kill them at the end.

    Yields a function `request(name, action)`, which returns the answer of an implementation's process.
    """
    # Without memory growth, the first process would take all of the GPU's memory.
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", module, "--model", model, "--implementation", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in names
    }

    def request(name: str, action: str) -> float:
        process = processes[name]
        assert process.stdin and process.stdout
        process.stdin.write(action + "\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    try:
        yield request
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def alternate(request: Request, names: Sequence[str], action: str, rounds: int) -> dict[str, float]:
    """The median seconds that each implementation takes for an action, over alternating rounds."""
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            times[name].append(request(name, action))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def serve_actions(actions: Mapping[str, Callable[[], object]]) -> None:
    """Run the requested actions until stdin closes, in an implementation's process. All answer the action PEAK."""
    for line in sys.stdin:
        if line.strip() == PEAK:
            print(peak_mib(), flush=True)
            continue
        started = time.perf_counter()
        actions[line.strip()]()
        print(time.perf_counter() - started, flush=True)


def peak_mib() -> float:
    """The peak memory of this process in MiB; on a GPU, the GPU memory."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return float(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def gpu_name() -> str:
    """The GPU's name, or an empty string. Uses a separate process: one that finds a GPU takes its memory."""
    code = (
        "import tensorflow as tf\n"
        "for gpu in tf.config.list_physical_devices('GPU')[:1]:\n"
        "    print(tf.config.experimental.get_device_details(gpu).get('device_name', 'GPU'))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
