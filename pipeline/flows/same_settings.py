"""Runs of the same settings on several machines: a later one waits for an earlier one, and then restores its outputs.

Prefect's server knows the runs and when they started. If it does not answer, nobody waits, and the outputs are
computed twice.
"""

from datetime import datetime, timezone
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.runtime import flow_run

from pipeline import dvc

POLL_SECONDS = 5.0
TAG = "settings-"  # the beginning of the tag
NEVER = datetime.max.replace(tzinfo=timezone.utc)


def announce(settings: str) -> None:
    """Tag this run with the fingerprint of its settings, so that others can find it."""
    run = flow_run.id
    if run is None or tag(settings) in flow_run.tags:
        return
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(run), tags=[*flow_run.tags, tag(settings)])
    except Exception as error:  # those of the network, and of the server
        get_run_logger().warning("Cannot tell other runs about this one: %s", error)


def wait_for_earlier(settings: str, workspace: dvc.Workspace) -> None:
    """Wait until no earlier run has these settings. Raises `Stopped` if the workspace is stopped meanwhile."""
    run, reported = flow_run.id, ""
    while run is not None and (earlier := _earlier(str(run), settings)):
        if earlier[0].name != reported:
            reported = earlier[0].name
            get_run_logger().info(
                "The run %s has the same settings: waiting for its outputs. If its machine has gone, cancel it",
                reported,
            )
        workspace.pause(POLL_SECONDS)


def _earlier(run: str, settings: str) -> list[FlowRun]:
    """The other runs of these settings that are running and have started before this one."""
    filters: dict[str, Any] = {
        "tags": {"all_": [tag(settings)]},
        "state": {"type": {"any_": [StateType.RUNNING]}},
    }
    try:
        with get_client(sync_client=True) as client:
            running = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(filters))
    except Exception as error:  # those of the network, and of the server
        get_run_logger().warning("Cannot ask for other runs of these settings: %s", error)
        return []
    in_order = sorted(running, key=lambda other: (other.start_time or NEVER, str(other.id)))
    ids = [str(other.id) for other in in_order]
    return in_order[: ids.index(run)] if run in ids else []


def tag(settings: str) -> str:
    """The tag of the runs of these settings."""
    return f"{TAG}{settings}"
