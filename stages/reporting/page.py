"""The report as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.metrics.catalogue import METRICS
from stages.params import DOODLES, Params
from stages.quickdraw import SIDE
from stages.reporting import charts, html
from stages.reporting.figures import format_figure, format_interval, sort_key
from stages.reporting.inputs import Report
from stages.reporting.sheets import Images

if TYPE_CHECKING:
    from markupsafe import Markup
FRAMES = 8  # of a drawing in progress
IN_PROGRESS = 6  # classes shown in progress
# What the classes can be sorted by, besides their order and their names.
SORTED_BY = (
    "class_accuracy",
    "informedness",
    "heldout_bits_per_dim",
    "label_accuracy",
    "precision",
    "coverage",
    "c2st_accuracy",
)


# --- The page ---


def description_html(text: str) -> Markup:
    """A setting's description as HTML: what stands between `backticks` is code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def frames(drawing: Images) -> list[npt.NDArray[np.uint8]]:
    """A drawing at FRAMES moments of its making, each (28, 28, 2): ink, and whether the pixel is drawn yet.

    Pixels come row by row, from the upper left to the lower right, and are never changed; so a part of the finished
    drawing is the unfinished one.
    """
    order = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    found = []
    for number in range(1, FRAMES + 1):
        drawn = np.where(order < SIDE * SIDE * number // FRAMES, 255, 0).astype(np.uint8)
        found.append(np.stack([np.minimum(drawing, drawn), drawn], axis=-1))
    return found


def most_predicted(shares: npt.NDArray[np.float64], names: Sequence[str], number: int = 3) -> list[tuple[str, float]]:
    """The names that the judge gives most, with their shares of a set."""
    return [(names[place], float(shares[place])) for place in np.argsort(-shares, kind="stable")[:number]]


def review_data(report: Report) -> dict[str, Any]:
    """What the page's review by the reader needs."""
    questions = []
    for asked in report.asked:
        pair = [html.data_uri(asked.generated), html.data_uri(asked.real)]
        questions.append(
            {
                "name": asked.name,
                "drawings": pair if asked.question.left else pair[::-1],
                "left": asked.question.left,
                "single": asked.question.single,
            }
        )
    return {"hash": report.asked_hash, "questions": questions}


def provenance(report: Report) -> dict[str, Any]:
    """What `python -m pipeline verify` holds against the files at hand."""
    return {
        "files": {path: digest for _, path, digest in report.hashes},
        "settings": report.settings.model_dump(mode="json"),
    }


def page(report: Report) -> str:
    """The page as HTML."""
    here = Path(__file__).parent
    heat = np.stack([entry.heat for entry in report.classes])
    most = charts.heat_scale(heat)
    names = [entry.name for entry in report.classes]
    return html.render(
        here / "report.html",
        style=here / "report.css",
        script=here / "report.js",
        filters={
            "as_written": html.format_setting,
            "best_first": sort_key,
            "bits": "{:.3f}".format,
            "data_uri": html.data_uri,
            "figure": format_figure,
            "frames": frames,
            "in_words": description_html,
            "interval": format_interval,
            "number": "{:,}".format,
            "percent": "{:.0%}".format,
        },
        report=report,
        metrics=METRICS,
        sorted_by=[metric for metric in SORTED_BY if all(metric in entry.figures for entry in report.classes)],
        meanings={key: field.description for key, field in Params.model_fields.items()},
        stand_in=report.settings.mirror.rstrip("/") == DOODLES,
        curve=charts.loss_curve(report.loss),
        heat=charts.heat_map(np.average(heat, axis=0, weights=[c.heldout_drawings for c in report.classes]), most),
        heats=[charts.coloured(entry, most) for entry in heat],
        matrix=charts.confusion(report.confusion, names),
        named=[most_predicted(row, names) for row in report.confusion],
        names_in_all=most_predicted(report.confusion.mean(axis=0), names),
        in_progress=report.classes[:IN_PROGRESS],
        blind=review_data(report),
        provenance=provenance(report),
    )
