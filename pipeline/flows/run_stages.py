"""Run the stages of a workspace as Prefect tasks, in parallel where the graph allows it, and push their outputs."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prefect import State, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import wait
from prefect.states import Cancelled, Completed, Failed

from pipeline import dvc
from pipeline.flows import artifacts
from pipeline.flows.artifacts import StageRow
from pipeline.subprocesses.supervisor import Stopped
from stages.common.errors import DivergedError, SettingsError

RETRY_SECONDS = [10.0, 60.0, 300.0]  # before each retry of a push, and of a stage that uses the network
# The states of a stage that is not retried: it cannot use its settings, its training did not converge with them, or it
# exceeded its time limit. A run that fails because of its settings ends in the first or the second, too.
REFUSED, DIVERGED, OUT_OF_TIME = "Refused", "Diverged", "OutOfTime"
NAMES_BY_EXIT_CODE = {SettingsError.exit_code: REFUSED, DivergedError.exit_code: DIVERGED}


class StagesFailed(dvc.DvcError):
    """Stages failed; the message has a line for each.

    Attributes:
      state_name: the name of the state of them all, or `Failed` if they have different ones.
    """

    def __init__(self, states: Iterable[State[Any]]) -> None:
        states = list(states)
        super().__init__("; ".join(state.message or str(state.name) for state in states))
        names = {str(state.name) for state in states}
        self.state_name = names.pop() if len(names) == 1 else "Failed"


@task(cache_policy=NO_CACHE, persist_result=False)
def _run_stage(
    workspace: dvc.Workspace, stage: dvc.Stage, up_to_date: bool, rows: Mapping[str, StageRow], hours: float
) -> State[None]:
    """Run one stage, and return a state named after what DVC did for it, or after its error."""
    logger = get_run_logger()
    progress = artifacts.ProgressArtifact(stage.name)

    def report(line: str) -> None:
        logger.info(line)
        try:
            progress.add(line)
        except Exception as error:  # a progress bar that fails must not end the stage
            logger.warning("Cannot show progress: %s", error)

    row, started = rows[stage.name], time.monotonic()
    try:
        if up_to_date:
            outcome = dvc.Outcome.UNCHANGED
        else:
            seconds = hours * 3600 or None
            outcomes = workspace.reproduce(stage.name, line=report, seconds=seconds)
            outcome = outcomes.get(stage.name, dvc.Outcome.RAN)  # DVC prints other lines for a file that it only tracks
            if outcome is dvc.Outcome.RAN and dvc.remote(workspace.root):
                row.not_pushed = push_outputs(workspace, rows.values(), stage.name)
        state: State[None] = Completed(name=outcome.value, message=stage.desc)
    except Stopped:
        state = Cancelled(message="stopped with the run")
    except dvc.OutOfTime as error:
        state = Failed(name=OUT_OF_TIME, message=str(error))
    except dvc.DvcError as error:
        state = Failed(name=NAMES_BY_EXIT_CODE.get(error.stage_exit_code or 1, "Failed"), message=str(error))
    row.seconds, row.state = round(time.monotonic() - started, 1), state.name or ""
    return state


def push_outputs(workspace: dvc.Workspace, rows: Iterable[StageRow], stage: str | None = None) -> str:
    """Push outputs to the store; return why that failed, or an empty text. Nothing else fails.

    A push is retried, unless the store refuses it, or has failed in this run before: then this push will fail too.

    Args:
      workspace: where the stages ran.
      rows: the stages of the run.
      stage: the stage whose outputs are pushed; None for all.
    """
    waits = iter(RETRY_SECONDS if workspace.reads_store and not not_pushed(rows) else [])
    while True:
        try:
            workspace.push(stage)
            return ""
        except dvc.DvcError as error:
            get_run_logger().warning("Cannot push the outputs of %s: %s", stage or "the run", error)
            seconds = next(waits, None)
            if seconds is None or (isinstance(error, dvc.StoreError) and error.is_refusal):
                return str(error)
        workspace.pause(seconds)


def not_pushed(rows: Iterable[StageRow]) -> list[str]:
    """The stages whose outputs could not be pushed to the store, each with the reason."""
    return [f"{row.stage} ({row.not_pushed})" for row in rows if row.not_pushed]


def run_stages(workspace: dvc.Workspace, settings: Mapping[str, Any], hours: float) -> list[StageRow]:
    """Run the stages of a workspace, independent ones in parallel, and publish a table of them in Prefect.

    Args:
      workspace: where to run them.
      settings: the contents of its params.yaml.
      hours: the time limit of each stage; 0 for none.

    Returns:
      A row for each stage, in the order of the graph.

    Raises:
      StagesFailed: the table is published before.
    """
    graph = dvc.stages(workspace.root)
    up_to_date = dvc.up_to_date(workspace.root)
    rows = {stage.name: StageRow(stage.name, "Not reached", 0.0) for stage in graph}
    futures: dict[str, Any] = {}
    with stop_on_exit(workspace):
        for stage in graph:
            network = _uses_network(stage, settings)
            futures[stage.name] = _run_stage.with_options(
                name=stage.name,
                task_run_name=stage.name,
                description=stage.desc,
                retries=len(RETRY_SECONDS) if network else 0,
                retry_delay_seconds=RETRY_SECONDS,
                retry_condition_fn=_should_retry,
            ).submit(
                workspace,
                stage,
                stage.name in up_to_date,
                rows,
                hours,
                return_state=False,
                wait_for=[futures[name] for name in stage.after],
            )
        wait(list(futures.values()))
    create_table_artifact([vars(row) for row in rows.values()], key="stages", description="What DVC did for each stage")
    states = [future.state for future in futures.values()]
    if not all(state.is_completed() for state in states):
        raise StagesFailed(state for state in states if state.is_final() and not state.is_completed())
    return list(rows.values())


def _uses_network(stage: dvc.Stage, settings: Mapping[str, Any]) -> bool:
    """Whether a stage reads from a URL. `meta.network` in dvc.yaml is the setting with its data source."""
    source = str(settings.get(stage.meta.get("network", ""), ""))
    return "://" in source and not source.startswith("file://")


def _should_retry(_task: Any, _run: Any, state: State[Any]) -> bool:
    return state.name not in (REFUSED, DIVERGED, OUT_OF_TIME)


running_workspaces: set[dvc.Workspace] = set()  # those whose stages are running in this process


@contextlib.contextmanager
def stop_on_exit(workspace: dvc.Workspace) -> Iterator[None]:
    """Stop the running stages of a workspace if the block raises, an interrupt included."""
    running_workspaces.add(workspace)
    try:
        yield
    except BaseException:
        workspace.stop()
        raise
    finally:
        running_workspaces.discard(workspace)
