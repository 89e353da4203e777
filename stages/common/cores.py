"""How many processor cores this process may use."""

import os


def usable_cores() -> int:
    """The cores that the system lets this process run on; a container or `taskset` may allow fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
