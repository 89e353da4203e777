"""Prefect's flows over DVC's graph. DVC knows what must run and keeps it; Prefect knows when, where, and how it went.

reproduce   the stages of the workspace at hand, a task each
experiment  the same with other settings, in a workspace of its own, kept as a DVC experiment
sweep       many experiments, as many at once as there are slots

The graph is dvc.yaml's. Nothing here names a stage.
"""

import contextlib
import itertools
import os
from pathlib import Path
from typing import Annotated, Any

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.states import Completed, Failed
from pydantic import Field

from pipeline import dvc
from pipeline.flows import artifacts
from pipeline.flows.artifacts import METRIC, FinishedRun
from pipeline.flows.forms import Grid, Profile, Settings
from pipeline.flows.outcome import (
    completed_state,
    failed_state_on_error,
    find_baseline,
    finish,
    name_best,
    publish_artifacts,
)
from pipeline.flows.run_stages import not_pushed, run_stages
from pipeline.flows.slots import make_slots, run_in_slots, slot_variables
from pipeline.flows.watchdog import with_watchdog
from pipeline.settings import experiment_name, profiles, update_params_file
from stages import params

STORE_VARIABLE = "QUICKDRAW_STORE"  # where runs are shared with other machines: a URL or an absolute folder

Name = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]*)?$")]
Hours = Annotated[float, Field(ge=0)]
NO_CHANGES = Settings.model_validate({})
NO_GRID = Grid.model_validate({})


@flow(description="The stages of the workspace at hand that need to run, a task each.")
def reproduce(keep: Name = "", hours: Hours = 0) -> State[Any]:
    """Bring the workspace at hand up to date, with the settings that its params.yaml holds.

    Args:
      keep: The name to keep the run under as a DVC experiment; empty to keep none.
      hours: The most that a stage may take; 0 is any time.
    """
    with with_watchdog(), failed_state_on_error() as failure, contextlib.ExitStack() as held:
        root = _root()
        held.enter_context(dvc.exclusive_run(root, get_run_logger().info))
        settings = params.read(root / "params.yaml")
        params.check(settings, "params.yaml")
        committed = params.parse(dvc.read_committed(root, "params.yaml"), "params.yaml as committed")
        workspace = dvc.Workspace(root)
        rows = run_stages(workspace, settings, hours)
        name = keep or experiment_name("run", settings)
        if keep:
            workspace.save(keep)
        run = finish(workspace, name, rows, committed, settings)
        baseline = find_baseline(root, committed, apart_from=name)
        publish_artifacts(run, baseline)
        return completed_state(run, baseline, not_pushed(rows))
    return failure.state


@flow(
    description="Other settings, in a workspace of their own, kept as a DVC experiment and held against the baseline."
)
def experiment(
    profile: Profile = "full",
    settings: Settings = NO_CHANGES,
    name: Name = "",
    baseline: str = "",
    push: bool = True,
    hours: Hours = 0,
) -> State[Any]:
    """Run the committed params.yaml with changes, and keep the run as a DVC experiment.

    Args:
      profile: A named set of changes, from pipeline/profiles.yaml; full is params.yaml as committed.
      settings: Changes on top of the profile's.
      name: What the experiment is called; empty for the profile and a fingerprint of the settings.
      baseline: The experiment or revision to hold it against; empty for the profile without these changes.
      push: Whether to send it to `origin` and to the store, where runs are shared.
      hours: The most that a stage may take; 0 is any time.
    """
    with with_watchdog(), failed_state_on_error() as failure:
        root = _root()
        committed = params.parse(dvc.read_committed(root, "params.yaml"), "params.yaml as committed")
        usual = committed | profiles()[profile]
        chosen = usual | settings.changes()
        params.check(chosen, "the settings of this experiment")
        name = name or experiment_name(profile, chosen)
        against = find_baseline(root, usual, baseline, apart_from=name)
        if not dvc.is_committed(root, "params.yaml", "dvc.lock"):
            get_run_logger().warning("The changes here that are not committed are no part of the experiment")

        with dvc.temporary_workspace(root, name, slot_variables.get()) as workspace:
            update_params_file(workspace.root / "params.yaml", committed, chosen, get_run_logger().info)
            rows = run_stages(workspace, chosen, hours)
            workspace.save(name)
            run = finish(workspace, name, rows, committed, chosen)
        publish_artifacts(run, against)
        unpushed = not_pushed(rows)
        shared = dvc.remote(root) is not None or bool(os.environ.get(STORE_VARIABLE))
        if push and shared and dvc.has_origin(root):
            try:
                dvc.Workspace(root).push_experiment(name, "origin")
                unpushed = []  # it went with all that its stages have made
            except dvc.DvcError as error:
                unpushed = [f"{name} ({error})"]
        return completed_state(run, against, unpushed)
    return failure.state


