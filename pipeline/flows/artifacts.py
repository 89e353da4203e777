"""The artifacts that a run publishes in Prefect (metrics, summary, comparison, link, progress), and its verdict."""

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import UUID

from stages.reporting.metric_values import MEASURED_WITH, why_incomparable

if TYPE_CHECKING:
    from typing import TypeGuard

METRIC = "heldout_bits_per_dim"  # the metric that runs are compared by; lower is better
METRICS_KEY = "metrics"  # of the artifact with the metrics of a run
EQUAL_WITHIN = 0.0005  # smaller differences do not show in three decimals

PERCENT = re.compile(r"\((\d+)%\)")


@dataclass
class StageRow:
    """The row of a stage in the artifact `stages`.

    Attributes:
      stage: the name of the stage.
      state: the name of its final state.
      seconds: how long it took.
      not_pushed: why its outputs could not be pushed to the store; empty if they were, or there is no store.
    """

    stage: str
    state: str
    seconds: float
    not_pushed: str = ""


@dataclass(frozen=True)
class SavedRun:
    """A saved run.

    Attributes:
      name: its name for people.
      metrics: the values of its metrics by name; nested ones are named `group.name`.
      error: why its metrics cannot be read; empty if they can.
    """

    name: str
    metrics: Mapping[str, Any]
    error: str = ""


@dataclass(frozen=True)
class FinishedRun(SavedRun):
    """A run that has just finished.

    Attributes:
      rows: its stages.
      base: the settings that a person has changed for this run: the committed ones, or those of a profile.
      differing: the settings that differ from these, as (value there, value of this run).
      report: the path and the MD5 of its report, or None if it has none.
    """

    rows: Sequence[StageRow] = ()
    base: str = "the committed settings"
    differing: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    report: tuple[str, str | None] | None = None


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as a flat one: `{"group": {"name": 1}}` becomes `{"group.name": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def verdict(run: FinishedRun, baseline: SavedRun | None, metric: str = METRIC) -> str:
    """One sentence: whether a run is better or worse than the baseline and by how much, or why there is no verdict."""
    current = run.metrics.get(metric)
    if not _is_number(current):
        return f"no verdict: the run has no {metric}"
    if baseline is None:
        return f"no verdict on {metric} {_format(current)}: no run of {run.base} on these drawings is saved here"
    if baseline.error:
        return f"no verdict: {baseline.name}: {baseline.error}"
    previous = baseline.metrics.get(metric)
    if not _is_number(previous):
        return f"no verdict: {baseline.name} has no {metric}"
    if reasons := why_incomparable(metric, [run.metrics, baseline.metrics]):
        return f"no verdict on {metric} {_format(current)}: not comparable with {baseline.name}: {', '.join(reasons)}"
    change = current - previous
    if abs(change) < EQUAL_WITHIN:
        return f"equal to {baseline.name}: {metric} {_format(current)}"
    word = "better" if change < 0 else "worse"
    return f"{word} than {baseline.name} by {_format(abs(change))}: {metric} {_format(previous)} → {_format(current)}"


def summary(run: FinishedRun, baseline: SavedRun | None) -> str:
    """A run in Markdown: its verdict, changed settings, metrics and report.

    The change of a metric that is not comparable with the baseline's is a dash, and a sentence below says why.
    """
    lines = [f"# {run.name}", "", f"**{_escape(verdict(run, baseline))}**", "", f"## Changes to {run.base}", ""]
    if run.differing:
        lines += _table(("setting", "before", "this run"), ((key, *values) for key, values in run.differing.items()))
    else:
        lines.append("None.")
    lines += ["", "## Metrics", ""]
    previous = baseline.metrics if baseline else {}
    metrics = [key for key in run.metrics if key in previous and key not in MEASURED_WITH]
    reasons = {key: why_incomparable(key, [run.metrics, previous]) for key in metrics}
    lines += _table(
        ("metric", baseline.name if baseline else "baseline", "this run", "change"),
        (
            (
                key,
                _format(previous.get(key, "")),
                _format(value),
                "–" if reasons.get(key) else _change(previous.get(key), value),
            )
            for key, value in run.metrics.items()
        ),
    )
    if baseline and any(reasons.values()):
        different = ", ".join(dict.fromkeys(itertools.chain(*reasons.values())))
        lines += ["", f"–: not comparable with {_escape(baseline.name)}: {different}"]
    if run.report:
        path, digest = run.report
        lines += ["", "## Report", "", f"`{path}`, MD5 `{digest}`"]
    return "\n".join(lines) + "\n"


def comparison(
    runs: Iterable[SavedRun], failed: Mapping[str, str], changes: Mapping[str, Mapping[str, Any]], metric: str = METRIC
) -> list[dict[str, Any]]:
    """A row for each experiment of a sweep: the best first, the failed ones last.

    Args:
      runs: the experiments that completed.
      failed: why each of the others failed, by name.
      changes: the settings that the sweep varied, by name of the experiment.
      metric: the metric to sort by; the lowest value is the best.
    """
    best_first = sorted(runs, key=lambda run: _sort_key(run.metrics.get(metric)))
    rows: list[dict[str, Any]] = [
        {
            "experiment": run.name,
            metric: run.metrics.get(metric),
            **_cells(changes.get(run.name, {})),
            "state": "done",
        }
        for run in best_first
    ]
    return rows + [
        {"experiment": name, metric: None, **_cells(changes.get(name, {})), "state": reason}
        for name, reason in failed.items()
    ]


def metrics_table(run: SavedRun) -> list[dict[str, Any]]:
    """The metrics of a run, one in each row."""
    return [{"metric": key, "value": value} for key, value in run.metrics.items()]


def parse_metrics_table(data: str) -> dict[str, Any]:
    """The metrics in the data of an artifact of `metrics_table`."""
    return {row["metric"]: row["value"] for row in json.loads(data) if row["value"] is not None}


def link(template: str, run: FinishedRun) -> str | None:
    """The URL of a run's report, from a template with `{name}` or `{hash}`; None without a template or a report."""
    if not template or run.report is None:
        return None
    return template.replace("{name}", quote(run.name)).replace("{hash}", run.report[1] or "")


class ProgressArtifact:
    """The progress bar of a stage in Prefect, read from the lines it prints: `training: 12 of 80 steps (15%), …`."""

    def __init__(self, stage: str) -> None:
        self._key = key(f"{stage}-progress")
        self._artifact: UUID | None = None

    def add(self, line: str) -> None:
        """Update the bar if the line contains a percentage; the first one creates the bar."""
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        match = PERCENT.search(line)
        if not match:
            return
        percentage = float(match[1])
        if self._artifact is None:
            self._artifact = create_progress_artifact(percentage, key=self._key, description=line)  # type: ignore[assignment]
        else:
            update_progress_artifact(self._artifact, percentage, description=line)


def key(text: str) -> str:
    """A text as an artifact key of Prefect: lowercase letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _is_number(value: object) -> "TypeGuard[float]":
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sort_key(value: object) -> float:
    return float(value) if _is_number(value) else float("inf")


def _change(previous: Any, current: Any) -> str:
    return f"{current - previous:+.4g}" if _is_number(previous) and _is_number(current) else ""


def _format(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cells(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if _is_number(value) else str(value) for name, value in values.items()}


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [f"| {' | '.join(map(_escape, header))} |", f"|{'---|' * len(header)}"]
    return lines + [f"| {' | '.join(_escape(_format(cell)) for cell in row)} |" for row in rows]


def _escape(text: str) -> str:
    """Escape Markdown. An underscore within a word stays, so that a URL remains one."""
    return re.sub(r"[|*`<>\[\]\\]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split()))
