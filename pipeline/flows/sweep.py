"""The flow `sweep`: many experiments, of a grid, a list or a search, on this machine or on the workers of a pool."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from prefect.states import Completed, Failed
from pydantic import Field

from pipeline import dvc
from pipeline.flows import artifacts, same_settings
from pipeline.flows.artifacts import METRIC, METRICS_KEY, SavedRun
from pipeline.flows.clones import locked_clone
from pipeline.flows.flows import NO_CHANGES, Hours, current_root, experiment
from pipeline.flows.forms import Grid, Profile, Search, Settings
from pipeline.flows.outcome import failed_state_on_error, name_best
from pipeline.flows.over_pool import Job, Pool
from pipeline.flows.plan import Plan, combinations
from pipeline.flows.search import open_search
from pipeline.flows.slots import make_slots, run_in_slots
from pipeline.flows.watchdog import with_watchdog
from pipeline.run_settings import experiment_name, fingerprint, profiles
from stages import params
from stages.common.errors import SettingsError

NO_GRID = Grid.model_validate({})
NO_SEARCH = Search.model_validate({})


@flow(description="Runs a grid, a list or a search of settings as experiments, here or on the workers of a pool.")
def sweep(
    profile: Profile = "quick",
    settings: Settings = NO_CHANGES,
    grid: Grid = NO_GRID,
    runs: list[Settings] = [],  # noqa: B006 - not changed
    search: Search = NO_SEARCH,
    trials: Annotated[int, Field(ge=1, le=100_000)] = 20,
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0,
    metric: str = METRIC,
    slots: Annotated[int, Field(ge=0, le=64)] = 0,
    pool: str = "",
    push: bool = True,
    hours: Hours = 0,
) -> State[Any]:
    """Run experiments in parallel and list them, the best first. One that fails does not stop the others.

    Args:
      profile: Named set of changes from pipeline/profiles.yaml; full is params.yaml as committed.
      settings: Changes to the profile's settings, for all experiments.
      grid: Values to try for each setting; every combination is an experiment.
      runs: List of changes, one experiment each; with a grid, each is combined with every combination of its values.
      search: Values to search for each setting, in place of a grid and runs; Optuna proposes each experiment.
      trials: Number of experiments that a search proposes.
      seed: Random seed of a search's proposals.
      metric: Metric to sort by, and to search by; the lowest value is the best.
      slots: Number of experiments to run in parallel; 0 for one per GPU, or one without a GPU.
      pool: Work pool whose workers run the experiments, as many in parallel as it takes; empty for this machine.
      push: Whether to push the experiments to `origin` and to the store; without a store, nothing is pushed.
      hours: Time limit of each stage in hours; 0 for none.
    """
    with with_watchdog(), locked_clone(), failed_state_on_error() as failure:
        if pool and slots:
            raise SettingsError(f"slots is {slots}, and pool is {pool!r}, whose workers decide: set one of the two")
        root = current_root()
        committed = params.parse(dvc.read_committed(root, "params.yaml"), "params.yaml as committed")
        base_settings = committed | profiles()[profile] | settings.changes()

        def name_of(changes: dict[str, Any]) -> str:
            name = experiment_name(profile, base_settings | changes)
            params.check(base_settings | changes, f"the settings of {name}")
            return name

        @contextlib.contextmanager
        def make_plan() -> Iterator[Plan]:
            if not search.model_fields_set:
                yield Plan({name_of(changes): changes for changes in combinations(grid, runs)})
                return
            if runs or grid.model_fields_set:
                raise SettingsError("search is given together with grid or runs: set one of them")
            params.check(base_settings, "the settings that are searched from")
            definition = {"settings": base_settings, "commit": dvc.resolve_commit(root, "HEAD")}
            with open_search(search, definition, trials, seed, metric, name_of) as found:
                yield found

        def parameters_of(name: str) -> dict[str, Any]:
            changes = settings.changes() | plan.changes[name]
            return {"profile": profile, "settings": changes, "name": name, "push": push, "hours": hours}

        def run_here(name: str) -> State[Any]:
            return experiment.with_options(flow_run_name=name)(**parameters_of(name), return_state=True)

        def job_of(name: str) -> Job:
            tag = same_settings.tag(fingerprint(base_settings | plan.changes[name]))
            return Job(name, parameters_of(name) | {"baseline": ""}, (tag,))

        def end(job: Job, run: FlowRun) -> None:
            state = end_of(job, run)
            plan.end(job.name, state)
            get_run_logger().info("%s: %s", job.name, state.name)

        with make_plan() as plan:
            if pool:
                ahead = 1 if search.model_fields_set else float("inf")
                workers = Pool(pool, experiment.name, get_run_logger().info)
                workers.run(map(job_of, plan), end, ahead)
                fetch(root, list(plan.done))
            else:
                run_in_slots(run_here, plan, make_slots(slots), plan.end)
            return report(plan, metric)
    return failure.state


def end_of(job: Job, run: FlowRun) -> State[Any]:
    """The final state of an experiment that ran elsewhere; if it completed, with its metrics."""
    state = run.state
    assert state is not None
    if not state.is_completed():
        return state
    if others := [tag for tag in run.tags if tag.startswith(same_settings.TAG) and tag not in job.tags]:
        return Failed(
            message=f"it ran with other settings ({', '.join(others)}): its worker clones a commit with another "
            "params.yaml or profile; push this one, and run the sweep again"
        )
    filters = ArtifactFilter.model_validate({"flow_run_id": {"any_": [run.id]}, "key": {"any_": [METRICS_KEY]}})
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=filters, sort=ArtifactSort.CREATED_DESC, limit=1)
    metrics = artifacts.parse_metrics_table(str(found[0].data)) if found else {}
    return Completed(message=state.message, data=SavedRun(job.name, metrics))


def fetch(root: Path, names: list[str]) -> None:
    """Fetch experiments from `origin`, where their workers have pushed them, so that DVC lists them here too."""
    if not dvc.has_origin(root):
        return
    for name in names:
        try:
            dvc.fetch_experiments(root, name)
        except dvc.DvcError as error:
            get_run_logger().warning("Cannot fetch the experiments from origin: %s", error)
            return


def report(plan: Plan, metric: str) -> State[Any]:
    """Publish the table of a sweep in Prefect, and return its final state."""
    done = [plan.done[name] for name in plan.changes if name in plan.done]
    others = plan.unsuitable | plan.failed
    others = {name: others[name] for name in plan.changes if name in others}
    table = artifacts.comparison(done, others, plan.changes, metric)
    create_table_artifact(table, key="sweep", description=f"The experiments of this sweep, by {metric}")
    if plan.failed:
        failed = [name for name in plan.changes if name in plan.failed]
        return Failed(message=f"{len(failed)} of {len(plan.changes)} experiments failed: {', '.join(failed)}")
    return Completed(message=name_best(done, table, metric), data=table)
