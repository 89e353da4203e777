"""Compare experiments on one page: the drawings of each class, metrics and settings. Nothing is computed again.

These files of each revision are read: params.yaml, reports/metrics.csv (reports/metrics.json for older runs without
it), what they were measured with in reports/metrics.json, reports/classes.csv, and the sheets in reports/classes, whose
first row is real and whose other rows are generated.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import dvc
from stages import params
from stages.common import files
from stages.reporting import html
from stages.reporting.metric_values import (
    COMPLETED_DRAWINGS,
    MAIN_METRICS,
    MEASURED_WITH,
    MetricValue,
    format_interval,
    format_value,
    metric_title,
    ranking_cost,
    why_incomparable,
)
from stages.reporting.sentences import HEADLINE_METRICS, UNKNOWN, describe_change
from stages.reporting.sheets import read_sheet

PAGE = Path("reports/compare.html")
WORKSPACE = "workspace"
SHEETS = "reports/classes"
METRICS_TABLE = "reports/metrics.csv"
CLASSES = "reports/classes.csv"
METRICS_SUMMARY = "reports/metrics.json"
MAX_GENERATED = 8
MAX_SETTINGS = 4  # settings that differ, in a line
MAX_LENGTH = 30  # characters of a value in a line


@dataclass(frozen=True)
class ClassDrawings:
    """A class in one experiment: its real and its generated drawings, as data URIs, and its metrics."""

    name: str
    real: Sequence[str]
    generated: Sequence[str]
    metrics: Mapping[str, MetricValue]


@dataclass(frozen=True)
class ExperimentReport:
    """The settings, metrics and drawings of one revision.

    Attributes:
      name: the revision, as given by the user.
      settings: the settings in params.yaml.
      metrics: the value of each metric over all classes.
      better: which values of a metric are better: less, more, or alike (closer to the reference).
      classes: the classes, by label.
      measured_with: what the metrics were measured with: fingerprints of the held-out drawings and of the judge, and
        the number of generated drawings.
    """

    name: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, MetricValue]
    better: Mapping[str, str]
    classes: Mapping[str, ClassDrawings]
    measured_with: Mapping[str, Any]


def compare(revisions: Sequence[str]) -> None:
    """Write a page that compares revisions, and print its path.

    Args:
      revisions: Git revisions or names of experiments. If empty, the workspace and all experiments of the commit HEAD;
        without the workspace if it holds one of them.

    Raises:
      DvcError: a revision does not exist, or its report cannot be read.
    """
    root = dvc.find_root(Path.cwd())
    names = list(dict.fromkeys(revisions)) or [WORKSPACE, *dvc.experiment_commits(root, "HEAD")]
    experiments = [read(root, name) for name in names]
    if not revisions:
        experiments = without_duplicate(experiments)
    path = root / PAGE
    with files.atomic_file(path) as temporary:
        temporary.write_text(page(experiments), encoding="utf-8")
    print(f"compared: {', '.join(experiment.name for experiment in experiments)}\ncomparison: {path}")
    for reason, metrics in incomparable_metrics(experiments).items():
        print(f"not comparable, because of {reason}: {', '.join(metrics)}")


# --- Reading the experiments ---


def read(root: Path, name: str) -> ExperimentReport:
    """Read the settings, metrics and drawings of a revision."""
    snapshot = dvc.Snapshot(root, None if name == WORKSPACE else name)
    settings = params.parse(snapshot.read_text("params.yaml"), f"params.yaml of {name}")
    sheets = {Path(path).name.partition("_")[0]: path for path in snapshot.list(SHEETS)}
    try:
        metrics, better = overall(snapshot)
        saved = json.loads(snapshot.read(METRICS_SUMMARY))
        measured_with = {key: saved[key] for key in MEASURED_WITH if key in saved}
        rows = {row["label"]: row for row in _rows(snapshot.read_text(CLASSES))}
        classes = {}
        for label, path in sheets.items():
            row = rows[label]
            real, generated = shown_drawings(snapshot.read(path))
            class_metrics = {key: MetricValue(float(row[key])) for key in row if key in metrics and row[key]}
            classes[label] = ClassDrawings(row["name"], real, generated, class_metrics)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise dvc.DvcError(f"the report of {name} cannot be read ({type(error).__name__}: {error})") from None
    return ExperimentReport(name, settings, metrics, better, classes, measured_with)


def overall(snapshot: dvc.Snapshot) -> tuple[dict[str, MetricValue], dict[str, str]]:
    """The metrics over all classes, and which values of each are better.

    An older run without reports/metrics.csv has only the values in reports/metrics.json.
    """
    try:
        return parse_metrics(snapshot.read_text(METRICS_TABLE))
    except dvc.NoSuchFile:
        values = json.loads(snapshot.read(METRICS_SUMMARY))
        return {key: MetricValue(value) for key, value in values.items() if isinstance(value, float)}, {}


def parse_metrics(table: str) -> tuple[dict[str, MetricValue], dict[str, str]]:
    """The metrics over all classes in a metrics.csv, and which values of each are better."""
    rows = [row for row in _rows(table) if not row["label"]]
    metrics = {row["metric"]: MetricValue(*(float(row[key] or "nan") for key in MetricValue._fields)) for row in rows}
    return metrics, {row["metric"]: row["better"] for row in rows}


def _rows(table: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table, newline="")))


def shown_drawings(sheet: bytes) -> tuple[list[str], list[str]]:
    """The real drawings of a sheet and its first MAX_GENERATED generated ones, as data URIs."""
    real, generated = read_sheet(sheet)
    return list(map(html.data_uri, real)), list(map(html.data_uri, generated[:MAX_GENERATED]))


# --- The page ---


def without_duplicate(experiments: Sequence[ExperimentReport]) -> list[ExperimentReport]:
    """The workspace, which comes first, and experiments; without the workspace if its run is one of them."""
    workspace, *others = experiments

    def shown(run: ExperimentReport) -> tuple[object, ...]:
        drawings = {label: (entry.real, entry.generated) for label, entry in run.classes.items()}
        return run.settings, run.measured_with, drawings

    return others if any(shown(workspace) == shown(run) for run in others) else [workspace, *others]


def differing_settings(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The settings that differ between runs, with one value per run as text."""
    differing = {}
    for key in dict.fromkeys(key for settings in runs for key in settings):
        values = [settings.get(key) for settings in runs]
        if any(value != values[0] for value in values):
            differing[key] = [html.format_setting(value) for value in values]
    return differing


