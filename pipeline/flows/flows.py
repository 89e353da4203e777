"""The flows that run stages. DVC decides which ones, and saves their outputs; Prefect decides when and where to run.

reproduce   the stages of the current workspace, each as a task
experiment  the same with other settings, in a temporary workspace, saved as a DVC experiment

The stages and their order come from dvc.yaml. No stage is named here.
"""

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any

from prefect import State, flow, get_run_logger
from pydantic import Field

from pipeline import dvc
from pipeline.flows import same_settings
from pipeline.flows.clones import locked_clone
from pipeline.flows.forms import Profile, Settings
from pipeline.flows.outcome import (
    collect_results,
    completed_state,
    failed_state_on_error,
    find_baseline,
    publish_artifacts,
)
from pipeline.flows.run_stages import not_pushed, push_outputs, run_stages, stop_on_exit
from pipeline.flows.slots import slot_variables
from pipeline.flows.watchdog import with_watchdog
from pipeline.run_settings import experiment_name, fingerprint, on_data_of, profiles, update_params_file
from stages import params

Name = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]*)?$")]
Hours = Annotated[float, Field(ge=0)]
NO_CHANGES = Settings.model_validate({})


@flow(description="Runs the stages of the current workspace that need to run, each as a task.")
def reproduce(save_as: Name = "", hours: Hours = 0) -> State[Any]:
    """Bring the current workspace up to date with the settings in its params.yaml.

    Args:
      save_as: Name to save the run under as a DVC experiment; empty to not save it.
      hours: Time limit of each stage in hours; 0 for none.
    """
    with with_watchdog(), locked_clone(), failed_state_on_error() as failure, contextlib.ExitStack() as stack:
        root = current_root()
        stack.enter_context(dvc.exclusive_run(root, get_run_logger().info))
        settings = params.read(root / "params.yaml")
        params.check(settings, "params.yaml")
        committed = params.parse(dvc.read_committed(root, "params.yaml"), "params.yaml as committed")
        workspace = dvc.Workspace(root)
        rows = run_stages(workspace, settings, hours)
        name = save_as or experiment_name("run", settings)
        if save_as:
            workspace.save(save_as)
        run = collect_results(workspace, name, rows, settings, "the committed settings", committed)
        baseline = find_baseline(root, on_data_of(settings, committed), exclude=name)
        publish_artifacts(run, baseline)
        return completed_state(run, baseline, not_pushed(rows))
    return failure.state


@flow(
    description="Runs other settings in a temporary workspace, saves them as a DVC experiment and compares the result "
    "with the baseline."
)
def experiment(
    profile: Profile = "full",
    settings: Settings = NO_CHANGES,
    name: Name = "",
    baseline: str = "",
    push: bool = True,
    hours: Hours = 0,
) -> State[Any]:
    """Run the committed params.yaml with changes, and save the run as a DVC experiment.

    Args:
      profile: Named set of changes from pipeline/profiles.yaml; full is params.yaml as committed.
      settings: Changes to the profile's settings.
      name: Name of the experiment; empty for the profile and a fingerprint of the settings.
      baseline: Experiment or revision to compare it with; empty for the profile on the same drawings.
      push: Whether to push the experiment to `origin` and to the store; without a store, nothing is pushed.
      hours: Time limit of each stage in hours; 0 for none.
    """
    with with_watchdog(), locked_clone(), failed_state_on_error() as failure:
        root = current_root()
        committed = params.parse(dvc.read_committed(root, "params.yaml"), "params.yaml as committed")
        base_settings = committed | profiles()[profile]
        run_settings = base_settings | settings.changes()
        params.check(run_settings, "the settings of this experiment")
        same_settings.announce(fingerprint(run_settings))
        name = name or experiment_name(profile, run_settings)
        baseline_run = find_baseline(root, on_data_of(run_settings, base_settings), baseline, exclude=name)
        if uncommitted := dvc.changed_files(root) - dvc.RUN_FILES:
            get_run_logger().warning("Not committed, so not in the experiment: %s", ", ".join(sorted(uncommitted)))

        shares = push and has_store(root) and dvc.has_origin(root)
        with dvc.temporary_workspace(root, name, slot_variables.get()) as workspace:
            update_params_file(workspace.root / "params.yaml", committed, run_settings, get_run_logger().info)
            if has_store(root):
                with stop_on_exit(workspace):
                    same_settings.wait_for_earlier(fingerprint(run_settings), workspace)
            rows = run_stages(workspace, run_settings, hours)
            workspace.save(name)
            run = collect_results(workspace, name, rows, run_settings, f"the profile {profile}", base_settings)
            publish_artifacts(run, baseline_run)
            unpushed = push_outputs(workspace, rows) if shares and dvc.remote(root) else ""
        not_shared = push_reference(root, name, unpushed) if shares else not_pushed(rows)
        return completed_state(run, baseline_run, not_shared)
    return failure.state


def push_reference(root: Path, name: str, unpushed: str) -> list[str]:
    """Push the Git reference of an experiment to `origin`, after its outputs; return what is not pushed, and why.

    Args:
      root: the root of the repository.
      name: the experiment.
      unpushed: why its outputs could not be pushed; its reference is then not pushed either. Empty if they were.
    """
    if unpushed:
        return [f"{name}, neither its outputs ({unpushed}) nor its reference in Git"]
    try:
        dvc.Workspace(root).push_reference(name, "origin")
    except dvc.DvcError as error:
        return [f"the reference of {name} in Git ({error}); its outputs are in the store"]
    return []


def has_store(root: Path) -> bool:
    """Whether outputs are shared with other machines: through a DVC remote, or a folder that is DVC's cache."""
    return dvc.remote(root) is not None or bool(os.environ.get(dvc.STORE_VARIABLE))


def current_root() -> Path:
    """The root of the current repository, configured to use the store in `QUICKDRAW_STORE` if that is set."""
    root = dvc.find_root(Path.cwd())
    if store := os.environ.get(dvc.STORE_VARIABLE):
        dvc.configure_store(root, store)
    return root
