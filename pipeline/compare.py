"""Experiments side by side on one page: settings, measures, and the drawings of each class. Nothing is computed again.

What is read of each are files of its revision: params.yaml, the tables reports/measures.csv (or reports/metrics.json of
a run from before there was one) and reports/classes.csv, and the sheets in reports/classes, whose first row is real and
the others generated.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import dvc
from stages import pages, params
from stages.errors import one_line

PAGE = Path("reports/compare.html")
WORKSPACE = "workspace"
SHEETS = "reports/classes"
SIDE, SCALE = 28, 10  # a sheet shows a drawing's pixels so many times as large
SHOWN = 8
MOST_PIXELS = 50_000_000  # of a sheet, which has 1.3 million; a picture may claim far more than it has bytes

# The settings that must agree for figures to be held against each other: those that say which real drawings are held
# out, of what the judge says also the judge's own, and of what depends on the size of the sets also that.
DRAWINGS = ("mirror", "source", "num_drawings", "holdout", "classes")
JUDGE = ("judge_steps", "judge_seed")
SIZE = ("eval_samples_per_class",)
OF_SIZE = frozenset({"frechet_distance", "precision", "recall", "density", "coverage", "told_apart"})
BY_JUDGE = OF_SIZE | {"fidelity", "informedness", "kernel_distance"}


class Figure(NamedTuple):
    """A measure's value, the ends of its interval and its reference; NaN for what is not known."""

    value: float
    low: float = math.nan
    high: float = math.nan
    reference: float = math.nan


@dataclass(frozen=True)
class Drawn:
    """A class in one experiment: its real and its generated drawings as addresses of pictures, and its measures."""

    name: str
    real: Sequence[str]
    generated: Sequence[str]
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Experiment:
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
    classes: Mapping[str, Drawn]


def compare(revisions: Sequence[str]) -> None:
    """Write the page about some revisions, and print its path.

    Raises:
      DvcError: there are none, or one has no report.
    """
    root = dvc.find_root(Path.cwd())
    names = list(dict.fromkeys(revisions)) or [WORKSPACE, *dvc.experiments(root, "HEAD")]
    experiments = [read(root, name) for name in names]
    path = root / PAGE
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        temporary.write_text(page(experiments), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"compared: {', '.join(names)}\ncomparison: {path}")


# --- Reading ---


def read(root: Path, name: str) -> Experiment:
    """What is compared of a revision."""
    snapshot = dvc.Snapshot(root, None if name == WORKSPACE else name)
    settings = params.parse(snapshot.read("params.yaml").decode("utf-8"), f"params.yaml of {name}")
    sheets = {Path(path).name.partition("_")[0]: path for path in snapshot.list(SHEETS)}
    try:
        figures, better = in_all(snapshot)
        by_class = {row["label"]: row for row in _table(snapshot, "reports/classes.csv")}
        classes = {}
        for label, path in sheets.items():
            row = by_class[label]
            real, generated = drawings(snapshot.read(path))
            measured = {key: Figure(float(row[key])) for key in row if key in figures and row[key]}
            classes[label] = Drawn(row["name"], real, generated, measured)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise dvc.DvcError(f"{name} has a report of another kind ({type(error).__name__}: {error})") from None
    return Experiment(name, settings, figures, better, classes)


def in_all(snapshot: dvc.Snapshot) -> tuple[dict[str, Figure], dict[str, str]]:
    """The measures over all classes, and which is better; of a run from before there was a table, the bare figures."""
    try:
        rows = [row for row in _table(snapshot, "reports/measures.csv") if not row["label"]]
    except dvc.DvcError:
        bare = json.loads(snapshot.read("reports/metrics.json"))
        return {key: Figure(value) for key, value in bare.items() if isinstance(value, float)}, {}
    found = {row["measure"]: Figure(*(float(row[key] or "nan") for key in Figure._fields)) for row in rows}
    return found, {row["measure"]: row["better"] for row in rows}


