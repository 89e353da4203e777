"""Experiments side by side on one page: settings, measures, and the drawings of each class. Nothing is computed again.

What is read of each are files of its revision: params.yaml, the tables reports/metrics.csv (or reports/metrics.json of
a run from before there was one) and reports/classes.csv, and the sheets in reports/classes, whose first row is real and
the others generated.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import dvc
from stages import params
from stages.common import files
from stages.reporting import html
from stages.reporting.figures import Figure, ranking_cost
from stages.reporting.sheets import read_sheet

PAGE = Path("reports/compare.html")
WORKSPACE = "workspace"
SHEETS = "reports/classes"
MAX_GENERATED = 8

# The settings that must agree for figures to be held against each other: those that say which real drawings are held
# out, of what the judge says also the judge's own, and of what depends on the size of the sets also that.
DRAWINGS = ("mirror", "source", "num_drawings", "holdout", "classes")
JUDGE = ("judge_steps", "judge_seed")
SIZE = ("eval_samples_per_class",)
OF_SIZE = frozenset({"frechet_distance", "precision", "recall", "density", "coverage", "c2st_accuracy"})
BY_JUDGE = OF_SIZE | {"class_accuracy", "informedness", "mmd"}


@dataclass(frozen=True)
class ClassDrawings:
    """A class in one experiment: its real and its generated drawings, as data URIs, and its metrics."""

    name: str
    real: Sequence[str]
    generated: Sequence[str]
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class ExperimentReport:
    """What is compared of one revision.

    Attributes:
      name: as the person named it.
      settings: of params.yaml.
      figures: the measures over all classes.
      better: which is better of a measure: less, more, or alike (as near to its reference as can be).
      classes: by label.
    """

    name: str
    settings: Mapping[str, Any]
    figures: Mapping[str, Figure]
    better: Mapping[str, str]
    classes: Mapping[str, ClassDrawings]


def compare(revisions: Sequence[str]) -> None:
    """Write the page about some revisions, and print its path.

    Raises:
      DvcError: there are none, or one has no report.
    """
    root = dvc.find_root(Path.cwd())
    names = list(dict.fromkeys(revisions)) or [WORKSPACE, *dvc.experiment_commits(root, "HEAD")]
    experiments = [read(root, name) for name in names]
    path = root / PAGE
    with files.atomic_file(path) as temporary:
        temporary.write_text(page(experiments), encoding="utf-8")
    print(f"compared: {', '.join(names)}\ncomparison: {path}")


# --- Reading ---


def read(root: Path, name: str) -> ExperimentReport:
    """What is compared of a revision."""
    snapshot = dvc.Snapshot(root, None if name == WORKSPACE else name)
    settings = params.parse(snapshot.read("params.yaml").decode("utf-8"), f"params.yaml of {name}")
    sheets = {Path(path).name.partition("_")[0]: path for path in snapshot.list(SHEETS)}
    try:
        figures, better = overall(snapshot)
        by_class = {row["label"]: row for row in _table(snapshot, "reports/classes.csv")}
        classes = {}
        for label, path in sheets.items():
            row = by_class[label]
            real, generated = shown_drawings(snapshot.read(path))
            measured = {key: Figure(float(row[key])) for key in row if key in figures and row[key]}
            classes[label] = ClassDrawings(row["name"], real, generated, measured)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise dvc.DvcError(f"{name} has a report of another kind ({type(error).__name__}: {error})") from None
    return ExperimentReport(name, settings, figures, better, classes)


def overall(snapshot: dvc.Snapshot) -> tuple[dict[str, Figure], dict[str, str]]:
    """The measures over all classes, and which is better; of a run from before there was a table, the bare figures."""
    try:
        rows = [row for row in _table(snapshot, "reports/metrics.csv") if not row["label"]]
    except dvc.DvcError:
        bare = json.loads(snapshot.read("reports/metrics.json"))
        return {key: Figure(value) for key, value in bare.items() if isinstance(value, float)}, {}
    found = {row["metric"]: Figure(*(float(row[key] or "nan") for key in Figure._fields)) for row in rows}
    return found, {row["metric"]: row["better"] for row in rows}


def _table(snapshot: dvc.Snapshot, path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(snapshot.read(path).decode("utf-8"), newline="")))


def shown_drawings(sheet: bytes) -> tuple[list[str], list[str]]:
    """The real drawings of a sheet and the first of the generated ones, as data URIs."""
    real, generated = read_sheet(sheet)
    return list(map(html.data_uri, real)), list(map(html.data_uri, generated[:MAX_GENERATED]))


# --- The page ---


def differing(experiments: Sequence[ExperimentReport]) -> dict[str, list[str]]:
    """The settings that are not the same in all, as they are written, one value an experiment."""
    keys = dict.fromkeys(key for experiment in experiments for key in experiment.settings)
    found = {}
    for key in keys:
        values = [experiment.settings.get(key) for experiment in experiments]
        if any(value != values[0] for value in values):
            found[key] = [html.format_setting(value) for value in values]
    return found


def incomparable_settings(metric: str, differing: Collection[str]) -> list[str]:
    """The settings that differ and keep the figures of a measure from being held against each other."""
    needed = DRAWINGS + JUDGE * (metric in BY_JUDGE) + SIZE * (metric in OF_SIZE)
    return [key for key in needed if key in differing]


def best(metric: str, figures: Sequence[Figure | None], better: str | None) -> set[int]:
    """The places of the best of some figures; none where all are equal or it is not known which way is better."""
    if better is None:
        return set()
    costs = {
        place: ranking_cost(metric, better, found.value, found.reference)
        for place, found in enumerate(figures)
        if found
    }
    costs = {place: value for place, value in costs.items() if not math.isnan(value)}
    least = {place for place, value in costs.items() if value <= min(costs.values())}
    return least if len(least) < len(costs) else set()


def format_figure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def page(experiments: Sequence[ExperimentReport]) -> str:
    """The page as HTML."""
    here = Path(__file__).parent
    settings = differing(experiments)
    metrics = dict.fromkeys(key for experiment in experiments for key in experiment.figures)
    better = {key: way for experiment in experiments for key, way in experiment.better.items()}
    rows = []
    for key in metrics:
        values = [experiment.figures.get(key) for experiment in experiments]
        between = incomparable_settings(key, settings)
        rows.append((key, better.get(key), values, set() if between else best(key, values, better.get(key)), between))
    labels = dict.fromkeys(label for experiment in experiments for label in experiment.classes)
    return html.render(
        here / "compare.html",
        style=here / "compare.css",
        filters={
            "figure": format_figure,
            "words": lambda key: key.replace("_", " "),
        },
        experiments=experiments,
        settings=settings,
        metrics=rows,
        classes=[
            (label, [experiment.classes.get(label) for experiment in experiments])
            for label in sorted(labels, key=lambda label: (len(label), label))
        ],
    )
