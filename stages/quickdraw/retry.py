"""Time limits of network requests, and retries with exponential backoff."""

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
    """A request failed, and another attempt may succeed.

    Attributes:
      throttled: whether the server asked for fewer requests.
      retry_after: the seconds after which the server asked to be called again; None if it named no time.
    """

    def __init__(self, message: str, throttled: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.throttled = throttled
        self.retry_after = retry_after


@dataclass(frozen=True)
class RetryPolicy:
    """Limits on attempts, waits and timeouts. All times are in seconds.

    Attributes:
      max_attempts: of one request.
      max_first_attempts: of one request before the server has answered any: the network itself may be down.
      first_wait: before the second attempt. It doubles before each further attempt.
      max_wait: the limit of that wait.
      max_retry_after: the longest wait that a server may ask for.
      connect_timeout: for opening a connection.
      read_timeout: while no data of a response arrives.
      request_timeout: for a request of a range.
      total_timeout: for all that a stage fetches, and separately for reading the sizes of the files.
    """

    max_attempts: int = 8
    max_first_attempts: int = 3
    first_wait: float = 0.5
    max_wait: float = 30
    max_retry_after: float = 120
    connect_timeout: float = 10
    read_timeout: float = 30
    request_timeout: float = 60
    total_timeout: float = 12 * 3600


async def with_deadline(what: str, work: Awaitable[T], policy: RetryPolicy) -> T:
    """Await `work` and return its result.

    Raises:
      StageError: the work took longer than `policy.total_timeout`. The message begins with `what`.
    """
    try:
        return await asyncio.wait_for(work, policy.total_timeout)
    except asyncio.TimeoutError:
        raise StageError(f"{what}: timed out after {policy.total_timeout / 3600:.3g} hours") from None


class Retrier:
    """Repeats failed requests to one server within the limits of a policy."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy = policy
        self._successes = 0
        self._paused_until = 0.0  # on the event loop's clock; set when the server asks for a pause

    async def call(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Call `attempt` until it succeeds, and return its result.

        Args:
          attempt: makes one request; raises `RetryableError` if another attempt may succeed.

        Raises:
          StageError: all attempts failed, or the server asked for too long a wait.
        """
        failures = 0
        while True:
            if (pause := self._paused_until - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(pause * random.uniform(1, 1.1))
            successes = self._successes
            try:
                result = await attempt()
            except RetryableError as error:
                # A server that throttles one request while it answers others is not failing.
                if not (error.throttled and self._successes > successes):
                    failures += 1
                await self._wait(error, failures)
            else:
                self._successes += 1
                return result

    async def _wait(self, error: RetryableError, failures: int) -> None:
        policy = self.policy
        if failures >= (policy.max_attempts if self._successes else policy.max_first_attempts):
            raise StageError(f"{error} (tried {failures} times)") from None
        if error.retry_after is not None:
            if error.retry_after > policy.max_retry_after:
                limit = f"the maximum supported is {policy.max_retry_after:,.0f}"
                raise StageError(f"{error}, and asks to wait {error.retry_after:,.0f} seconds; {limit}") from None
            self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + error.retry_after)
        longest = min(policy.first_wait * 2 ** max(failures - 1, 0), policy.max_wait)
        await asyncio.sleep(longest * random.uniform(0.5, 1))


def retry_after(value: str | None) -> float | None:
    """The seconds to wait according to a Retry-After header (a number or a date); None if it cannot be read."""
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
