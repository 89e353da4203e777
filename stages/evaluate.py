"""Measure the model: its likelihood of real drawings, and its own drawings against those held out.

reads    data/filter/, data/train/, data/sample/, data/judge/
writes   reports/metrics.json    the measures over all classes
         reports/metrics.csv    every measure in all and by class, with its 95% interval and its reference
         reports/classes.csv     one row a class: label, name, heldout_drawings, and the measures
         reports/confusion.csv   one row a generated drawing: the class asked for, the class that the judge names
         data/evaluate/          what the report shows of each drawing, and what this was computed with
command  python -m stages.evaluate
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages import command
from stages.common import device, files
from stages.common.classes import class_indices
from stages.common.errors import StageError
from stages.common.progress import progress
from stages.metrics import compute, pixels
from stages.metrics.catalogue import METRICS
from stages.metrics.compute import Likelihood, Row, ScoredDrawings
from stages.metrics.subsets import first_of_each_class, in_proportion
from stages.outputs import classifier, dataset, evaluation, model, samples
from stages.outputs.dataset import Drawings
from stages.params import Params
from stages.quickdraw import IMAGE_SHAPE

SUMMARY = Path("reports/metrics.json")
CLASSES = Path("reports/classes.csv")
TABLES = (evaluation.METRICS, CLASSES, evaluation.CONFUSION)

METRICS_COLUMNS = ("metric", "label", "name", "value", "low", "high", "reference", "better")

BATCH_SIZE = 64  # drawings at once; the figures do not depend on it
LABEL_ACCURACY_DRAWINGS = 160  # or one of each class where there are more classes; each is measured under every label
TRAINING_DRAWINGS = 400
TOP_PREDICTIONS = 3  # of the judge's on a drawing, the likeliest first
LIBRARIES = ("numpy", "pandas", "scikit-learn", "scipy", "tensorflow", "tf-keras")


def main(settings: Params) -> None:
    """Run the stage."""
    data = dataset.load()
    per_class = settings.eval_samples_per_class
    generated_images = np.asarray(samples.read(len(settings.classes), per_class)[:, :per_class])
    trained = model.load()
    gpus = device.configure(settings.device, settings.deterministic)
    judge = classifier.load()
    classes = trained.classes
    if judge.classes != tuple(classes):
        raise StageError(f"{classifier.FOLDER} is a judge of other classes: run the stage judge again")

    with ExitStack() as outputs:  # none takes its place before all are written, and one that cannot is told of now
        folder = outputs.enter_context(files.atomic_folder(evaluation.FOLDER))
        metrics_file, *tables = (outputs.enter_context(files.atomic_file(path)) for path in (SUMMARY, *TABLES))
        heldout, training = data.where(data.heldout), data.where(~data.heldout)
        pixel_bits = bits_by_pixel(trained, heldout)
        bits = pixel_bits.reshape(len(pixel_bits), -1).mean(axis=1)
        some = training.where(in_proportion(training.labels, heldout.labels, TRAINING_DRAWINGS))
        training_bits = bits_by_pixel(trained, some).mean(axis=(1, 2))
        asked = heldout.where(first_of_each_class(heldout.labels, LABEL_ACCURACY_DRAWINGS))

        real, real_opinions, real_nearest = score(judge, heldout.images, heldout.labels, training.images)
        labels = np.repeat([known.label for known in classes], per_class)
        generated, opinions, nearest = score(judge, generated_images.reshape(-1, *IMAGE_SHAPE), labels, training.images)
        rows = [
            *compute.likelihood(
                len(classes),
                Likelihood(bits, real.classes),
                Likelihood(training_bits, class_indices(some.labels, classes)),
                Likelihood(own_label_is_likeliest(trained, asked), class_indices(asked.labels, classes)),
            ),
            *compute.compare_drawings(len(classes), real, generated),
        ]
        rows.sort(key=lambda row: (list(METRICS).index(row.metric), -1 if row.place is None else row.place))

        of_training = np.flatnonzero(~data.heldout)
        write_arrays(
            folder / evaluation.ARRAYS,
            pixel_bits=np.stack([pixel_bits[real.classes == place].mean(axis=0) for place in range(len(classes))]),
            heldout_rows=np.flatnonzero(data.heldout),
            heldout_bits_per_dim=bits,
            **describe_drawings("heldout", real_opinions, of_training[real_nearest], real.nearest),
            **describe_drawings("generated", opinions, of_training[nearest], generated.nearest),
        )
        made_with = {"device": "GPU" if gpus else "CPU"} | {name: version(name) for name in LIBRARIES}
        (folder / evaluation.MADE_WITH).write_text(json.dumps(made_with, indent=2) + "\n", encoding="utf-8")
        metrics_file.write_text(json.dumps(summarise(rows, len(bits)), indent=2) + "\n", encoding="utf-8")
        names = [known.name for known in classes]
        pairs = zip(generated.classes, generated.predicted, strict=True)
        write_table(tables[0], METRICS_COLUMNS, metric_rows(rows, classes))
        write_table(tables[1], *class_table(rows, classes, real.classes))
        write_table(tables[2], ("requested", "predicted"), [(names[one], names[other]) for one, other in pairs])


# --- What the model says of real drawings ---


def bits_by_pixel(trained: model.Model, data: Drawings) -> npt.NDArray[np.float64]:
    """-log2 of the probability of each pixel of drawings given their class, (N, 28, 28)."""
    import tensorflow as tf

    from stages.pixelcnn import likelihood, network

    config = trained.config
    weights = network.kernels(config, trained.weights)
    condition = trained.condition(data.labels)

    @tf.function(autograph=False)
    def measure(images: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
        values = tf.cast(images, tf.float32)
        mixture = network.forward(config, weights, likelihood.scale_pixels(config, values), condition)
        return likelihood.pixel_log_prob(config, mixture, values)

    found = []
    with progress("evaluate", len(data.labels), "drawings") as add:
        for start in range(0, len(data.labels), BATCH_SIZE):
            # The last batch is filled up, so that one traced graph serves all.
            chosen = np.minimum(np.arange(start, start + BATCH_SIZE), len(data.labels) - 1)
            found.append(measure(tf.constant(data.images[chosen]), tf.constant(condition[chosen])).numpy())
            add(min(BATCH_SIZE, len(data.labels) - start))
    return -np.concatenate(found)[: len(data.labels)].astype(np.float64) / math.log(2)


def own_label_is_likeliest(trained: model.Model, asked: Drawings) -> npt.NDArray[np.bool_]:
    """Whether the label with the highest likelihood of each drawing is its own."""
    number = len(trained.classes)
    labels = np.array([known.label for known in trained.classes], asked.labels.dtype)
    each = np.repeat(np.arange(len(asked.labels)), number)
    as_if = Drawings(asked.images[each], np.tile(labels, len(asked.labels)), asked.names[each], asked.heldout[each])
    bits = bits_by_pixel(trained, as_if).mean(axis=(1, 2)).reshape(-1, number)
    return np.asarray(labels[bits.argmin(axis=1)] == asked.labels)


def score(
    judge: classifier.Judge, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any], training: npt.NDArray[np.uint8]
) -> tuple[ScoredDrawings, classifier.Predictions, npt.NDArray[np.int64]]:
    """Drawings as the measures want them, what the judge says of them, and their nearest training drawings."""
    opinions = judge.predict(np.asarray(images))
    distances, nearest = pixels.nearest(images[..., 0], training[..., 0])
    classes = class_indices(labels, judge.classes)
    named = opinions.probabilities.argmax(axis=1)
    return ScoredDrawings(np.asarray(images[..., 0]), classes, named, opinions.features, distances), opinions, nearest


def describe_drawings(
    whose: str, opinions: classifier.Predictions, nearest: npt.NDArray[np.int64], distances: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[Any]]:
    """What the report shows of each drawing."""
    best = np.argsort(-opinions.probabilities, axis=1, kind="stable")[:, :TOP_PREDICTIONS]
    return {
        f"{whose}_predicted": best,
        f"{whose}_probability": np.take_along_axis(opinions.probabilities, best, axis=1),
        f"{whose}_nearest": nearest,  # its row in images.npy
        f"{whose}_distance": distances,
    }


# --- The files ---


def write_arrays(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Arrays by name, as float32 and int32."""
    from safetensors.numpy import save_file

    kinds = {"f": np.float32, "i": np.int32}
    save_file({name: np.ascontiguousarray(array, kinds[array.dtype.kind]) for name, array in arrays.items()}, path)