def describe_differences(differing: Mapping[str, Sequence[str]]) -> str:
    """The settings that differ, in a line such as `num_resnet 1 → 3, seed 0 → 1`; empty if none differs."""
    changes = []
    for key, values in differing.items():
        separator = " → " if len(values) == 2 else ", "
        shown = separator.join(values if len(values) == 2 else dict.fromkeys(values))
        changes.append(f"{key} {shown}" if max(map(len, values)) <= MAX_LENGTH else key)
    more = len(changes) - MAX_SETTINGS
    return ", ".join(changes[:MAX_SETTINGS] + [f"and {more} more"] * (more > 0))


def run_labels(experiments: Sequence[ExperimentReport], differing: Mapping[str, Sequence[str]]) -> list[str]:
    """A label for each run: its values of the first settings that differ, or its name if these are long or alike."""
    short = [key for key, values in differing.items() if max(map(len, values)) <= MAX_LENGTH]
    for number in (1, 2):
        labels = [", ".join(f"{key} {differing[key][i]}" for key in short[:number]) for i in range(len(experiments))]
        if len(set(labels)) == len(labels) > 1:
            return labels
    return [experiment.name for experiment in experiments]


def incomparable_metrics(experiments: Sequence[ExperimentReport]) -> dict[str, list[str]]:
    """The metrics whose values cannot be compared, by the first reason."""
    metrics: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for experiment in experiments for key in experiment.metrics):
        if reasons := why_incomparable(key, [experiment.measured_with for experiment in experiments]):
            metrics.setdefault(reasons[0], []).append(key)
    return metrics