@flow(description="A grid or a list of settings as experiments, as many at once as there are slots.")
def sweep(
    profile: Profile = "quick",
    settings: Settings = NO_CHANGES,
    grid: Grid = NO_GRID,
    runs: list[Settings] = [],  # noqa: B006 - not changed
    metric: str = METRIC,
    slots: Annotated[int, Field(ge=0, le=64)] = 0,
    push: bool = True,
    hours: Hours = 0,
) -> State[Any]:
    """Run experiments side by side and lay them out, the best first. One that fails does not stop the others.

    Args:
      profile: A named set of changes, from pipeline/profiles.yaml; full is params.yaml as committed.
      settings: Changes on top of the profile's, for all.
      grid: Values for some settings: every combination is an experiment.
      runs: Changes for one experiment each; with a grid, each is tried with every combination.
      metric: The figure to sort by; the least is the best.
      slots: How many at once; 0 for one a GPU, or one where there is none.
      push: Whether to send the experiments to `origin` and to the store, where runs are shared.
      hours: The most that a stage may take; 0 is any time.
    """
    with with_watchdog(), failed_state_on_error() as failure:
        root = _root()
        committed = params.parse(dvc.read_committed(root, "params.yaml"), "params.yaml as committed")
        usual = committed | profiles()[profile] | settings.changes()
        changes = {experiment_name(profile, usual | tried): tried for tried in combinations(grid, runs)}
        for name, tried in changes.items():
            params.check(usual | tried, f"the settings of {name}")

        def one(name: str) -> State[Any]:
            changed = settings.changes() | changes[name]
            start = experiment.with_options(flow_run_name=name)
            form = Settings.model_validate(changed)
            return start(profile, form, name=name, push=push, hours=hours, return_state=True)

        states = run_in_slots(one, list(changes), make_slots(slots))
        done: list[FinishedRun] = [state.result() for state in states.values() if state.is_completed()]
        failed = {name: state.message or str(state.name) for name, state in states.items() if not state.is_completed()}
        table = artifacts.comparison(done, failed, changes, metric)
        create_table_artifact(table, key="sweep", description=f"The experiments of this sweep, by {metric}")
        if failed:
            return Failed(message=f"{len(failed)} of {len(states)} experiments failed: {', '.join(failed)}")
        return Completed(message=name_best(done, table, metric), data=table)
    return failure.state


def combinations(grid: Grid, runs: list[Settings]) -> list[dict[str, Any]]:
    """Each of the runs, or of one without changes, with every combination of the grid's values."""
    axes = grid.model_dump(mode="json", exclude_unset=True)
    return [
        run | dict(zip(axes, values, strict=True))
        for run in ([run.changes() for run in runs] or [{}])
        for values in itertools.product(*axes.values())
    ]


def _root() -> Path:
    """The root of the repository at hand, set to share its runs where this machine is told to."""
    root = dvc.find_root(Path.cwd())
    if store := os.environ.get(STORE_VARIABLE):
        dvc.configure_store(root, store)
    return root
