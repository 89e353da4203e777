"""Progress of long tasks: a bar in a terminal, regular plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LINE_EVERY_SECONDS = 10.0  # between two plain lines


class Add(Protocol):
    """Adds to the amount that is done. `status` is a short text to show, such as the loss."""

    def __call__(self, amount: int, status: str = "") -> object: ...


@contextmanager
def progress(task: str, total: int, unit: str, done: int = 0) -> Iterator[Add]:
    """Report the progress of a task on standard error.

    A task that takes less than `LINE_EVERY_SECONDS` prints no plain line.

    Args:
      task: the name of the task.
      total: the whole amount.
      unit: the unit of the amounts, in the plural.
      done: the amount that is done at the start.

    Yields:
      A function to call with each further amount that is done.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=task, total=total, initial=done, unit=f" {unit}", unit_scale=True, dynamic_ncols=True) as bar:

            def update(amount: int, status: str = "") -> None:
                if status:
                    bar.set_postfix_str(status, refresh=False)
                bar.update(amount)

            yield update
        return

    started = printed = time.monotonic()
    start, last_status = done, ""

    def print_line(now: float) -> None:
        nonlocal printed
        printed = now
        share = f" ({done / total:.0%})" if total else ""
        speed = max(done - start, 1e-9) / max(now - started, 1e-9)
        remaining = _clock((total - done) / speed) if done > start else "?"
        status = f", {last_status}" if last_status else ""
        line = f"{task}: {done:,} of {total:,} {unit}{share}{status}, {speed:,.{0 if speed >= 10 else 1}f} a second"
        print(f"{line}, {remaining} left" if done < total else line, file=sys.stderr, flush=True)

    def add(amount: int, status: str = "") -> None:
        nonlocal done, last_status
        done, last_status = done + amount, status or last_status
        if (now := time.monotonic()) - printed >= LINE_EVERY_SECONDS:
            print_line(now)

    yield add
    if started < printed < (now := time.monotonic()):
        print_line(now)


def _clock(seconds: float) -> str:
    """Format a duration as `1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