def summarise(rows: Iterable[Row], heldout: int) -> dict[str, float]:
    """The figures over all classes that tell runs apart; what could not be measured is left out.

    `classes_named` is how many classes the judge names at least half of the times that they were asked for.
    """
    found: dict[str, float] = {}
    for row in rows:
        if row.place is None and not row.metric.startswith("ink_") and not math.isnan(row.estimate.value):
            found[row.metric] = round(row.estimate.value, 6)
            if row.metric == "class_accuracy":
                found["judge_accuracy"] = round(row.reference, 6)
        if row.place is not None and row.metric == "class_accuracy":
            found["classes_named"] = found.get("classes_named", 0) + (row.estimate.value >= 0.5)
    return found | {"heldout_drawings": heldout}


def metric_rows(rows: Iterable[Row], classes: Sequence[model.Class]) -> list[list[object]]:
    """The rows of metrics.csv; a label and a name for a class, and neither for all of them."""
    found: list[list[object]] = []
    for row in rows:
        known = ["", ""] if row.place is None else [classes[row.place].label, classes[row.place].name]
        figures = [format_value(figure) for figure in (*row.estimate, row.reference)]
        found.append([row.metric, *known, *figures, METRICS[row.metric].better])
    return found


def class_table(
    rows: Sequence[Row], classes: Sequence[model.Class], of_heldout: npt.NDArray[np.int64]
) -> tuple[list[str], list[list[object]]]:
    """The header and the rows of classes.csv: the value of every measure that there is by class."""
    measures = list(dict.fromkeys(row.metric for row in rows if row.place is not None))
    values = {(row.place, row.metric): row.estimate.value for row in rows}
    body: list[list[object]] = [
        [
            known.label,
            known.name,
            int((of_heldout == place).sum()),
            *(format_value(values[place, measure]) for measure in measures),
        ]
        for place, known in enumerate(classes)
    ]
    return ["label", "name", "heldout_drawings", *measures], body


def format_value(figure: float) -> str:
    """A figure as text; nothing for one that could not be measured."""
    return "" if math.isnan(figure) else repr(round(figure, 6))


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Comma-separated values."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="eval_samples_per_class, num_drawings or num_filters"))
