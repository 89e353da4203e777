"""Render the report as one HTML page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from stages.metrics.catalogue import METRICS, SHARES
from stages.params import BUCKET, DOODLES, Params
from stages.quickdraw.labels import TFDS, TFDS_BITMAP
from stages.reporting import charts, html
from stages.reporting.inputs import ClassReport, Report
from stages.reporting.metric_values import MAIN_METRICS, format_interval, format_share, format_value, sort_key
from stages.reporting.sentences import describe_metrics
from stages.reporting.sheets import Images

if TYPE_CHECKING:
    from markupsafe import Markup

PROJECT = "quickdraw-pixelcnn"
FRAMES = 8  # images of a drawing in progress
IN_PROGRESS_CLASSES = 6  # shown in progress, while the model learned, and completed; those of the others are folded
COMPLETION_METRICS = ("completion_accuracy", "upper_rows_accuracy", "completion_bits_per_dim", "completion_distance")
FIRST_CLASSES = 24  # classes on the first screen
FIRST_QUESTIONS = 10  # of the blind review; the others are for those who go on
THUMBNAILS = 8  # generated drawings in the row of a class
# The metrics that the reader can sort the classes by. The first that all classes have is the order of the page.
SORT_METRICS = (
    "class_accuracy",
    "heldout_bits_per_dim",
    "informedness",
    "label_accuracy",
    "precision",
    "recall",
    "c2st_accuracy",
)
# The sides, in pixels of the screen, of the squares in which drawings are shown, by their variable in report.css.
SIZES = {"thumb": 28, "small": 56, "tile": 84, "large": 112, "pair": 280}


def description_html(text: str) -> Markup:
    """A setting's description as HTML, with text between `backticks` as code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def frames(drawing: Images) -> list[npt.NDArray[np.uint8]]:
    """A drawing at FRAMES steps of its generation: its channels, and opacity for the pixels generated so far.

    The model generates pixels row by row, from the top left to the bottom right, and never changes one. So part of the
    finished drawing is the drawing in progress.
    """
    height, width = drawing.shape[:2]
    channels = drawing.reshape(height, width, -1)
    order = np.arange(height * width).reshape(height, width, 1)
    images = []
    for number in range(1, FRAMES + 1):
        opacity = np.where(order < height * width * number // FRAMES, 255, 0).astype(np.uint8)
        images.append(np.concatenate([np.minimum(channels, opacity), opacity], axis=-1))
    return images


def given(drawing: Images, rows: int) -> npt.NDArray[np.uint8]:
    """The upper rows of a drawing: its channels, and opacity."""
    height, width = drawing.shape[:2]
    channels = drawing.reshape(height, width, -1)
    opacity = np.where(np.arange(height) < rows, 255, 0).astype(np.uint8)[:, np.newaxis, np.newaxis]
    opacity = np.broadcast_to(opacity, (height, width, 1))
    return np.concatenate([np.minimum(channels, opacity), opacity], axis=-1)


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
                "judge": describe_predictions(pair.predictions[:1]),
            }
        )
    first = min(FIRST_QUESTIONS, len(questions))
    run = f"{PROJECT}, {data_name(report.settings)}, run {report.run}"
    earlier = [[review.mode, review.score.correct / review.score.answers] for review in report.reviews]
    return {"hash": report.review_hash, "first": first, "run": run, "questions": questions, "earlier": earlier}


def short_number(number: int) -> str:
    """A number in at most four characters, such as `450`, `2.2k` or `12k`."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if number >= 0.9995 * unit:
            return (
                f"{number / unit:.1f}".removesuffix(".0") + name
                if number < 9.95 * unit
                else f"{number / unit:.0f}{name}"
            )
    return str(number)


def describe_predictions(predictions: Sequence[tuple[str, float]]) -> str:
    """What the judge predicts, such as `bee 52%, sun 31%`."""
    return ", ".join(f"{name} {format_share(probability)}" for name, probability in predictions)


def describe_nearness(share_nearer: float) -> str:
    """How near the nearest training drawing is, compared with the held-out drawings."""
    if share_nearer >= 0.5:
        return f"farther than {format_share(share_nearer)} of held-out drawings are from theirs"
    return f"nearer than {format_share(1 - share_nearer)} of held-out drawings are to theirs"


def data_name(settings: Params) -> str:
    """Where the drawings come from, in a few words: Quick, Draw!, or the last part of the source's name or address."""
    source = settings.source.rstrip("/")
    if source in (BUCKET, TFDS_BITMAP):
        return "Quick, Draw!"
    if "://" in source:  # of which the page's title shows no user and no password
        address = urlsplit(source)
        return address.path.rpartition("/")[2] or address.hostname or source.partition("://")[0]
    return re.split(r"[/\\]", source.removeprefix(TFDS))[-1]


