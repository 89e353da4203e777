import asyncio
import time
from email.utils import formatdate

import pytest

from stages.common.errors import StageError
from stages.quickdraw.retry import Retrier, RetryableError, RetryPolicy, retry_after, with_deadline

POLICY = RetryPolicy(max_attempts=4, max_first_attempts=2, first_wait=0.001, max_wait=0.002, max_retry_after=1)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7),
        (" 0 ", 0),
        ("-1", None),
        ("1e9", None),
        ("soon", None),
        ("Mon, 99 Foo", None),
        ("Thu, 01 Jan 2026 00:00:00 GMT", 0),
    ],
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    assert retry_after(formatdate(time.time() + 100, usegmt=True)) == pytest.approx(100, abs=2)


class Server:
    """A request that fails with the given errors, then succeeds; counts its calls."""

    def __init__(self, *failures: RetryableError) -> None:
        self.failures = list(failures)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "response"


def call(retrier: Retrier, server: Server) -> str:
    return asyncio.run(retrier.call(server))


def test_a_failed_request_is_retried() -> None:
    retrier = Retrier(POLICY)
    assert call(retrier, Server(RetryableError("no"))) == "response"
    assert call(retrier, Server(*[RetryableError("no")] * 3)) == "response"


def test_a_server_that_never_answered_gets_fewer_attempts() -> None:
    server = Server(*[RetryableError("bee.npy: timed out")] * 5)
    with pytest.raises(StageError, match=r"^bee.npy: timed out \(tried 2 times\)$"):
        call(Retrier(POLICY), server)
    assert server.calls == 2


def test_a_server_that_answered_before_gets_more_attempts() -> None:
    retrier = Retrier(POLICY)
    call(retrier, Server())
    with pytest.raises(StageError, match="tried 4 times"):
        call(retrier, Server(*[RetryableError("no")] * 5))


def test_all_requests_wait_as_long_as_the_server_asks() -> None:
    retrier = Retrier(POLICY)
    started = time.monotonic()
    call_times: list[float] = []

    async def request() -> None:
        call_times.append(time.monotonic() - started)

    async def run_both() -> None:
        throttled = asyncio.create_task(retrier.call(Server(RetryableError("no", throttled=True, retry_after=0.3))))
        await asyncio.sleep(0.01)
        await retrier.call(request)
        await throttled

    asyncio.run(run_both())
    assert len(call_times) == 1 and call_times[0] >= 0.3, "the request was sent too early"


def test_too_long_a_retry_after_is_an_error() -> None:
    with pytest.raises(StageError, match="asks to wait 3,600 seconds; the maximum supported is 1"):
        call(Retrier(POLICY), Server(RetryableError("429", throttled=True, retry_after=3600)))


def test_throttling_is_not_a_failure_while_other_requests_succeed() -> None:
    retrier = Retrier(POLICY)

    async def request_slowly() -> str:
        healthy = Server()
        throttled = Server(*[RetryableError("429", throttled=True)] * 20)

        async def attempt() -> str:
            await retrier.call(healthy)
            return await throttled()

        return await retrier.call(attempt)

    assert asyncio.run(request_slowly()) == "response"


def test_the_work_has_a_deadline() -> None:
    with pytest.raises(StageError, match=r"^\*.npy: timed out after 2.78e-06 hours$"):
        asyncio.run(with_deadline("*.npy", asyncio.sleep(3600), RetryPolicy(total_timeout=0.01)))


def test_waits_double_up_to_a_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("asyncio.sleep", sleep)
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    retrier = Retrier(RetryPolicy(max_attempts=8))
    call(retrier, Server())
    call(retrier, Server(*[RetryableError("no")] * 7))
    assert waits == [0.5, 1, 2, 4, 8, 16, 30]
