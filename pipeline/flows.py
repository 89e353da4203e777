"""Prefect's flows over DVC's graph. DVC knows what must run and keeps it; Prefect knows when, where, and how it went.

reproduce   the stages of the workspace at hand, a task each
experiment  the same with other settings, in a workspace of its own, kept as a DVC experiment
sweep       many experiments, as many at once as there are slots

The graph is dvc.yaml's. Nothing here names a stage.
"""

import contextlib
import contextvars
import itertools
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import wait
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from pipeline import artifacts, dvc
from pipeline.artifacts import METRIC, Kept, Row, Run
from pipeline.forms import Grid, Profile, Settings
from pipeline.processes import Stopped
from pipeline.run import called, fingerprint, profiles, write
from pipeline.watch import watched
from stages import params
from stages.errors import SettingsError, did_you_mean

STORE = "QUICKDRAW_STORE"  # where runs are shared with other machines: a URL or an absolute folder
REPORTS = "QUICKDRAW_REPORTS"  # the address of a report, with {name} or {hash} in it
RETRY_SECONDS = [10.0, 60.0, 300.0]  # between attempts at a stage that uses the network
# The states of a stage that is not tried again: one that cannot use its settings, and one that took longer than it may.
REFUSED, OUT_OF_TIME = "Refused", "OutOfTime"

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
    with watched(), _messages() as failure, contextlib.ExitStack() as held:
        root = _root()
        held.enter_context(dvc.alone(root, get_run_logger().info))
        settings = params.read(root / "params.yaml")
        params.check(settings, "params.yaml")
        committed = params.parse(dvc.committed(root, "params.yaml"), "params.yaml as committed")
        workspace = dvc.Workspace(root)
        rows = _run_stages(workspace, settings, hours)
        name = keep or called("run", settings)
        if keep:
            workspace.save(keep)
        run = _finished(workspace, name, rows, committed, settings)
        baseline = _baseline(root, committed, apart_from=name)
        _leave(run, baseline)
        return _completed(run, baseline, _not_pushed(rows))
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
    with watched(), _messages() as failure:
        root = _root()
        committed = params.parse(dvc.committed(root, "params.yaml"), "params.yaml as committed")
        usual = committed | profiles()[profile]
        chosen = usual | settings.changes()
        params.check(chosen, "the settings of this experiment")
        name = name or called(profile, chosen)
        against = _baseline(root, usual, baseline, apart_from=name)
        if not dvc.is_committed(root, "params.yaml", "dvc.lock"):
            get_run_logger().warning("The changes here that are not committed are no part of the experiment")

        with dvc.temporary(root, name, _variables.get()) as workspace:
            write(workspace.root / "params.yaml", committed, chosen, get_run_logger().info)
            rows = _run_stages(workspace, chosen, hours)
            workspace.save(name)
            run = _finished(workspace, name, rows, committed, chosen)
        _leave(run, against)
        not_pushed = _not_pushed(rows)
        shared = dvc.remote(root) is not None or bool(os.environ.get(STORE))
        if push and shared and dvc.has_origin(root):
            try:
                dvc.Workspace(root).push_experiment(name, "origin")
                not_pushed = []  # it went with all that its stages have made
            except dvc.DvcError as error:
                not_pushed = [f"{name} ({error})"]
        return _completed(run, against, not_pushed)
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
    with watched(), _messages() as failure:
        root = _root()
        committed = params.parse(dvc.committed(root, "params.yaml"), "params.yaml as committed")
        usual = committed | profiles()[profile] | settings.changes()
        changes = {called(profile, usual | tried): tried for tried in combinations(grid, runs)}
        for name, tried in changes.items():
            params.check(usual | tried, f"the settings of {name}")

        def one(name: str) -> State[Any]:
            changed = settings.changes() | changes[name]
            start = experiment.with_options(flow_run_name=name)
            form = Settings.model_validate(changed)
            return start(profile, form, name=name, push=push, hours=hours, return_state=True)

        states = _side_by_side(one, list(changes), _slots(slots))
        done: list[Run] = [state.result() for state in states.values() if state.is_completed()]
        failed = {name: state.message or str(state.name) for name, state in states.items() if not state.is_completed()}
        table = artifacts.comparison(done, failed, changes, metric)
        create_table_artifact(table, key="sweep", description=f"The experiments of this sweep, by {metric}")
        if failed:
            return Failed(message=f"{len(failed)} of {len(states)} experiments failed: {', '.join(failed)}")
        return Completed(message=_best(done, table, metric), data=table)
    return failure.state


