"""TODO"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect import State, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.states import Completed, Failed

from pipeline import dvc
from pipeline.flows import artifacts
from pipeline.flows.artifacts import FinishedRun, SavedRun, StageRow
from pipeline.settings import fingerprint
from stages.common.errors import UserError, describe_os_error, did_you_mean

REPORTS_VARIABLE = "QUICKDRAW_REPORTS"  # the address of a report, with {name} or {hash} in it


def name_best(done: list[FinishedRun], table: list[dict[str, Any]], metric: str) -> str:
    """Which of the experiments is the best, where they have the figure by which that is said."""
    known = {figure for run in done for figure in run.figures}
    if metric not in known:
        return f"{len(done)} experiments, and none has the figure {metric!r}.{did_you_mean(metric, known)}"
    return f"{len(done)} experiments; the best is {table[0]['experiment']}"


def finish(
    workspace: dvc.Workspace, name: str, rows: list[StageRow], committed: Mapping[str, Any], settings: Mapping[str, Any]
) -> FinishedRun:
    pages = [path for path in dvc.outputs(workspace.root) if path.endswith(".html")]
    return FinishedRun(
        name=name,
        figures=artifacts.flatten(dvc.metrics(workspace.root)),
        rows=rows,
        differing={key: (committed.get(key), value) for key, value in settings.items() if committed.get(key) != value},
        report=(pages[0], dvc.output_md5(workspace.root, pages[0])) if pages else None,
    )


def find_baseline(root: Path, usual: Mapping[str, Any], named: str = "", apart_from: str = "") -> SavedRun | None:
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
    last_first = dvc.list_experiments(root)[::-1]
    if named:
        candidates = [one for one in last_first if one.name == named][:1] or [_as_experiment(root, named)]
    else:
        head = _as_experiment(root, "HEAD")
        this = (apart_from, head.baseline)
        candidates = [one for one in last_first if one.name.endswith(usually) and (one.name, one.baseline) != this]
        candidates.append(head)
    for one in candidates:
        if figures := artifacts.flatten(dvc.metrics(root, one.commit)):
            return SavedRun(f"{one.name} ({one.baseline[:7]})", figures)
    if named:
        raise dvc.DvcError(f"the baseline {named} has no figures here; `dvc exp show` lists what there is")
    return None


def _as_experiment(root: Path, revision: str) -> dvc.Experiment:
    """What a commit holds, as an experiment that was made from it."""
    commit = dvc.resolve_commit(root, revision)
    return dvc.Experiment(revision, baseline=commit, commit=commit)


def completed_state(run: FinishedRun, baseline: SavedRun | None, not_pushed: list[str]) -> State[Any]:
    message = artifacts.verdict(run, baseline)
    if not_pushed:
        message += f"; not pushed: {', '.join(not_pushed)}"
    return Completed(message=message, data=run)


def publish_artifacts(run: FinishedRun, baseline: SavedRun | None) -> None:
    """The run's artifacts but for those of its stages."""
    create_markdown_artifact(artifacts.summary(run, baseline), key="summary", description=run.name)
    if address := artifacts.link(os.environ.get(REPORTS_VARIABLE, ""), run):
        create_link_artifact(address, link_text=f"The report of {run.name}", key="report")


class _Failure:
    state: State[Any]


@contextlib.contextmanager
def failed_state_on_error() -> Iterator[_Failure]:
    """Turn an error that a person can act on into a failed state with its message, without a traceback."""
    failure = _Failure()
    try:
        yield failure
    except UserError as error:
        failure.state = Failed(message=str(error))
    except OSError as error:
        failure.state = Failed(message=describe_os_error(error))
