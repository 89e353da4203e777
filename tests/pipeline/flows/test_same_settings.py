"""Of two runs with the same settings, the later one waits for the earlier one."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from pipeline.flows import same_settings
from pipeline.subprocesses.supervisor import Stopped
from tests.pipeline.flows.test_flows_unit import Stub

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
OWN, EARLIER, LATER = (UUID(int=number) for number in (5, 6, 4))


class Client:
    """Prefect's client, of a server whose answers are given; the last one is given again and again."""

    def __init__(self, *answers: list[UUID]) -> None:
        self.answers = list(answers)
        self.tags: list[str] = []
        self.filters: list[Any] = []

    def update_flow_run(self, run: UUID, tags: list[str]) -> None:
        assert run == OWN
        self.tags = tags

    def read_flow_runs(self, flow_run_filter: Any) -> list[Any]:
        self.filters.append(flow_run_filter.model_dump(exclude_unset=True, mode="json"))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        minutes = {EARLIER: -1, OWN: 0, LATER: 1}
        return [
            SimpleNamespace(
                id=run, name=f"run-{run.int}", start_time=START + timedelta(minutes=minutes[run]), created=START
            )
            for run in answer
        ]


def use(monkeypatch: pytest.MonkeyPatch, client: Client | Exception) -> None:
    @contextmanager
    def get_client(sync_client: bool) -> Iterator[Client]:
        if isinstance(client, Exception):
            raise client
        yield client

    monkeypatch.setattr(same_settings, "get_client", get_client)
    monkeypatch.setattr(same_settings, "get_run_logger", lambda: logging.getLogger("flow"))
    monkeypatch.setattr(same_settings, "flow_run", SimpleNamespace(id=str(OWN), tags=["mine"]))


@pytest.mark.parametrize(
    ("answers", "waits"),
    [
        ([[OWN]], 0),
        ([[OWN, LATER]], 0),
        ([[LATER, EARLIER, OWN], [EARLIER, OWN], [OWN]], 2),
        ([[EARLIER]], 0),  # this run has been cancelled
    ],
)
def test_a_run_waits_for_those_of_its_settings_that_started_before_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answers: list[list[UUID]], waits: int
) -> None:
    client, workspace = Client(*answers), Stub()
    use(monkeypatch, client)
    with caplog.at_level(logging.INFO):
        same_settings.wait_for_earlier("1a2b", workspace)
    assert workspace.paused == [same_settings.POLL_SECONDS] * waits
    assert caplog.text.count("The run run-6 has the same settings: waiting for its outputs") == (waits > 0)
    assert client.filters[0] == {"tags": {"all_": ["settings-1a2b"]}, "state": {"type": {"any_": ["RUNNING"]}}}


def test_a_run_can_be_stopped_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waiting(Stub):
        def pause(self, seconds: float) -> None:
            raise Stopped("stopped")

    use(monkeypatch, Client([EARLIER, OWN]))
    with pytest.raises(Stopped):
        same_settings.wait_for_earlier("1a2b", Waiting())


def test_a_run_is_found_by_a_tag_beside_its_own_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client([])
    use(monkeypatch, client)
    same_settings.announce("1a2b")
    assert client.tags == ["mine", "settings-1a2b"]


def test_without_an_answer_of_the_server_nobody_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, OSError("no network"))
    workspace = Stub()
    same_settings.announce("1a2b")
    same_settings.wait_for_earlier("1a2b", workspace)
    assert workspace.paused == [] and caplog.text.count("no network") == 2


def test_a_run_that_a_sweep_has_tagged_is_not_tagged_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client([])
    use(monkeypatch, client)
    monkeypatch.setattr(same_settings, "flow_run", SimpleNamespace(id=str(OWN), tags=["settings-1a2b"]))
    same_settings.announce("1a2b")
    assert client.tags == []