def _table(snapshot: dvc.Snapshot, path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(snapshot.read(path).decode("utf-8"), newline="")))


def drawings(sheet: bytes) -> tuple[list[str], list[str]]:
    """The drawings of the first row of a sheet and those of the others, as addresses of pictures."""
    import numpy as np
    from PIL import Image

    width, height = (int.from_bytes(sheet[at : at + 4], "big") for at in (16, 20))  # of a PNG: before it is unpacked
    if width * height > MOST_PIXELS:
        raise ValueError(f"a sheet of {width} × {height} pixels")
    try:
        with Image.open(io.BytesIO(sheet), formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("L"))[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # as Pillow calls a chunk that is none
        raise ValueError(f"a sheet that is no picture: {one_line(error)}") from None
    if min(pixels.shape) < SIDE or pixels.shape[0] % SIDE or pixels.shape[1] % SIDE:
        raise ValueError(f"a sheet of {pixels.shape} pixels")
    rows = pixels.reshape(pixels.shape[0] // SIDE, SIDE, -1, SIDE).swapaxes(1, 2)

    real, generated = list(rows[0]), [drawing for row in rows[1:] for drawing in row][:SHOWN]
    # There may be fewer real drawings than generated ones: the places left are black.
    while len(real) > 1 and not real[-1].any():
        real.pop()
    return [pages.data_uri(drawing) for drawing in real], [pages.data_uri(drawing) for drawing in generated]


# --- The page ---


def differing(experiments: Sequence[Experiment]) -> dict[str, list[str]]:
    """The settings that are not the same in all, as they are written, one value an experiment."""
    keys = dict.fromkeys(key for experiment in experiments for key in experiment.settings)
    found = {}
    for key in keys:
        values = [experiment.settings.get(key) for experiment in experiments]
        if any(value != values[0] for value in values):
            found[key] = [pages.as_written(value) for value in values]
    return found


def apart(measure: str, differing: Collection[str]) -> list[str]:
    """The settings that differ and keep the figures of a measure from being held against each other."""
    needed = DRAWINGS + JUDGE * (measure in BY_JUDGE) + SIZE * (measure in OF_SIZE)
    return [key for key in needed if key in differing]


def best(measure: str, figures: Sequence[Figure | None], better: str | None) -> set[int]:
    """The places of the best of some figures; none where all are equal or it is not known which way is better."""
    if better is None:
        return set()
    costs = {
        place: pages.cost(measure, better, found.value, found.reference) for place, found in enumerate(figures) if found
    }
    costs = {place: value for place, value in costs.items() if not math.isnan(value)}
    least = {place for place, value in costs.items() if value <= min(costs.values())}
    return least if len(least) < len(costs) else set()


def figure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def page(experiments: Sequence[Experiment]) -> str:
    """The page as HTML, which asks for nothing else."""
    from markupsafe import Markup

    here = Path(__file__).parent
    style = (here / "compare.css").read_text(encoding="utf-8")
    environment = pages.environment(here)
    environment.filters |= {"figure": figure, "words": lambda key: key.replace("_", " ")}
    settings = differing(experiments)
    measures = dict.fromkeys(key for experiment in experiments for key in experiment.figures)
    better = {key: way for experiment in experiments for key, way in experiment.better.items()}
    rows = []
    for key in measures:
        values = [experiment.figures.get(key) for experiment in experiments]
        between = apart(key, settings)
        rows.append((key, better.get(key), values, set() if between else best(key, values, better.get(key)), between))
    labels = dict.fromkeys(label for experiment in experiments for label in experiment.classes)
    return environment.get_template("compare.html").render(
        experiments=experiments,
        settings=settings,
        measures=rows,
        classes=[
            (label, [experiment.classes.get(label) for experiment in experiments])
            for label in sorted(labels, key=lambda label: (len(label), label))
        ],
        style=Markup(style),
        style_hash=pages.policy_hash(style),
    )