def _best(done: list[Run], table: list[dict[str, Any]], metric: str) -> str:
    """Which of the experiments is the best, where they have the figure by which that is said."""
    known = {figure for run in done for figure in run.figures}
    if metric not in known:
        return f"{len(done)} experiments, and none has the figure {metric!r}.{did_you_mean(metric, known)}"
    return f"{len(done)} experiments; the best is {table[0]['experiment']}"


def combinations(grid: Grid, runs: list[Settings]) -> list[dict[str, Any]]:
    """Each of the runs, or of one without changes, with every combination of the grid's values."""
    axes = grid.model_dump(mode="json", exclude_unset=True)
    return [
        run | dict(zip(axes, values, strict=True))
        for run in ([run.changes() for run in runs] or [{}])
        for values in itertools.product(*axes.values())
    ]


# --- The stages of one workspace ---


@task(cache_policy=NO_CACHE, persist_result=False)
def _run_stage(
    workspace: dvc.Workspace, stage: dvc.Stage, at_hand: bool, rows: Mapping[str, Row], hours: float
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
                row.not_pushed = _push(workspace, stage.name, patient=not _not_pushed(rows.values()))
        state: State[None] = Completed(name=outcome.value, message=stage.desc)
    except Stopped:
        state = Cancelled(message="ended with the run")
    except dvc.OutOfTime as error:
        state = Failed(name=OUT_OF_TIME, message=str(error))
    except dvc.DvcError as error:
        state = Failed(name=REFUSED if error.exit_code == SettingsError.exit_code else "Failed", message=str(error))
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


def _not_pushed(rows: Iterable[Row]) -> list[str]:
    """The stages whose outputs could not be sent to the store, each with the reason."""
    return [f"{row.stage} ({row.not_pushed})" for row in rows if row.not_pushed]


def _run_stages(workspace: dvc.Workspace, settings: Mapping[str, Any], hours: float) -> list[Row]:
    """Run the stages of a workspace, those that wait for nothing side by side.

    Leaves their table in Prefect, however they end. Raises `dvc.DvcError` with the line of each that failed.
    """
    graph = dvc.stages(workspace.root)
    at_hand = dvc.unchanged(workspace.root)
    rows = {stage.name: Row(stage.name, "Not reached", 0.0) for stage in graph}
    futures: dict[str, Any] = {}
    with _ended_with_the_flow(workspace):
        for stage in graph:
            network = _uses_network(stage, settings)
            futures[stage.name] = _run_stage.with_options(
                name=stage.name,
                task_run_name=stage.name,
                description=stage.desc,
                retries=len(RETRY_SECONDS) if network else 0,
                retry_delay_seconds=RETRY_SECONDS,
                retry_condition_fn=_may_be_tried_again,
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


def _may_be_tried_again(_task: Any, _run: Any, state: State[Any]) -> bool:
    return state.name not in (REFUSED, OUT_OF_TIME)


def _finished(
    workspace: dvc.Workspace, name: str, rows: list[Row], committed: Mapping[str, Any], settings: Mapping[str, Any]
) -> Run:
    pages = [path for path in dvc.outputs(workspace.root) if path.endswith(".html")]
    return Run(
        name=name,
        figures=artifacts.flat(dvc.metrics(workspace.root)),
        rows=rows,
        differing={key: (committed.get(key), value) for key, value in settings.items() if committed.get(key) != value},
        report=(pages[0], dvc.hash_of(workspace.root, pages[0])) if pages else None,
    )


def _baseline(root: Path, usual: Mapping[str, Any], named: str = "", apart_from: str = "") -> Kept | None:
    """The run to hold another against: the one that is named, else the last of the usual settings, else the commit's.

    It is called by its name and the commit that it was made from: a run of each night has the same name.

    Args:
      apart_from: the name of the run to be held against it; of that name, one of another commit is another run.

    Raises `dvc.DvcError` where there are no figures of the one that is named.
    """
    usually = f"-{fingerprint(usual)}"
    if dvc.has_origin(root):
        try:
            dvc.fetch_experiments(root, named or f"*{usually}")
        except dvc.DvcError as error:
            get_run_logger().warning("The experiments of origin are not seen: %s", error)
    last_first = dvc.kept(root)[::-1]
    if named:
        candidates = [one for one in last_first if one.name == named][:1] or [_as_kept(root, named)]
    else:
        head = _as_kept(root, "HEAD")
        this = (apart_from, head.baseline)
        candidates = [one for one in last_first if one.name.endswith(usually) and (one.name, one.baseline) != this]
        candidates.append(head)
    for one in candidates:
        if figures := artifacts.flat(dvc.metrics(root, one.commit)):
            return Kept(f"{one.name} ({one.baseline[:7]})", figures)
    if named:
        raise dvc.DvcError(f"the baseline {named} has no figures here; `dvc exp show` lists what there is")
    return None


def _as_kept(root: Path, revision: str) -> dvc.Experiment:
    """What a commit holds, as an experiment that was made from it."""
    commit = dvc.commit(root, revision)
    return dvc.Experiment(revision, baseline=commit, commit=commit)


def _completed(run: Run, baseline: Kept | None, not_pushed: list[str]) -> State[Any]:
    message = artifacts.verdict(run, baseline)
    if not_pushed:
        message += f"; not pushed: {', '.join(not_pushed)}"
    return Completed(message=message, data=run)


def _leave(run: Run, baseline: Kept | None) -> None:
    """The run's artifacts but for those of its stages."""
    create_markdown_artifact(artifacts.summary(run, baseline), key="summary", description=run.name)
    if address := artifacts.link(os.environ.get(REPORTS, ""), run):
        create_link_artifact(address, link_text=f"The report of {run.name}", key="report")


def _root() -> Path:
    """The root of the repository at hand, set to share its runs where this machine is told to."""
    root = dvc.find_root(Path.cwd())
    if store := os.environ.get(STORE):
        dvc.use_store(root, store)
    return root


# --- Side by side ---

_variables: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("variables", default={})  # noqa: B039


def _slots(wanted: int) -> list[Mapping[str, str]]:
    """For each experiment that may run at once, the environment that gives it its GPU."""
    devices = _gpus()
    slots = [{"CUDA_VISIBLE_DEVICES": device} for device in devices] or [{}]
    return [slots[place % len(slots)] for place in range(wanted or len(slots))]


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()]


def _side_by_side(
    one: Callable[[str], State[Any]], names: list[str], slots: list[Mapping[str, str]]
) -> dict[str, State[Any]]:
    """Call `one` with each name, as many at once as there are slots, each call in the slot that is free."""
    free: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)
    ended = threading.Event()

    def in_a_slot(name: str) -> State[Any]:
        if ended.is_set():
            return Cancelled(message="ended with the sweep")
        slot = free.get()
        _variables.set(slot)
        try:
            return one(name)
        finally:
            free.put(slot)

    with ThreadPoolExecutor(len(slots)) as executor:
        try:
            futures: dict[str, Future[State[Any]]] = {
                name: executor.submit(contextvars.copy_context().run, in_a_slot, name) for name in names
            }
            return {name: future.result() for name, future in futures.items()}
        except BaseException:
            ended.set()
            for workspace in list(_workspaces):
                workspace.stop()
            raise


# --- How a flow ends ---

_workspaces: set[dvc.Workspace] = set()


@contextlib.contextmanager
def _ended_with_the_flow(workspace: dvc.Workspace) -> Iterator[None]:
    """Where what is within is cut short, what runs in the workspace ends with it."""
    _workspaces.add(workspace)
    try:
        yield
    except BaseException:
        workspace.stop()
        raise
    finally:
        _workspaces.discard(workspace)


class _Failure:
    state: State[Any]


@contextlib.contextmanager
def _messages() -> Iterator[_Failure]:
    """Make what a person can put right into the message of a failed state, with no traceback."""
    failure = _Failure()
    try:
        yield failure
    except (SettingsError, dvc.DvcError, Stopped) as error:
        failure.state = Failed(message=str(error))
