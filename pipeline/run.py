"""The command `run`: resolve the settings, run the stages that are out of date, save an experiment, print a summary.

The settings of the run are written to params.yaml, so that DVC's own commands continue with them. The run is saved as a
DVC experiment, which `dvc exp show` lists.
"""

import contextlib
import functools
import sys
import webbrowser
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline import dvc, summary
from pipeline.run_settings import (
    experiment_name,
    fingerprint,
    parse_override,
    profiles,
    resolve_source,
    update_params_file,
)
from pipeline.server import find_server
from pipeline.subprocesses.supervisor import exit_on_signals
from stages import params
from stages.common import files


def run(profile: str | None, overrides: Iterable[str], source: str | None, open_report: bool = False) -> None:
    """Run the stages that are out of date, save the run as an experiment, and print what it has reached.

    Args:
      profile: the name of a profile, applied to the committed params.yaml; None uses the current params.yaml.
      overrides: changes to single settings, each `key=value`, applied after the profile.
      source: a value of the setting, but a folder relative to the current one; or `auto`. None keeps the setting.
      open_report: whether to open the report in the browser.

    Raises:
      SettingsError: a setting cannot be used; nothing has run.
      DvcError: a stage failed, or this is not a Git repository of the project.
    """
    root = dvc.find_root(Path.cwd())
    with dvc.exclusive_run(root, functools.partial(print, flush=True)):
        current = params.read(root / "params.yaml")
        base = params.parse(dvc.read_committed(root, "params.yaml"), "params.yaml as committed") if profile else current
        changes = (profiles()[profile] if profile else {}) | dict(map(parse_override, overrides))
        if source is not None:
            changes["source"] = resolve_source(source, Path.cwd(), root)
        settings = base | changes
        params.check(settings, "the settings of this run" if profile or changes else "params.yaml")

        name = experiment_name(profile or "run", settings)
        server = find_server()
        with _restoring_settings(root):
            update_params_file(root / "params.yaml", current, settings)
            if server is None:
                _run_here(root, name)
            else:
                _run_as_flow(name)
        changed = fingerprint(current) if profile is None and settings != current else None
        lines = [*summary.describe_run(root), *summary.describe_changes(root, name, changed)]
        lines += summary.describe_checkout(root, name)

    print(f"\nsaved as the experiment {name}", *lines, sep="\n")
    for link in [(root / path).as_uri() for path in dvc.outputs(root) if path.endswith(".html")]:
        print(f"report: {link}", flush=True)
        if open_report:
            open_in_browser(link)


def open_in_browser(link: str) -> None:
    """Open a page in the browser. If that fails, print a line: the run is complete."""
    try:
        opened = webbrowser.open(link)
    except (webbrowser.Error, OSError):
        opened = False
    if not opened:
        print("No browser can be opened here: follow the link to the report yourself", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _restoring_settings(root: Path) -> Iterator[None]:
    """If the block fails before a stage has run, write params.yaml as it was before the block."""
    path, lock = root / "params.yaml", root / dvc.LOCK_FILE
    dvc.stages_in_lockfile(root)  # raises an error, if a person has to choose between two versions
    settings, stages = path.read_bytes(), lock.read_bytes() if lock.exists() else None
    try:
        yield
    except dvc.DvcError:
        if stages == (lock.read_bytes() if lock.exists() else None) and path.read_bytes() != settings:
            with files.atomic_file(path) as temporary:
                temporary.write_bytes(settings)
            print("params.yaml is as it was before this run", flush=True)
        raise
    except (KeyboardInterrupt, SystemExit):
        print("\ninterrupted; the same command goes on from here", file=sys.stderr, flush=True)
        raise


def _run_here(root: Path, name: str) -> None:
    """Run the stages in this process's checkout, and save the run as the experiment `name`."""
    workspace = dvc.Workspace(root)
    with exit_on_signals():
        workspace.reproduce(echo=True)
        workspace.save(name)


def _run_as_flow(name: str) -> None:
    """Run the stages as the Prefect flow `reproduce`, which saves the run as the experiment `name`."""
    from prefect.exceptions import TerminationSignal

    from pipeline.flows import flows

    try:
        state = flows.reproduce.with_options(flow_run_name=name)(save_as=name, return_state=True)
    except TerminationSignal as termination:
        raise SystemExit(128 + termination.signal) from None
    if not state.is_completed():
        raise dvc.DvcError(state.message or f"the run ended in the state {state.name}")
