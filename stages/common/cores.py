"""The number of processor cores that this process may use."""

import os


def usable_cores() -> int:
    """Return the number of cores that this process may use. A container or `taskset` can limit it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
