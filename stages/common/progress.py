"""How far a long step is: a bar in a terminal, and a plain line now and then where there is none."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LINE_EVERY_SECONDS = 10.0  # seconds between two plain lines


class Add(Protocol):
    """Takes note of an amount that is done, and of how it goes in a few words (the loss, say)."""

    def __call__(self, amount: int, how: str = "") -> object: ...


@contextmanager
def progress(doing: str, total: int, unit: str, done: int = 0) -> Iterator[Add]:
    """Report on standard error how much of `total` is done; call what is yielded with each amount that is added.

    A step that ends before a plain line is due prints none.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=doing, total=total, initial=done, unit=f" {unit}", unit_scale=True, dynamic_ncols=True) as bar:

            def update(amount: int, how: str = "") -> None:
                if how:
                    bar.set_postfix_str(how, refresh=False)
                bar.update(amount)

            yield update
        return

    started = printed = time.monotonic()
    start, last = done, ""

    def line(now: float) -> None:
        nonlocal printed
        printed = now
        share = f" ({done / total:.0%})" if total else ""
        speed = max(done - start, 1e-9) / max(now - started, 1e-9)
        left = _clock((total - done) / speed) if done > start else "?"
        how = f", {last}" if last else ""
        words = f"{doing}: {done:,} of {total:,} {unit}{share}{how}, {speed:,.{0 if speed >= 10 else 1}f} a second"
        print(f"{words}, {left} left" if done < total else words, file=sys.stderr, flush=True)

    def add(amount: int, how: str = "") -> None:
        nonlocal done, last
        done, last = done + amount, how or last
        if (now := time.monotonic()) - printed >= LINE_EVERY_SECONDS:
            line(now)

    yield add
    if started < printed < (now := time.monotonic()):
        line(now)


def _clock(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
