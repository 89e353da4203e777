"""Exit cleanly on SIGTERM and SIGHUP."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """Raise `SystemExit(128 + n)` inside the block on SIGTERM and SIGHUP, so that cleanup runs as after Ctrl-C."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous_handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
