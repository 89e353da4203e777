import asyncio
import time
from email.utils import formatdate

import pytest

from stages.common.errors import StageError
from stages.quickdraw.retry import Retrier, RetryableError, RetryPolicy, retry_after, with_deadline

HASTY = RetryPolicy(attempts=4, first_attempts=2, wait=0.001, longest_wait=0.002, longest_retry_after=1)


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
        (formatdate(time.time() - 100, usegmt=True), 0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_retry_after_a_date() -> None:
    assert retry_after(formatdate(time.time() + 100, usegmt=True)) == pytest.approx(100, abs=2)


class Server:
    """Fails as it is told, and counts."""

    def __init__(self, *failures: RetryableError) -> None:
        self.failures = list(failures)
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return "an answer"


def get(retrying: Retrier, server: Server) -> str:
    return asyncio.run(retrying.get(server))


def test_a_failure_is_tried_again() -> None:
    retrying = Retrier(HASTY)
    assert get(retrying, Server(RetryableError("no"))) == "an answer"
    assert get(retrying, Server(*[RetryableError("no")] * 3)) == "an answer"


def test_a_server_that_never_answered_is_given_up_soon() -> None:
    server = Server(*[RetryableError("bee.npy: no answer in time")] * 5)
    with pytest.raises(StageError, match=r"^bee.npy: no answer in time \(tried 2 times\)$"):
        get(Retrier(HASTY), server)
    assert server.asked == 2


def test_one_that_did_answer_is_given_up_later() -> None:
    retrying = Retrier(HASTY)
    get(retrying, Server())
    with pytest.raises(StageError, match="tried 4 times"):
        get(retrying, Server(*[RetryableError("no")] * 5))


def test_what_a_server_asks_for_is_waited_for_by_all() -> None:
    retrying = Retrier(HASTY)
    started = time.monotonic()
    asked: list[float] = []

    async def other() -> None:
        asked.append(time.monotonic() - started)

    async def two() -> None:
        throttled = asyncio.create_task(retrying.get(Server(RetryableError("no", throttled=True, after=0.3))))
        await asyncio.sleep(0.01)
        await retrying.get(other)
        await throttled

    asyncio.run(two())
    assert len(asked) == 1 and asked[0] >= 0.3, "it was not asked before"


def test_what_it_asks_for_has_a_bound() -> None:
    with pytest.raises(StageError, match="asks to come back in 3,600 seconds"):
        get(Retrier(HASTY), Server(RetryableError("429", throttled=True, after=3600)))


def test_throttling_is_no_failure_while_others_are_answered() -> None:
    retrying = Retrier(HASTY)

    async def slowly() -> str:
        other = Server()
        throttled = Server(*[RetryableError("429", throttled=True)] * 20)

        async def attempt() -> str:
            await retrying.get(other)
            return await throttled()

        return await retrying.get(attempt)

    assert asyncio.run(slowly()) == "an answer"


def test_all_of_the_work_has_a_bound() -> None:
    with pytest.raises(StageError, match=r"^\*.npy: not done after 2.78e-06 hours$"):
        asyncio.run(with_deadline("*.npy", asyncio.sleep(3600), RetryPolicy(total=0.01)))


def test_waits_double_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("asyncio.sleep", sleep)
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    retrying = Retrier(RetryPolicy(attempts=8))
    get(retrying, Server())
    get(retrying, Server(*[RetryableError("no")] * 7))
    assert waits == [0.5, 1, 2, 4, 8, 16, 30]
