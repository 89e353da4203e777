"""The model card of an exported folder: README.md in the form of the Hugging Face Hub."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from pipeline.exporting import checksums
from stages.inference.trained_model import TrainedModel
from stages.metrics.catalogue import METRICS
from stages.quickdraw.labels import BUCKET, DIGITS, DOODLES, TFDS_BITMAP
from stages.reporting.metric_values import MetricValue, format_interval, format_value
from stages.reporting.sentences import describe_metrics

TEMPLATE = Path(__file__).with_name("card.md")
PACKAGES = ("tensorflow", "tf-keras", "tensorflow-probability")  # those of a process that loads the other formats


class License(NamedTuple):
    """The licence of the drawings that a model was trained on: the hub's name of it, and sentences for a reader."""

    name: str
    sentences: str


def render(
    trained: TrainedModel,
    settings: Mapping[str, Any],
    metrics: Mapping[str, MetricValue],
    files: dict[str, str],
    formats: Sequence[str],
) -> str:
    """The text of the card.

    Args:
      trained: the model.
      settings: of its run.
      metrics: of its run, over all classes.
      files: the SHA-256 of each file in the folder.
      formats: the other formats in the folder: `tfp`, `saved_model`.
    """
    licence = license_of(settings)
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        front_matter=_front_matter(licence.name),
        classes=[_escape(name) for name in trained.classes],
        first_class=repr(trained.classes[0]),
        shape=_describe_shape(trained.image_shape),
        quickdraw=_source(settings) in (BUCKET, TFDS_BITMAP),
        licence=licence.sentences,
        sentences=describe_metrics(metrics, "stand-in" if _source(settings) == DOODLES else "real"),
        metrics=[_row(name, value) for name, value in metrics.items() if not math.isnan(value.value)],
        tfp="tfp" in formats,
        saved_model="saved_model" in formats,
        packages=" ".join(f"{name}=={version(name)}" for name in PACKAGES),
        condition=_condition(trained),
        checksums_file=checksums.FILE,
        checksums=checksums.render(files),
    )


def license_of(settings: Mapping[str, Any]) -> License:
    """The licence of the drawings of a run, as far as its settings tell."""
    source = _source(settings)
    if source in (BUCKET, TFDS_BITMAP):
        return License(
            "cc-by-4.0",
            "The drawings are from [Quick, Draw!](https://quickdraw.withgoogle.com/data) by Google, licensed under "
            "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/). Name the source where you share what the model "
            "draws.",
        )
    if source == DOODLES:
        return License(
            "apache-2.0",
            "The drawings are doodles, simple stand-ins that the pipeline draws itself. The model shows that the "
            "pipeline works, and no more. Its licence is that of the pipeline, Apache 2.0.",
        )
    if source == DIGITS:
        return License(
            "cc-by-4.0",
            "The pictures are the digits that scikit-learn ships, from "
            "[Optical Recognition of Handwritten Digits](https://archive.ics.uci.edu/dataset/80) by E. Alpaydin and "
            "C. Kaynak, licensed under [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/).",
        )
    return License(
        "unknown",
        "The drawings are from a source of whoever trained the model, and their licence is not recorded. "
        "Those of [Quick, Draw!](https://quickdraw.withgoogle.com/data) are by Google, licensed under "
        "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/): if they are the source, write `license: cc-by-4.0` "
        "at the top of this file.",
    )


def _source(settings: Mapping[str, Any]) -> str:
    """The setting `source`, also of a run that was saved when it was two settings, mirror and source."""
    if "mirror" in settings:
        return TFDS_BITMAP if settings.get("source") == "tfds" else str(settings["mirror"]).rstrip("/")
    return str(settings["source"]).rstrip("/")


def _front_matter(license_name: str) -> str:
    from ruamel.yaml import YAML

    text = io.StringIO()
    YAML().dump(
        {
            "license": license_name,
            "library_name": "quickdraw-pixelcnn",
            "pipeline_tag": "unconditional-image-generation",
            "tags": ["image-generation", "class-conditional", "autoregressive", "pixelcnn", "tensorflow"],
        },
        text,
    )
    return text.getvalue()


def _row(name: str, value: MetricValue) -> list[str]:
    """A row of the table of metrics. One that the catalogue lacks, as of an older run, has only its name."""
    known = METRICS.get(name)
    reference = "" if math.isnan(value.reference) else format_value(value.reference, name)
    return [
        known.title if known else _escape(name),
        format_value(value.value, name),
        format_interval(value, name),
        f"{reference} ({known.reference})" if known and reference else reference,
        {"less": "lower", "more": "higher", "alike": "close to the reference"}[known.better] if known else "",
    ]


def _condition(trained: TrainedModel) -> str:
    """Lines of Python that make the conditional input of `images`, which are of the first class."""
    if trained.condition(trained.classes[0]).ndim == 0:
        return 'condition = np.full(len(images), config["classes"][0]["label"], np.float32)'
    return (
        'condition = np.zeros((len(images), len(config["classes"])), np.float32)\n'
        'condition[:, 0] = config["one_hot_scale"]'
    )


def _describe_shape(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{'grey' if channels == 1 else 'coloured'} drawings of {height}×{width} pixels"


def _escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&-])", r"\\\1", text)
