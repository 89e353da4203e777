"""The outcome of a flow: the results of its run, the baseline it is compared with, and its final state."""

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import State, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.exceptions import FailedRun, ParameterTypeError, SignatureMismatchError
from prefect.states import Completed, Failed

from pipeline import compare, dvc
from pipeline.flows import artifacts
from pipeline.flows.artifacts import FinishedRun, SavedRun, StageRow
from pipeline.flows.run_stages import DIVERGED, REFUSED, StagesFailed
from pipeline.run_settings import fingerprint
from stages import params
from stages.common.errors import SettingsError, UserError, counted, describe_os_error, did_you_mean
from stages.reporting.metric_values import why_incomparable

REPORTS_VARIABLE = "QUICKDRAW_REPORTS"  # the URL of the reports, with {name} or {hash} for those of a run


def name_best(done: Sequence[SavedRun], table: list[dict[str, Any]], metric: str) -> str:
    """The message of a sweep: the number of experiments and the best of them, or why none is named.

    Args:
      done: the experiments that completed.
      table: their rows, the best first.
      metric: the metric that the table is sorted by.
    """
    known = {key for run in done for key in run.metrics}
    if metric not in known:
        return f"{counted(len(done), 'experiment')}; none has the metric {metric!r}.{did_you_mean(metric, known)}"
    if reasons := why_incomparable(metric, [run.metrics for run in done if metric in run.metrics]):
        return f"{len(done)} experiments; none is the best by {metric}, not comparable: {', '.join(reasons)}"
    return f"{counted(len(done), 'experiment')}; the best is {table[0]['experiment']}"


def read_metrics(root: Path, revision: str | None = None) -> dict[str, Any]:
    """The metrics of a run over all classes, and what they were measured with; empty if it has none.

    Without the table of all metrics, those that DVC shows. Raises `DvcError` if a file cannot be read.

    Args:
      root: the root of the repository.
      revision: a revision or an experiment; None for the workspace.
    """
    shown = artifacts.flatten(dvc.metrics(root, revision))
    try:
        table, _ = compare.overall(dvc.Snapshot(root, revision)) if shown else ({}, {})
    except (KeyError, ValueError):  # a table of an earlier version
        table = {}
    return {key: metric.value for key, metric in table.items() if not math.isnan(metric.value)} | shown


def collect_results(
    workspace: dvc.Workspace,
    name: str,
    rows: list[StageRow],
    settings: Mapping[str, Any],
    base: str,
    base_settings: Mapping[str, Any],
) -> FinishedRun:
    """The results of a run, read from its workspace.

    Args:
      workspace: where the stages ran.
      name: the name of the run.
      rows: its stages.
      settings: the settings of the run.
      base: what the settings are changes to, for people: `the committed settings` or `the profile quick`.
      base_settings: the settings before these changes.
    """
    reports = [path for path in dvc.outputs(workspace.root) if path.endswith(".html")]
    return FinishedRun(
        name=name,
        metrics=read_metrics(workspace.root),
        rows=rows,
        base=base,
        differing={
            key: (base_settings.get(key), value)
            for key, value in settings.items()
            if key not in base_settings or base_settings[key] != value
        },
        report=(reports[0], dvc.output_md5(workspace.root, reports[0])) if reports else None,
    )


