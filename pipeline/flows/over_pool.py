"""Run jobs on the workers of a work pool: each is a run of a deployment, which Prefect's server hands to a worker.

The pool's and the workers' own limits decide how many run at a time. A run that is lost with its worker is started
again. What is already in the pool, because an earlier caller was killed, is not started twice, but waited for.
"""

import contextlib
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from prefect import State
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowFilter, FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, StateType, WorkPoolStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelling, Failed

from stages.common.errors import UserError, list_names, one_line

POLL_SECONDS = 5.0
STARTS = 3  # of a run whose worker is lost
PAGE = 200  # runs in an answer of the server
NOT_FINAL = [kind for kind in StateType if kind.name not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")]


class PoolError(UserError):
    """The work pool cannot run the jobs."""


@dataclass(frozen=True)
class Job:
    """What one run does.

    Attributes:
      name: the name of the run; no two jobs share it.
      parameters: those of the flow, as in JSON.
      tags: those of the run.
    """

    name: str
    parameters: Mapping[str, Any]
    tags: tuple[str, ...] = ()


class Pool:
    """The runs of a flow in a work pool.

    Args:
      name: of the work pool.
      flow: the name of the flow.
      report: called with each line for a person.

    Raises:
      PoolError: there is no such pool, or it has no deployment of the flow.
    """

    def __init__(self, name: str, flow: str, report: Callable[[str], object]) -> None:
        self._report = report
        self._caller = str(flow_run.id or uuid.uuid4())  # the runs of two callers are different ones
        self._outage = False
        try:
            with get_client(sync_client=True) as client:
                self._deployment = _find_deployment(client, name, flow, report).id
                own = client.read_flow_run(UUID(flow_run.id)).work_pool_name if flow_run.id else None
        except httpx.HTTPError as error:
            raise PoolError(
                f"Prefect's server cannot be asked for the work pool {name!r}: {_describe(error)}"
            ) from None
        if own == name:
            report(
                f"This run is in the pool {name} itself, and holds a place of one of its workers. If no other place is "
                "free, nothing goes on: then cancel it, and start it in another pool"
            )

    def run(
        self,
        jobs: Iterable[Job],
        ended: Callable[[Job, FlowRun], object],
        ahead: float = float("inf"),
        polled: Callable[[], object] = lambda: None,
    ) -> None:
        """Run jobs until all have ended. If the caller is cancelled or interrupted, so are the runs.

        Args:
          jobs: asked for the next one only when it can be started.
          ended: called with each job and its run, in a final state.
          ahead: how many runs may wait for a worker. With 1, a job is asked for when the last one has been started.
          polled: called between two looks at the runs.
        """
        waiting, running = iter(jobs), dict[UUID, tuple[Job, FlowRun]]()
        starts, next_ones = Counter[str](), list[Job]()
        with self._cancel_on_interrupt(running):
            while True:
                with self._going_on_without_server():
                    while sum(not (run.state and run.state.is_running()) for _, run in running.values()) < ahead:
                        if not next_ones and not (next_ones := list(itertools.islice(waiting, 1))):
                            break
                        run = self._start(next_ones[-1], starts[next_ones[-1].name])
                        job = next_ones.pop()
                        running[run.id] = job, run
                        starts[job.name] += 1
                if not running and not next_ones:
                    return
                polled()
                time.sleep(POLL_SECONDS)
                with self._going_on_without_server():
                    for run in self._read(list(running)):
                        job, _ = running[run.id]
                        running[run.id] = job, run
                        if run.state is None or not run.state.is_final():
                            continue
                        if run.state.is_crashed() and starts[job.name] < STARTS:
                            self._report(f"{job.name} is lost ({run.state.message}): starting it again")
                            next_ones.append(job)
                        else:
                            ended(job, run)
                        del running[run.id]

    def _start(self, job: Job, number: int) -> FlowRun:
        """The run of a job that is in the pool already, or a new one."""
        with get_client(sync_client=True) as client:
            filters = FlowRunFilter.model_validate(
                {
                    "name": {"any_": [job.name]},
                    "deployment_id": {"any_": [self._deployment]},
                    "state": {"type": {"any_": NOT_FINAL}},
                }
            )
            for run in client.read_flow_runs(flow_run_filter=filters):
                cancelling = run.state is not None and run.state.is_cancelling()
                if job.parameters.items() <= run.parameters.items() and not cancelling:
                    self._report(f"{job.name} is in the pool already: waiting for it")
                    return run
        started = run_deployment(
            self._deployment,
            parameters=dict(job.parameters),
            flow_run_name=job.name,
            tags=job.tags,
            timeout=0,
            idempotency_key=f"{self._caller}-{job.name}-{number}",
        )
        assert isinstance(started, FlowRun)
        self._outage = False
        return started

    def _read(self, ids: list[UUID]) -> list[FlowRun]:
        """Runs as they are now. One that somebody has deleted has failed."""
        found: dict[UUID, FlowRun] = {}
        with get_client(sync_client=True) as client:
            for start in range(0, len(ids), PAGE):
                filters = FlowRunFilter.model_validate({"id": {"any_": ids[start : start + PAGE]}})
                found |= {run.id: run for run in client.read_flow_runs(flow_run_filter=filters, limit=PAGE)}
                self._outage = False
        deleted: State[Any] = Failed(message="its run was deleted in Prefect")
        return [found.get(id) or FlowRun(id=id, flow_id=id, state=deleted) for id in ids]

    @contextlib.contextmanager
    def _going_on_without_server(self) -> Iterator[None]:
        """End the block if the server does not answer or fails: what it has not done is done the next time.

        Raises:
          PoolError: the server refuses.
        """
        try:
            yield
        except ObjectNotFound:
            raise PoolError("the deployment of the runs was deleted in Prefect: deploy it, and start again") from None
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                raise PoolError(f"Prefect's server refuses: {one_line(error, 500)}") from None
            if not self._outage:
                self._report(f"Prefect's server does not answer, and is asked again and again: {_describe(error)}")
            self._outage = True

    @contextlib.contextmanager
    def _cancel_on_interrupt(self, running: Mapping[UUID, object]) -> Iterator[None]:
        """Cancel the runs if the block is interrupted by a person: but not if only the caller's worker ends.

        Then they go on, and the next caller finds them.
        """
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(httpx.HTTPError):  # the server does not answer
                if running and (isinstance(error, KeyboardInterrupt | SystemExit) or _is_cancelled()):
                    _cancel(list(running))
            raise


def _describe(error: httpx.HTTPError) -> str:
    return one_line(error, 500) or type(error).__name__


def _cancel(runs: Iterable[UUID]) -> None:
    with get_client(sync_client=True) as client:
        for id in runs:
            with contextlib.suppress(ObjectNotFound):
                client.set_flow_run_state(id, Cancelling(message="stopped with what started it"))


def _is_cancelled() -> bool:
    """Whether this run has been cancelled in Prefect."""
    if flow_run.id is None:
        return False
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(flow_run.id)).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _find_deployment(
    client: SyncPrefectClient, name: str, flow: str, report: Callable[[str], object]
) -> DeploymentResponse:
    """The deployment of the flow in the pool that all jobs are runs of; of several, the first one by name.

    One with a limit of its own, as scheduled ones have, is not meant for many runs.
    """
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        raise PoolError(
            f"there is no work pool {name!r} on this Prefect server: `prefect work-pool ls` lists them"
        ) from None
    deployments = client.read_deployments(
        flow_filter=FlowFilter.model_validate({"name": {"any_": [flow]}}),
        deployment_filter=DeploymentFilter(),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [name]}}),
    )
    usable = [found for found in deployments if found.global_concurrency_limit is None and not found.paused]
    if not usable:
        others = f" ({list_names([found.name for found in deployments])}: limited or paused)" if deployments else ""
        raise PoolError(
            f"the work pool {name!r} has no deployment that many runs of the flow {flow} can be of{others}: "
            "`prefect deploy --all` makes those of prefect.yaml"
        )
    if pool.status is not WorkPoolStatus.READY:
        report(f"No worker of the pool {name} is online, or the pool is paused: runs wait there until one takes them")
    return min(usable, key=lambda found: found.name)
