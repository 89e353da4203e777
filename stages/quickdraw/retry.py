"""How long to wait for a network as it is: what is tried again, when, and how often."""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timezone
from typing import TypeVar

from stages.common.errors import StageError

T = TypeVar("T")


class RetryableError(Exception):
    """A request that may go better next time; `throttled` where the server asked for fewer, `after` seconds."""

    def __init__(self, what: str, throttled: bool = False, after: float | None = None) -> None:
        super().__init__(what)
        self.throttled = throttled
        self.after = after


@dataclass(frozen=True)
class RetryPolicy:
    """The bounds, in seconds where they are times."""

    attempts: int = 8  # of one request
    first_attempts: int = 3  # of a request to a mirror that has not answered any: it may be the network that is down
    wait: float = 0.5  # before the second attempt, and twice as long before each one after
    longest_wait: float = 30
    longest_retry_after: float = 120  # what a server may ask for
    connect: float = 10
    silence: float = 30  # while nothing arrives of an answer
    request: float = 60  # for a range
    total: float = 12 * 3600  # for everything that a stage fetches, and before for what is there


async def with_deadline(what: str, work: Awaitable[T], patience: RetryPolicy) -> T:
    """What all of the work returns. Raises `StageError` where it is not done in `patience.total`."""
    try:
        return await asyncio.wait_for(work, patience.total)
    except asyncio.TimeoutError:
        raise StageError(f"{what}: not done after {patience.total / 3600:.3g} hours") from None


class Retrier:
    """Requests to one server, tried again within the bounds."""

    def __init__(self, patience: RetryPolicy) -> None:
        self.patience = patience
        self._answers = 0
        self._resume = 0.0  # when the server wants to be asked again, on the event loop's clock

    async def get(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` returns, which raises `Unanswered` where it is worth another try. Raises `StageError`."""
        failures = 0
        while True:
            if (pause := self._resume - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(pause * random.uniform(1, 1.1))
            answers = self._answers
            try:
                result = await attempt()
            except RetryableError as error:
                # A server that throttles one request while it answers others is not failing.
                if not (error.throttled and self._answers > answers):
                    failures += 1
                await self._wait(error, failures)
            else:
                self._answers += 1
                return result

    async def _wait(self, error: RetryableError, failures: int) -> None:
        patience = self.patience
        if failures >= (patience.attempts if self._answers else patience.first_attempts):
            raise StageError(f"{error} (tried {failures} times)") from None
        if error.after is not None:
            if error.after > patience.longest_retry_after:
                raise StageError(f"{error}, and asks to come back in {error.after:,.0f} seconds") from None
            self._resume = max(self._resume, asyncio.get_running_loop().time() + error.after)
        longest = min(patience.wait * 2 ** max(failures - 1, 0), patience.longest_wait)
        await asyncio.sleep(longest * random.uniform(0.5, 1))


def retry_after(value: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, in either of its forms."""
    if value is None:
        return None
    if (digits := value.strip()).isascii() and digits.isdigit():
        return float(digits)
    try:
        date = email.utils.parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        return max(date.timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None
