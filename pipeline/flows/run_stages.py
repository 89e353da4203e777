"""TODO"""

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
from stages.common.errors import SettingsError

RETRY_SECONDS = [10.0, 60.0, 300.0]  # between attempts at a stage that uses the network
# The states of a stage that is not tried again: one that cannot use its settings, and one that took longer than it may.
REFUSED, OUT_OF_TIME = "Refused", "OutOfTime"


# --- The stages of one workspace ---


@task(cache_policy=NO_CACHE, persist_result=False)
def _run_stage(
    workspace: dvc.Workspace, stage: dvc.Stage, at_hand: bool, rows: Mapping[str, StageRow], hours: float
) -> State[None]:
    """One stage, ended in the state that DVC reports."""
    logger = get_run_logger()
    progress = artifacts.Progress(stage.name)

    def show(line: str) -> None:
        logger.info(line)
        try:
            progress.add(line)
        except Exception as error:  # what is only seen must not end what is computed
            logger.warning("No progress to be seen: %s", error)

    row, started = rows[stage.name], time.monotonic()
    try:
        if at_hand:
            outcome = dvc.Outcome.UNCHANGED
        else:
            seconds = hours * 3600 or None
            done = workspace.reproduce(stage.name, line=show, seconds=seconds)
            outcome = done.get(stage.name, dvc.Outcome.RAN)  # DVC has other words for a file that it only tracks
            if outcome is dvc.Outcome.RAN and dvc.remote(workspace.root):
                row.not_pushed = _push(workspace, stage.name, patient=not not_pushed(rows.values()))
        state: State[None] = Completed(name=outcome.value, message=stage.desc)
    except Stopped:
        state = Cancelled(message="ended with the run")
    except dvc.OutOfTime as error:
        state = Failed(name=OUT_OF_TIME, message=str(error))
    except dvc.DvcError as error:
        state = Failed(
            name=REFUSED if error.stage_exit_code == SettingsError.exit_code else "Failed", message=str(error)
        )
    row.seconds, row.state = round(time.monotonic() - started, 1), state.name or ""
    return state


def _push(workspace: dvc.Workspace, stage: str, patient: bool) -> str:
    """Send what a stage has made to the store; return why that cannot be. What has run is not lost for it.

    Args:
      patient: whether to try again; a store that has not taken the stages before will hardly take this one.
    """
    waits = iter(RETRY_SECONDS if patient else [])
    while True:
        try:
            workspace.push(stage)
            return ""
        except dvc.DvcError as error:
            get_run_logger().warning("What %s has made is not pushed: %s", stage, error)
            if (seconds := next(waits, None)) is None:
                return str(error)
        workspace.pause(seconds)


def not_pushed(rows: Iterable[StageRow]) -> list[str]:
    """The stages whose outputs could not be sent to the store, each with the reason."""
    return [f"{row.stage} ({row.not_pushed})" for row in rows if row.not_pushed]


def run_stages(workspace: dvc.Workspace, settings: Mapping[str, Any], hours: float) -> list[StageRow]:
    """Run the stages of a workspace, those that wait for nothing side by side.

    Leaves their table in Prefect, however they end. Raises `dvc.DvcError` with the line of each that failed.
    """
    graph = dvc.stages(workspace.root)
    at_hand = dvc.up_to_date(workspace.root)
    rows = {stage.name: StageRow(stage.name, "Not reached", 0.0) for stage in graph}
    futures: dict[str, Any] = {}
    with _stop_on_exit(workspace):
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
                stage.name in at_hand,
                rows,
                hours,
                return_state=False,
                wait_for=[futures[name] for name in stage.after],
            )
        wait(list(futures.values()))
    create_table_artifact(
        [vars(row) for row in rows.values()], key="stages", description="What DVC did, stage by stage"
    )
    states = [future.state for future in futures.values()]
    if not all(state.is_completed() for state in states):
        ended = [state for state in states if state.is_final() and not state.is_completed()]
        raise dvc.DvcError("; ".join(state.message or str(state.name) for state in ended))
    return list(rows.values())


def _uses_network(stage: dvc.Stage, settings: Mapping[str, Any]) -> bool:
    """Whether a stage reads from the network: dvc.yaml names the setting that says from where."""
    place = str(settings.get(stage.meta.get("network", ""), ""))
    return "://" in place and not place.startswith("file://")


def _should_retry(_task: Any, _run: Any, state: State[Any]) -> bool:
    return state.name not in (REFUSED, OUT_OF_TIME)


# --- How a flow ends ---

running_workspaces: set[dvc.Workspace] = set()


@contextlib.contextmanager
def _stop_on_exit(workspace: dvc.Workspace) -> Iterator[None]:
    """Where what is within is cut short, what runs in the workspace ends with it."""
    running_workspaces.add(workspace)
    try:
        yield
    except BaseException:
        workspace.stop()
        raise
    finally:
        running_workspaces.discard(workspace)
