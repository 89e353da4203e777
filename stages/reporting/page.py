"""Render the report as one HTML page."""

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
from stages.reporting.inputs import Report
from stages.reporting.metric_values import format_interval, format_value, sort_key
from stages.reporting.sentences import may_have_copies
from stages.reporting.sheets import Images

if TYPE_CHECKING:
    from markupsafe import Markup

FRAMES = 8  # images of a drawing in progress
IN_PROGRESS_CLASSES = 6
# The metrics that the reader can sort the classes by.
SORT_METRICS = (
    "class_accuracy",
    "informedness",
    "heldout_bits_per_dim",
    "label_accuracy",
    "precision",
    "coverage",
    "c2st_accuracy",
)


def description_html(text: str) -> Markup:
    """A setting's description as HTML, with text between `backticks` as code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def frames(drawing: Images) -> list[npt.NDArray[np.uint8]]:
    """A drawing at FRAMES steps of its generation, each (28, 28, 2): ink, and opacity for pixels generated so far.

    The model generates pixels row by row, from the top left to the bottom right, and never changes one. So part of the
    finished drawing is the drawing in progress.
    """
    order = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    images = []
    for number in range(1, FRAMES + 1):
        opacity = np.where(order < SIDE * SIDE * number // FRAMES, 255, 0).astype(np.uint8)
        images.append(np.stack([np.minimum(drawing, opacity), opacity], axis=-1))
    return images


def most_predicted(shares: npt.NDArray[np.float64], names: Sequence[str], number: int = 3) -> list[tuple[str, float]]:
    """The classes that the judge predicts most often, with their shares of the drawings."""
    return [(names[index], float(shares[index])) for index in np.argsort(-shares, kind="stable")[:number]]


def review_data(report: Report) -> dict[str, Any]:
    """The data of the blind review that the page's script reads."""
    questions = []
    for pair in report.review_pairs:
        drawings = [html.data_uri(pair.generated), html.data_uri(pair.real)]
        questions.append(
            {
                "name": pair.name,
                "drawings": drawings if pair.question.left_is_generated else drawings[::-1],
                "leftIsGenerated": pair.question.left_is_generated,
                "singleIsGenerated": pair.question.single_is_generated,
            }
        )
    return {"hash": report.review_hash, "questions": questions}


def provenance(report: Report) -> dict[str, Any]:
    """The hashes and settings that `python -m pipeline verify` compares with the workspace."""
    return {
        "files": {path: digest for _, path, digest in report.hashes},
        "settings": report.settings.model_dump(mode="json"),
    }


def page(report: Report) -> str:
    """The page as HTML."""
    here = Path(__file__).parent
    pixel_bits = np.stack([entry.pixel_bits for entry in report.classes])
    weights = [entry.heldout_drawings for entry in report.classes]
    maximum = charts.heat_scale(pixel_bits)
    names = [entry.name for entry in report.classes]
    return html.render(
        here / "report.html",
        style=here / "report.css",
        script=here / "report.js",
        filters={
            "bits": "{:.3f}".format,
            "data_uri": html.data_uri,
            "description_html": description_html,
            "format_interval": format_interval,
            "format_setting": html.format_setting,
            "format_value": format_value,
            "frames": frames,
            "may_have_copies": may_have_copies,
            "number": "{:,}".format,
            "percent": "{:.0%}".format,
            "sort_key": sort_key,
        },
        report=report,
        catalogue=METRICS,
        sort_metrics=[metric for metric in SORT_METRICS if all(metric in entry.metrics for entry in report.classes)],
        descriptions={key: field.description for key, field in Params.model_fields.items()},
        doodles=report.settings.source.rstrip("/") == DOODLES,
        loss_curve=charts.loss_curve(report.loss),
        heat_map=charts.heat_map(np.average(pixel_bits, axis=0, weights=weights), maximum),
        heat_images=[charts.heat_image(entry, maximum) for entry in pixel_bits],
        confusion_matrix=charts.confusion(report.confusion, names),
        most_predicted=[most_predicted(row, names) for row in report.confusion],
        most_predicted_overall=most_predicted(report.confusion.mean(axis=0), names),
        in_progress=report.classes[:IN_PROGRESS_CLASSES],
        review_data=review_data(report),
        provenance=provenance(report),
    )
