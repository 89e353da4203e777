"""The runs of a work pool: started, waited for, started again and cancelled. Prefect's server is a stand-in."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import State
from prefect.client.schemas.objects import FlowRun, WorkPoolStatus
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Pending, Running, Scheduled

from pipeline import dvc
from pipeline.flows import over_pool, sweep
from pipeline.flows.artifacts import METRIC
from pipeline.flows.forms import Grid, Search, Settings
from pipeline.flows.over_pool import Job, Pool, PoolError
from pipeline.run_settings import experiment_name, profiles
from tests import fake_project
from tests.settings import FULL

OWN = UUID(int=5)


class Server:
    """Prefect's server, with a pool `big` and a deployment. Each look at a run moves it on to its next state.

    Attributes:
      states: the states that follow when a run is looked at, for each start of a job, by name; else, it completes.
      runs: those in the pool.
      started: the names of the jobs that were started.
      cancelled: the names of those that were cancelled.
      errors: raised by the next requests.
    """

    def __init__(self) -> None:
        self.states: dict[str, list[list[State[Any]]]] = {}
        self.runs: dict[UUID, FlowRun] = {}
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.errors: list[Exception] = []
        self.deployment = self.new_deployment("on-demand")
        self.deployments = [self.deployment]
        self.status = WorkPoolStatus.READY
        self.own = FlowRun(id=OWN, flow_id=OWN, state=Running())
        self.artifacts: dict[UUID, str] = {}
        self.value: Callable[[dict[str, Any]], float] = lambda parameters: 1.5
        self._next: dict[UUID, list[State[Any]]] = {}
        self._keys: dict[str, FlowRun] = {}

    @staticmethod
    def new_deployment(name: str, limit: object = None, paused: bool = False) -> Any:
        return SimpleNamespace(id=uuid4(), name=name, global_concurrency_limit=limit, paused=paused)

    def add(self, name: str, parameters: dict[str, Any], next_states: list[State[Any]], state: State[Any]) -> FlowRun:
        run = FlowRun(flow_id=OWN, name=name, parameters=parameters, state=state, deployment_id=self.deployment.id)
        self.runs[run.id], self._next[run.id] = run, list(next_states)
        return run

    def run_deployment(
        self, id: UUID, parameters: Any, flow_run_name: str, tags: Any, timeout: float, idempotency_key: str
    ) -> FlowRun:
        assert (id, timeout) == (self.deployment.id, 0)
        self._fail()
        if idempotency_key not in self._keys:
            self.started.append(flow_run_name)
            following = self.states.get(flow_run_name) or [[Running(), Completed()]]
            states = following.pop(0) if len(following) > 1 else following[0]
            run = self.add(flow_run_name, parameters, states, Scheduled())
            run.tags = list(tags)
            self.artifacts[run.id] = json.dumps([{"metric": METRIC, "value": self.value(parameters)}])
            self._keys[idempotency_key] = run
        return self._keys[idempotency_key]

    def _fail(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    def read_flow_runs(self, flow_run_filter: Any, limit: int | None = None) -> list[FlowRun]:
        self._fail()
        if flow_run_filter.id is None:
            [name] = flow_run_filter.name.any_
            assert flow_run_filter.deployment_id.any_ == [self.deployment.id]
            kinds = flow_run_filter.state.type.any_
            return [run for run in self.runs.values() if run.name == name and run.state and run.state.type in kinds]
        found = [self.runs[id] for id in flow_run_filter.id.any_ if id in self.runs]
        for run in found:
            if self._next[run.id]:
                run.state = self._next[run.id].pop(0)
        return [run.model_copy() for run in found]

    def read_flow_run(self, id: UUID) -> FlowRun:
        assert id == OWN
        return self.own

    def set_flow_run_state(self, id: UUID, state: State[Any]) -> None:
        assert state.is_cancelling()
        self.cancelled.append(self.runs[id].name)

    def read_work_pool(self, name: str) -> Any:
        if name != "big":
            raise ObjectNotFound(http_exc=Exception("404"))
        return SimpleNamespace(name=name, status=self.status)

    def read_deployments(self, flow_filter: Any, deployment_filter: Any, work_pool_filter: Any) -> list[Any]:
        assert (flow_filter.name.any_, work_pool_filter.name.any_) == (["experiment"], ["big"])
        return self.deployments

    def read_artifacts(self, artifact_filter: Any, sort: Any, limit: int) -> list[Any]:
        assert artifact_filter.key.any_ == ["metrics"]
        return [
            SimpleNamespace(data=self.artifacts[id]) for id in artifact_filter.flow_run_id.any_ if id in self.artifacts
        ]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()

    @contextmanager
    def get_client(sync_client: bool) -> Iterator[Server]:
        yield server

    for module in (over_pool, sweep):
        monkeypatch.setattr(module, "get_client", get_client)
    monkeypatch.setattr(over_pool, "run_deployment", server.run_deployment)
    monkeypatch.setattr(over_pool, "flow_run", SimpleNamespace(id=str(OWN)))
    monkeypatch.setattr(over_pool, "POLL_SECONDS", 0)
    return server


def jobs(names: str, **parameters: Any) -> list[Job]:
    return [Job(name, {"name": name, **parameters}, ("settings-1a2b",)) for name in names]


def run(
    names: str, ahead: float = float("inf"), polled: Callable[[], object] = lambda: None
) -> tuple[dict[str, str], list[str]]:
    """Run jobs; return the name of the final state of each, and the lines for people."""
    ended: dict[str, str] = {}
    lines: list[str] = []

    def end(job: Job, run: FlowRun) -> None:
        assert job.name not in ended
        assert run.state and run.state.name
        ended[job.name] = run.state.name

    Pool("big", "experiment", lines.append).run(jobs(names), end, ahead, polled)
    return ended, lines


def test_all_jobs_are_in_the_pool_at_once_and_one_that_fails_stops_no_other(server: Server) -> None:
    server.states = {"b": [[Failed(message="broken")]], "c": [[Pending(), Running(), Running(), Completed()]]}
    ended, _ = run("abc")
    assert server.started == ["a", "b", "c"]
    assert ended == {"b": "Failed", "a": "Completed", "c": "Completed"}
    assert all(run.tags == ["settings-1a2b"] for run in server.runs.values())


def test_a_run_that_is_lost_is_started_again_but_not_for_ever(server: Server) -> None:
    lost: list[State[Any]] = [Running(), Crashed(message="Its process was killed.")]
    server.states = {"a": [lost, [Completed()]], "b": [lost]}
    ended, lines = run("ab")
    assert ended == {"a": "Completed", "b": "Crashed"}
    assert sorted(server.started) == ["a", "a", "b", "b", "b"]
    assert lines.count("b is lost (Its process was killed.): starting it again") == 2


def test_what_is_in_the_pool_already_is_not_started_twice(server: Server) -> None:
    default = {"profile": "quick"}  # of the deployment
    server.add("a", {"name": "a"} | default, [Running(), Completed()], Scheduled())
    server.add("b", {"name": "b", "push": False}, [Completed()], Cancelling())
    server.add("c", {"name": "other"} | default, [], Running())
    server.add("d", {"name": "d"}, [], Completed())
    ended, lines = run("abcd")
    assert ended.keys() == set("abcd") and server.started == ["b", "c", "d"]
    assert "a is in the pool already: waiting for it" in lines


def test_with_one_ahead_a_job_is_asked_for_when_the_last_one_has_a_worker(server: Server) -> None:
    server.states = {name: [[Pending(), Running(), Running(), Completed()]] for name in "abc"}
    waiting: list[int] = []

    def count() -> None:
        waiting.append(sum(not run.state.is_running() for run in server.runs.values()
                           if run.state and not run.state.is_final()))  # fmt: skip

    ended, _ = run("abc", ahead=1, polled=count)
    assert ended == dict.fromkeys("abc", "Completed") and max(waiting) == 1


def test_a_run_that_was_deleted_has_failed(server: Server) -> None:
    server.states = {"a": [[Running(), Running()]]}
    ended, _ = run("ab", polled=lambda: [server.runs.pop(id) for id, run in [*server.runs.items()] if run.name == "a"])
    assert ended == {"a": "Failed", "b": "Completed"}


def test_a_server_that_does_not_answer_is_asked_again(server: Server) -> None:
    request = httpx.Request("GET", "http://localhost")
    busy = httpx.HTTPStatusError("busy", request=request, response=httpx.Response(503, request=request))
    server.errors = [httpx.ConnectError("refused"), busy, httpx.ReadTimeout("late")]
    ended, lines = run("ab")
    assert ended == dict.fromkeys("ab", "Completed") and sorted(server.started) == ["a", "b"]
    assert lines[0] == "Prefect's server does not answer, and is asked again and again: refused"
    assert sum("does not answer" in line for line in lines) == 1


def test_a_server_that_refuses_ends_the_sweep(server: Server) -> None:
    request = httpx.Request("POST", "http://localhost")
    server.errors = [httpx.HTTPStatusError("hours: -1", request=request, response=httpx.Response(422, request=request))]
    with pytest.raises(PoolError, match="Prefect's server refuses: hours: -1"):
        run("ab")


@pytest.mark.parametrize(
    ("error", "state", "cancelled"),
    [
        (KeyboardInterrupt, Running(), ["a", "b"]),  # Ctrl-C
        (SystemExit, Cancelling(), ["a", "b"]),
        (GeneratorExit, Cancelling(), ["a", "b"]),  # as by the signal of a worker that cancels the run
        (GeneratorExit, Cancelled(), ["a", "b"]),
        (GeneratorExit, Running(), []),  # as by that of a worker which ends: another one goes on
        (ValueError, Running(), []),
    ],
)
def test_a_cancelled_sweep_cancels_its_runs_that_have_not_ended(
    server: Server, error: type[BaseException], state: State[Any], cancelled: list[str]
) -> None:
    server.states = {name: [[Running(), Running(), Running()]] for name in "ab"}
    server.own.state = state
    polls: list[int] = []

    def interrupt() -> None:
        polls.append(1)
        if len(polls) == 3:
            raise error

    with pytest.raises(error):
        run("abc", polled=interrupt)
    assert server.cancelled == cancelled, "c has completed"


def test_a_pool_or_a_deployment_that_is_missing_is_one_line(server: Server) -> None:
    with pytest.raises(PoolError, match="there is no work pool 'small' on this Prefect server: `prefect work-pool ls`"):
        Pool("small", "experiment", print)
    server.deployments = []
    message = (
        "the work pool 'big' has no deployment that many runs of the flow experiment can be of: `prefect deploy --all`"
    )
    with pytest.raises(PoolError, match=message):
        Pool("big", "experiment", print)
    server.deployments = [server.new_deployment("nightly", limit=1), server.new_deployment("old", paused=True)]
    with pytest.raises(PoolError, match=r"can be of \('nightly' and 'old': limited or paused\): "):
        Pool("big", "experiment", print)


def test_of_several_deployments_the_first_without_a_limit_is_taken(server: Server) -> None:
    others = [("nightly", 1), ("zebra", None)]
    server.deployments = [*(server.new_deployment(name, limit) for name, limit in others), server.deployment]
    assert run("a")[0] == {"a": "Completed"}


def test_a_person_is_told_if_nothing_will_go_on(server: Server) -> None:
    server.status, server.own.work_pool_name = WorkPoolStatus.NOT_READY, "big"
    _, lines = run("a")
    assert lines[0].startswith("No worker of the pool big is online, or the pool is paused")
    assert lines[1].startswith("This run is in the pool big itself, and holds a place of one of its workers.")


# --- The result of an experiment that ran elsewhere ---


def test_the_metrics_of_an_experiment_come_from_its_artifact(server: Server) -> None:
    [job] = jobs("a")
    run = server.add("a", {}, [], Completed(message="better"))
    run.tags = ["mine", "settings-1a2b"]
    server.artifacts[run.id] = json.dumps([{"metric": "mmd", "value": 0.1}, {"metric": "recall", "value": None}])
    state = sweep.end_of(job, run)
    assert state.is_completed() and state.message == "better"
    assert (state.result().name, state.result().metrics) == ("a", {"mmd": 0.1})
    failed = server.add("b", {}, [], Failed(name="Diverged", message="the loss is nan"))
    assert sweep.end_of(job, failed) == failed.state


def test_an_experiment_of_another_commit_with_other_settings_does_not_count(server: Server) -> None:
    [job] = jobs("a")
    run = server.add("a", {}, [], Completed())
    run.tags = ["settings-1a2b", "settings-5c6d"]
    state = sweep.end_of(job, run)
    assert state.is_failed() and (state.message or "").startswith("it ran with other settings (settings-5c6d): ")


# --- The flow `sweep` over a pool ---


@pytest.fixture
def table(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The table of the next sweep, which runs in a project, in this process."""
    root, table = tmp_path / "project", list[dict[str, Any]]()
    root.mkdir()
    fake_project.write(root, source="doodles")
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sweep, "with_watchdog", contextlib.nullcontext)
    monkeypatch.setattr(sweep, "current_root", lambda: root)
    monkeypatch.setattr(sweep, "get_run_logger", lambda: logging.getLogger("flow"))
    monkeypatch.setattr(sweep, "create_table_artifact", lambda rows, **_: table.extend(rows))
    server.value = lambda parameters: 1 / parameters["settings"]["seed"]
    return table


