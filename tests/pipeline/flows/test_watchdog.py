"""The report of a run whose process was killed: what becomes of each state of the run."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import prefect.client.orchestration
import pytest
from prefect import State
from prefect.client.schemas import StateType
from prefect.states import AwaitingRetry, Cancelled, Cancelling, Completed, Paused, Pending, Running, Scheduled

from pipeline.flows import watchdog

ATTEMPT = 2


class Client:
    """Prefect's client, of a server that knows one run. Each time it is read, it has the next of its states."""

    def __init__(self, *states: State[Any], attempt: int = ATTEMPT) -> None:
        self._states = list(states)
        self._attempt = attempt
        self.set: list[StateType] = []

    def read_flow_run(self, _: UUID) -> Any:
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        return SimpleNamespace(state=state, run_count=self._attempt)

    def set_flow_run_state(self, _: UUID, state: State[Any], force: bool) -> None:
        assert force
        self.set.append(state.type)


@pytest.fixture(autouse=True)
def the_process_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end of the pipe is closed without a word."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    monkeypatch.setattr(watchdog, "REPORTING_SECONDS", 0.2)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.delenv(watchdog.SIGTERM_VARIABLE, raising=False)


def report(monkeypatch: pytest.MonkeyPatch, client: Client) -> list[StateType]:
    @contextmanager
    def get_client(sync_client: bool) -> Iterator[Client]:
        yield client

    monkeypatch.setattr(prefect.client.orchestration, "get_client", get_client)
    watchdog._report_end(str(uuid4()), ATTEMPT)
    return client.set


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (Running(), [StateType.CRASHED]),
        (Pending(), [StateType.CRASHED]),
        (Cancelling(), [StateType.CANCELLED]),
        (AwaitingRetry(), []),
        (Scheduled(), []),
        (Paused(timeout_seconds=60), []),
        (Completed(), []),
        (Cancelled(), []),
    ],
    ids=lambda value: value.name if isinstance(value, State) else "",
)
def test_only_a_state_that_a_living_process_would_have_is_ended(
    monkeypatch: pytest.MonkeyPatch, state: State[Any], expected: list[StateType]
) -> None:
    assert report(monkeypatch, Client(state)) == expected


@pytest.mark.parametrize(
    ("behavior", "states", "expected"),
    [
        ("reschedule", [Running(), Running(), AwaitingRetry()], []),
        ("reschedule", [Running()], [StateType.CRASHED]),  # nobody has scheduled it again
        ("relinquish", [Running()], []),
        ("", [Running(), AwaitingRetry()], [StateType.CRASHED]),
        ("", [Cancelling(), Cancelling(), Cancelled()], []),
    ],
)
def test_another_process_has_time_to_say_what_becomes_of_the_run(
    monkeypatch: pytest.MonkeyPatch, behavior: str, states: list[State[Any]], expected: list[StateType]
) -> None:
    monkeypatch.setenv(watchdog.SIGTERM_VARIABLE, behavior)
    assert report(monkeypatch, Client(*states)) == expected


def test_a_later_attempt_that_runs_already_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    assert report(monkeypatch, Client(Running(), attempt=ATTEMPT + 1)) == []


def test_a_run_that_has_ended_by_itself_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"done")))
    assert report(monkeypatch, Client(Running())) == []