def find_baseline(root: Path, base_settings: Mapping[str, Any], name: str = "", exclude: str = "") -> SavedRun | None:
    """The run to compare another run with.

    This is the run called `name`. Without a name, it is the newest experiment with the base settings that has metrics,
    and if there is none, the last commit itself if it has these settings. The returned name includes the commit that
    the baseline was made from, because nightly runs share a name.

    Args:
      root: the root of the repository.
      base_settings: the settings of the run that is compared, before its changes but on the same data.
      name: an experiment or a revision; empty to choose one.
      exclude: the name of the run that is compared. An experiment of this name from an earlier commit is not excluded.

    Returns:
      The baseline, or None if no candidate has metrics. If the metrics of a candidate cannot be read, the baseline is
      that candidate with the error: an older run must not take its place unnoticed.

    Raises:
      DvcError: `name` does not exist, has no metrics or cannot be read.
    """
    suffix = f"-{fingerprint(base_settings)}"
    if dvc.has_origin(root):
        try:
            dvc.fetch_experiments(root, name or f"*{suffix}")
        except dvc.DvcError as error:
            get_run_logger().warning("Cannot fetch experiments from origin: %s", error)
    newest_first = dvc.list_experiments(root)[::-1]
    if name:
        named = next((experiment for experiment in newest_first if experiment.name == name), None)
        baseline = _read_run(root, named or _as_experiment(root, name))
        if baseline.error:
            raise dvc.DvcError(f"the baseline {baseline.name}: {baseline.error}")
        if not baseline.metrics:
            raise dvc.DvcError(f"the baseline {name} has no metrics here; `dvc exp show` lists the experiments")
        return baseline
    head = _as_experiment(root, "HEAD")
    candidates = (
        _read_run(root, experiment)
        for experiment in [*newest_first, head]
        if (experiment.name, experiment.baseline) != (exclude, head.baseline)
        and _has_settings(root, experiment, base_settings)
    )
    return next((candidate for candidate in candidates if candidate.metrics or candidate.error), None)


def _has_settings(root: Path, experiment: dvc.Experiment, settings: Mapping[str, Any]) -> bool:
    """Whether an experiment has exactly these settings. One from before the project, or of another one, has not."""
    try:
        saved = params.parse(dvc.read_committed(root, "params.yaml", experiment.commit), "params.yaml")
    except UserError:
        return False
    return bool(saved == settings)


def _read_run(root: Path, experiment: dvc.Experiment) -> SavedRun:
    name = f"{experiment.name} ({experiment.baseline[:7]})"
    try:
        return SavedRun(name, read_metrics(root, experiment.commit))
    except dvc.DvcError as error:
        return SavedRun(name, {}, error=str(error))


def _as_experiment(root: Path, revision: str) -> dvc.Experiment:
    """A commit as an `Experiment` made from itself."""
    commit = dvc.resolve_commit(root, revision)
    return dvc.Experiment(revision, baseline=commit, commit=commit)


def completed_state(run: FinishedRun, baseline: SavedRun | None, not_pushed: list[str]) -> State[Any]:
    """The state of a completed run: its verdict, and what could not be pushed."""
    message = artifacts.verdict(run, baseline)
    if not_pushed:
        message += f"; not pushed: {', '.join(not_pushed)}"
    return Completed(message=message, data=run)


def publish_artifacts(run: FinishedRun, baseline: SavedRun | None) -> None:
    """Publish the metrics and the summary of a run in Prefect, and a link to its report if `QUICKDRAW_REPORTS` is set.

    A sweep reads the metrics of the experiments that ran on other machines.
    """
    create_table_artifact(artifacts.metrics_table(run), key=artifacts.METRICS_KEY, description=run.name)
    create_markdown_artifact(artifacts.summary(run, baseline), key="summary", description=run.name)
    if address := artifacts.link(os.environ.get(REPORTS_VARIABLE, ""), run):
        create_link_artifact(address, link_text=f"The report of {run.name}", key="report")


class _InOneLine(logging.Filter):
    """Logs the end of a failed run as one line: its message is for a person. A defect keeps its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, FailedRun | ParameterTypeError | SignatureMismatchError):
            record.msg, record.args = f"{record.getMessage()}: {error}", ()
            record.exc_info = record.exc_text = None
        return True


logging.getLogger("prefect.engine").addFilter(_InOneLine())


class _Failure:
    """The failed state, set if the block raises."""

    state: State[Any]


@contextlib.contextmanager
def failed_state_on_error() -> Iterator[_Failure]:
    """Turn a `UserError` or an `OSError` of the block into a failed state with its message, without a traceback."""
    failure = _Failure()
    try:
        yield failure
    except UserError as error:
        failure.state = Failed(name=_state_name(error), message=str(error))
    except OSError as error:
        failure.state = Failed(message=describe_os_error(error))


def _state_name(error: UserError) -> str:
    """The name of the failed state: `Refused` or `Diverged` if the settings are why, else `Failed`."""
    if isinstance(error, SettingsError):
        return REFUSED
    if isinstance(error, StagesFailed) and error.state_name in (REFUSED, DIVERGED):
        return error.state_name
    return "Failed"
