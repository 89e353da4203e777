"""One run of the graph, from the words of a person to the report: settings, `dvc repro`, an experiment, the figures.

The settings of the run are left in params.yaml, so that DVC's own commands go on from them, and the run is kept as a
DVC experiment, which `dvc exp show` lists beside the others.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

from pipeline import dvc
from pipeline.server import find_server
from pipeline.settings import experiment_name, parse_override, profiles, resolve_source, update_params_file
from pipeline.subprocesses.signals import exit_on_signals
from stages import params


def run(profile: str | None, overrides: Iterable[str], mirror: str | None) -> None:
    """Run the stages that need to run. Without a profile the settings are those of params.yaml as it stands."""
    root = dvc.find_root(Path.cwd())
    with dvc.exclusive_run(root, functools.partial(print, flush=True)):
        current = params.read(root / "params.yaml")
        base = params.parse(dvc.read_committed(root, "params.yaml"), "params.yaml as committed") if profile else current
        changes = (profiles()[profile] if profile else {}) | dict(map(parse_override, overrides))
        if mirror is not None:
            changes["mirror"] = resolve_source(mirror, Path.cwd(), root)
        settings = base | changes
        params.check(settings, "the settings of this run" if profile or changes else "params.yaml")

        update_params_file(root / "params.yaml", current, settings)
        name = experiment_name(profile or "run", settings)
        server = find_server()
        if server is None:
            workspace = dvc.Workspace(root)
            with exit_on_signals():
                workspace.reproduce(echo=True)
                workspace.save(name)
        else:
            _run_as_flow(name)
        figures = dvc.metrics(root)

    print(f"\nkept as the experiment {name}")
    for metric, value in figures.items():
        print(f"{metric}: {value:.4g}" if isinstance(value, float) else f"{metric}: {value}")
    for path in dvc.outputs(root):
        if path.endswith(".html"):
            print(f"report: {root / path}")


def _run_as_flow(name: str) -> None:
    """Run the stages as the flow `reproduce`, and keep the run as an experiment."""
    from prefect.exceptions import TerminationSignal

    from pipeline.flows import flows

    try:
        state = flows.reproduce.with_options(flow_run_name=name)(keep=name, return_state=True)
    except TerminationSignal as signalled:
        raise SystemExit(128 + signalled.signal) from None
    if not state.is_completed():
        raise dvc.DvcError(state.message or f"the run ended in the state {state.name}")
