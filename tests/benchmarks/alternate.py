"""What the benchmarks of the engine share: sizes of a model, and contenders that take turns.

A contender is a process of its own. A word that it reads names an action; it answers with the seconds that this took.
Where contenders take turns, what else the machine does slows all of them.
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

Ask = Callable[[str, str], float]


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
        """Of both constructors."""
        return {
            "image_shape": (28, 28, 1),
            "conditional_shape": (CLASSES,),
            "num_resnet": self.num_resnet,
            "num_hierarchies": self.num_hierarchies,
            "num_filters": self.num_filters,
            "num_logistic_mix": LOGISTICS,
        }

    def data(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Drawings, as blank as real ones are, and their classes."""
        random = np.random.default_rng(0)
        shape = (self.batch, 28, 28, 1)
        ink = random.random(shape) < 0.2
        labels = random.integers(0, CLASSES, self.batch)
        return (ink * random.integers(0, 256, shape)).astype(np.float32), np.eye(CLASSES, dtype=np.float32)[labels]


@contextmanager
def contenders(module: str, model: str, names: Sequence[str]) -> Iterator[Ask]:
    """Starts them, by `python -m module --model … --contend …`; in the end they are no more.

    Gives `ask(name, action)`: a contender's answer.
    """
    # A process that grabs all of a GPU's memory leaves none for the next.
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", module, "--model", model, "--contend", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in names
    }

    def ask(name: str, action: str) -> float:
        process = processes[name]
        assert process.stdin and process.stdout
        process.stdin.write(action + "\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    try:
        yield ask
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def in_turn(ask: Ask, names: Sequence[str], action: str, rounds: int) -> dict[str, float]:
    """The median seconds that each takes for an action."""
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            times[name].append(ask(name, action))
    return {name: statistics.median(found) for name, found in times.items()}


def contend(actions: Mapping[str, Callable[[], object]]) -> None:
    """A contender's side: does as it is asked until nothing more is; PEAK is asked of every contender."""
    for line in sys.stdin:
        if line.strip() == PEAK:
            print(peak_mib(), flush=True)
            continue
        started = time.perf_counter()
        actions[line.strip()]()
        print(time.perf_counter() - started, flush=True)


def peak_mib() -> float:
    """The most memory that this process took; on a GPU, of the GPU's."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return float(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ask_device() -> str:
    """The GPU's name, or nothing. By a process that ends: one that sees a GPU takes its memory."""
    code = (
        "import tensorflow as tf\n"
        "for gpu in tf.config.list_physical_devices('GPU')[:1]:\n"
        "    print(tf.config.experimental.get_device_details(gpu).get('device_name', 'GPU'))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
