"""Computes one thing at a time in a thread, and hands results to the event loop as they come."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Cancelled(Exception):
    """Nobody waits for the result any more."""


class Worker:
    """One thread: a computation uses all cores, so a second one at the same time would only delay the first."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "worker")

    async def stream(self, compute: Callable[[Callable[[T], None]], object]) -> AsyncIterator[T]:
        """Run a function in the thread, after those before it, and yield its results.

        Args:
          compute: is passed a function, and calls it with each result. If the iterator is closed, the next such call
            raises `Cancelled`, which ends the computation. If it has not begun, it never begins.
        """
        loop = asyncio.get_running_loop()
        results: asyncio.Queue[tuple[T] | None] = asyncio.Queue()
        closed = threading.Event()

        def report(result: T) -> None:
            if closed.is_set():
                raise Cancelled
            loop.call_soon_threadsafe(results.put_nowait, (result,))

        def run() -> None:
            try:
                compute(report)
            finally:
                if not closed.is_set():
                    loop.call_soon_threadsafe(results.put_nowait, None)

        future = self._thread.submit(run)
        try:
            while (result := await results.get()) is not None:
                yield result[0]
            await asyncio.wrap_future(future)  # raises what the function has raised
        finally:
            closed.set()
            future.cancel()