def name_of(**changes: Any) -> str:
    return experiment_name("quick", FULL | {"source": "doodles"} | profiles()["quick"] | changes)


def test_a_sweep_over_a_pool_has_the_table_of_one_on_this_machine(server: Server, table: list[dict[str, Any]]) -> None:
    names = {seed: name_of(seed=seed, num_resnet=2) for seed in (1, 2, 3)}
    server.states[names[3]] = [[Failed(message="train: broken")]]
    grid, settings = Grid.model_validate({"seed": [1, 2, 3]}), Settings.model_validate({"num_resnet": 2})
    state = sweep.sweep.fn(settings=settings, grid=grid, pool="big", hours=2)
    assert state.is_failed() and state.message == f"1 of 3 experiments failed: {names[3]}"
    assert table == [
        {"experiment": names[2], METRIC: 0.5, "seed": 2, "state": "done"},
        {"experiment": names[1], METRIC: 1, "seed": 1, "state": "done"},
        {"experiment": names[3], METRIC: None, "seed": 3, "state": "train: broken"},
    ]
    [first, *_] = server.runs.values()
    assert first.tags == [f"settings-{names[1].removeprefix('quick-')}"]
    assert first.parameters == {
        "profile": "quick", "settings": {"num_resnet": 2, "seed": 1}, "name": names[1], "baseline": "", "push": True,
        "hours": 2,
    }  # fmt: skip