def best(metric: str, values: Sequence[MetricValue | None], better: str | None) -> set[int]:
    """The indices of the best values, if their intervals are apart from those of all others.

    Empty if all values are equal, if an interval or which values are better is unknown, or if intervals overlap: then
    another seed may reverse the order.
    """
    if better is None:
        return set()
    costs = {}  # of the value, the least and the greatest within its interval
    for index, value in enumerate(values):
        if value and not math.isnan(value.value):
            ends = [ranking_cost(metric, better, end, value.reference) for end in (value.low, value.high)]
            within = [0.0] if better == "alike" and value.low <= value.reference <= value.high else ends
            costs[index] = (ranking_cost(metric, better, value.value, value.reference), min(within), max(ends))
    lowest = {index for index, (cost, _, _) in costs.items() if cost <= min(cost for cost, _, _ in costs.values())}
    others = costs.keys() - lowest
    apart = all(costs[index][2] < costs[other][1] for index in lowest for other in others)
    return lowest if others and apart else set()


def describe_conditions(experiments: Sequence[ExperimentReport]) -> list[str]:
    """What all runs were measured with alike, and what differs or is unknown, as in `the same judges`."""
    sentences = []
    for key, name in MEASURED_WITH.items():
        values = [experiment.measured_with.get(key) for experiment in experiments]
        if key == COMPLETED_DRAWINGS and not any(values):  # no run has completed drawings
            continue
        same = all(value == values[0] for value in values)
        sentences.append(f"{'unknown' if None in values else 'the same' if same else 'different'} {name}")
    return sentences


def page(experiments: Sequence[ExperimentReport]) -> str:
    """The page as HTML."""
    here = Path(__file__).parent
    names = [experiment.name for experiment in experiments]
    settings = differing_settings([experiment.settings for experiment in experiments])
    metrics = dict.fromkeys(key for experiment in experiments for key in experiment.metrics)
    better = {key: value for experiment in experiments for key, value in experiment.better.items()}
    rows = {}
    for key in metrics:
        values = [experiment.metrics.get(key) for experiment in experiments]
        incomparable = why_incomparable(key, [experiment.measured_with for experiment in experiments])
        marked = set() if incomparable else best(key, values, better.get(key))
        rows[key] = (better.get(key), values, marked, incomparable)
    labels = dict.fromkeys(label for experiment in experiments for label in experiment.classes)
    return html.render(
        here / "compare.html",
        style=here / "compare.css",
        filters={"format_interval": format_interval, "format_value": format_value, "metric_title": metric_title},
        heading=describe_differences(settings) or (names[0] if len(names) == 1 else "The same settings"),
        changes=describe_change_of(experiments) if len(experiments) == 2 else [],
        experiments=experiments,
        labels=run_labels(experiments, settings),
        settings=settings,
        descriptions={key: field.description for key, field in params.Params.model_fields.items()},
        metrics=rows,
        main_metrics=[key for key in MAIN_METRICS if key in rows],
        other_metrics=[key for key in rows if key not in MAIN_METRICS],
        measured_with={
            key: name
            for key, name in MEASURED_WITH.items()
            if any(key in experiment.measured_with for experiment in experiments)
        },
        conditions=describe_conditions(experiments),
        classes=[
            (label, [experiment.classes.get(label) for experiment in experiments])
            for label in sorted(labels, key=lambda label: (len(label), label))
        ],
    )


def describe_change_of(experiments: Sequence[ExperimentReport]) -> list[str]:
    """How the headline metrics have changed from one run to another, as the terminal says it."""
    before, after = experiments
    sentences = []
    for metric in HEADLINE_METRICS:
        reasons = why_incomparable(metric, [before.measured_with, after.measured_with])
        values = [run.metrics.get(metric, UNKNOWN) for run in experiments]
        sentences.append(describe_change(metric, values[0], values[1], reasons))
    return [sentence for sentence in sentences if sentence]