def bar(share: float, low: float = math.nan, high: float = math.nan) -> Markup:
    """A thin bar beside a share in percent, with its interval as a paler one."""
    from markupsafe import Markup

    if math.isnan(share):
        return Markup("")
    low, high = (share, share) if math.isnan(low) else (low, high)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="all" width="100" height="6"/><rect width="{100 * low:.1f}" height="6"/>'
        f'<rect class="interval" x="{100 * low:.1f}" width="{100 * (high - low):.1f}" height="6"/></svg>'
    )


def provenance(report: Report) -> dict[str, Any]:
    """The hashes and settings that `python -m pipeline verify` compares with the workspace."""
    return {
        "files": {path: digest for _, path, digest in report.hashes},
        "settings": report.settings.model_dump(mode="json"),
    }


def best_first(report: Report) -> list[ClassReport]:
    """The classes by the first of SORT_METRICS that all of them have, the best first."""
    [metric, *_] = [metric for metric in SORT_METRICS if all(metric in entry.metrics for entry in report.classes)]
    return sorted(report.classes, key=lambda entry: sort_key(entry.metrics[metric], metric))


def page(report: Report) -> str:
    """The page as HTML."""
    here = Path(__file__).parent
    pixel_bits = np.stack([entry.pixel_bits for entry in report.classes])
    weights = [entry.heldout_drawings for entry in report.classes]
    maximum = charts.heat_scale(pixel_bits)
    names = [entry.name for entry in report.classes]
    doodles = report.settings.source.rstrip("/") == DOODLES
    classes = best_first(report)
    height, width = report.size
    return html.render(
        here / "report.html",
        style=here / "report.css",
        script=here / "report.js",
        lengths={name: html.shown_size(height, width, target) for name, target in SIZES.items()}
        | {"shape": f"{width} / {height}"},
        filters={
            "bar": lambda value: bar(value.value, value.low, value.high),
            "bits": lambda value: format_value(value, "heldout_bits_per_dim"),
            "data_uri": html.data_uri,
            "description_html": description_html,
            "format_interval": format_interval,
            "format_setting": html.format_setting,
            "format_value": format_value,
            "frames": frames,
            "given": given,
            "nearness": describe_nearness,
            "number": "{:,}".format,
            "percent": format_share,
            "score_bar": lambda score: bar(score.correct / score.answers, score.low, score.high),
            "predictions": describe_predictions,
            "short_number": short_number,
            "sort_key": sort_key,
        },
        project=PROJECT,
        data=data_name(report.settings),
        width=width,
        height=height,
        report=report,
        classes=classes,
        sentences=describe_metrics(report.metrics, "stand-in" if doodles else "real", report.heldout_drawings),
        first_classes=classes[:FIRST_CLASSES],
        thumbnails=THUMBNAILS,
        catalogue=METRICS,
        shares=SHARES,
        main_metrics=MAIN_METRICS,
        sort_metrics=[metric for metric in SORT_METRICS if all(metric in entry.metrics for entry in report.classes)],
        descriptions={key: field.description for key, field in Params.model_fields.items()},
        doodles=doodles,
        loss_curve=charts.loss_curve(report.loss),
        heat_map=charts.heat_map(np.average(pixel_bits, axis=0, weights=weights), maximum),
        heat_images=[charts.heat_image(entry, maximum) for entry in pixel_bits],
        confusion_matrix=charts.confusion(report.confusion, names),
        most_predicted=[most_predicted(row, names) for row in report.confusion],
        most_predicted_overall=most_predicted(report.confusion.mean(axis=0), names),
        in_progress=classes[:IN_PROGRESS_CLASSES],
        completion_metrics=[key for key in COMPLETION_METRICS if key in report.metrics],
        review_data=review_data(report),
        provenance=provenance(report),
    )