def test_a_search_over_a_pool_learns_from_its_runs(server: Server, table: list[dict[str, Any]]) -> None:
    search = Search.model_validate({"seed": {"low": 1, "high": 1000}})
    state = sweep.sweep.fn(search=search, trials=5, pool="big")
    assert state.is_completed() and len(server.started) == len(table) == 5
    assert [row[METRIC] for row in table] == [1 / row["seed"] for row in table]


def test_a_sweep_over_a_pool_that_does_not_exist_is_one_line(server: Server, table: list[dict[str, Any]]) -> None:
    state = sweep.sweep.fn(grid=Grid.model_validate({"seed": [1]}), pool="small")
    assert state.is_failed() and (state.message or "").startswith("there is no work pool 'small'")
    assert table == []


def test_experiments_that_cannot_be_fetched_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(root: Path, name: str) -> None:
        raise dvc.DvcError("no network")

    monkeypatch.setattr(sweep, "get_run_logger", lambda: logging.getLogger("flow"))
    monkeypatch.setattr(dvc, "has_origin", lambda root: True)
    monkeypatch.setattr(dvc, "fetch_experiments", fail)
    sweep.fetch(tmp_path, ["a", "b"])
    assert caplog.text.count("Cannot fetch the experiments from origin: no network") == 1
