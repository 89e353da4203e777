"""Measure the likelihood of real drawings, and compare generated drawings with held-out ones.

reads    data/filter/, data/train/, data/sample/, data/judge/
writes   reports/metrics.json    the few metrics that runs are told apart by, and what they were measured with
         reports/metrics.csv     every metric, over all classes and by class: value, 95% interval, reference
         reports/classes.csv     one row per class: label, name, heldout_drawings, and the values of the metrics
         reports/confusion.csv   one row per generated drawing: the requested class, the class that the judge predicts
         data/evaluate/          what the report shows of each drawing, and the libraries used
command  python -m stages.evaluate
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
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
from stages.metrics import compute, pixels, subsets
from stages.metrics.catalogue import (
    COMPLETED_DRAWINGS,
    GENERATED_DRAWINGS,
    HELDOUT_DRAWINGS,
    JUDGE_WEIGHTS,
    METRICS,
)
from stages.metrics.completions import ScoredCompletions, measure
from stages.metrics.compute import Row, ScoredDrawings, Scores
from stages.metrics.subsets import first_of_each_class, in_proportion
from stages.outputs import classifier, completions, dataset, evaluation, model, samples
from stages.outputs.dataset import Drawings
from stages.params import Params

SUMMARY = Path("reports/metrics.json")
CLASSES = Path("reports/classes.csv")
TABLES = (evaluation.METRICS, CLASSES, evaluation.CONFUSION)

# The metrics in metrics.json: the model's likelihood, how often its drawings are recognised, and how far they are from
# real ones. None depends on the number of generated drawings. Each is a column of `dvc exp show`: with more of them, it
# is wider than a terminal.
SUMMARY_METRICS = ("heldout_bits_per_dim", "class_accuracy", "mmd")

METRICS_COLUMNS = ("metric", "label", "name", "value", "low", "high", "reference", "better")

LABEL_ACCURACY_DRAWINGS = 160  # or one per class if there are more classes; the model scores each under every label
TRAINING_DRAWINGS = 400
MEASURED_DRAWINGS = 4096  # whose pixels are in memory at a time
TOP_PREDICTIONS = 3  # the judge's likeliest classes to store per drawing
LIBRARIES = ("numpy", "pandas", "scikit-learn", "scipy", "tensorflow", "tf-keras")


def main(settings: Params) -> None:
    """Run the stage."""
    data = dataset.load()
    completed = completions.read(data)
    per_class = settings.eval_samples_per_class
    generated_images = np.asarray(samples.read(len(settings.classes), per_class)[:, :per_class])
    trained = model.load()
    check_shapes(data.image_shape, trained.config.image_shape, generated_images.shape[2:])
    gpus = device.configure(settings.device, settings.deterministic)
    judge = classifier.load(data.image_shape)
    classes = trained.classes
    if judge.classes != tuple(classes):
        raise StageError(f"{classifier.FOLDER} holds a judge of other classes: run the stage judge again")

    with ExitStack() as outputs:
        # No output is put in place before all are written. One that cannot be written fails here, before the work.
        folder = outputs.enter_context(files.atomic_folder(evaluation.FOLDER))
        metrics_file, *tables = (outputs.enter_context(files.atomic_file(path)) for path in (SUMMARY, *TABLES))
        heldout, training = data.where(data.heldout), data.where(~data.heldout)
        bits, pixel_bits = likelihood(trained, heldout, "held-out drawings")
        training_subset = training.where(in_proportion(training.labels, heldout.labels, TRAINING_DRAWINGS))
        training_bits, _ = likelihood(trained, training_subset, "training drawings")
        label_subset = heldout.where(first_of_each_class(heldout.labels, LABEL_ACCURACY_DRAWINGS))

        is_compared = subsets.compared(heldout.labels)
        compared = heldout.where(is_compared)
        real, real_predictions, real_nearest = score(judge, compared.images[:], compared.labels, training.images)
        labels = np.repeat([known.label for known in classes], per_class)
        generated, predictions, nearest = score(
            judge, generated_images.reshape(-1, *data.image_shape), labels, training.images
        )
        rows = [
            *compute.likelihood(
                len(classes),
                Scores(bits, class_indices(heldout.labels, classes)),
                Scores(training_bits, class_indices(training_subset.labels, classes)),
                Scores(own_label_is_likeliest(trained, label_subset), class_indices(label_subset.labels, classes)),
            ),
            *compute.compare_drawings(len(classes), real, generated),
        ]
        if completed:
            rows += measure_completions(trained, judge, data, completed)
        rows.sort(key=lambda row: (list(METRICS).index(row.metric), -1 if row.class_index is None else row.class_index))

        training_rows = np.flatnonzero(~data.heldout)
        write_arrays(
            folder / evaluation.ARRAYS,
            pixel_bits=pixel_bits,
            heldout_rows=np.flatnonzero(data.heldout)[is_compared],
            heldout_bits_per_dim=bits[is_compared],
            **describe_drawings("heldout", real_predictions, training_rows[real_nearest], real.nearest_distances),
            **describe_drawings("generated", predictions, training_rows[nearest], generated.nearest_distances),
        )
        made_with = {"device": "GPU" if gpus else "CPU"} | {name: version(name) for name in LIBRARIES}
        (folder / evaluation.MADE_WITH).write_text(json.dumps(made_with, indent=2) + "\n", encoding="utf-8")
        measured_with: dict[str, Any] = {
            HELDOUT_DRAWINGS: heldout.fingerprint(),
            JUDGE_WEIGHTS: classifier.fingerprint(),
            GENERATED_DRAWINGS: len(labels),
        }
        if completed:
            measured_with[COMPLETED_DRAWINGS] = completed.describe()
        summary = summarise(rows) | measured_with
        metrics_file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        names = [known.name for known in classes]
        pairs = zip(generated.class_indices, generated.predicted, strict=True)
        write_table(tables[0], METRICS_COLUMNS, metric_rows(rows, classes))
        write_table(tables[1], *class_table(rows, classes, class_indices(heldout.labels, classes)))
        write_table(
            tables[2],
            ("requested", "predicted"),
            [(names[requested], names[predicted]) for requested, predicted in pairs],
        )


def check_shapes(drawings: tuple[int, ...], trained: tuple[int, ...], generated: tuple[int, ...]) -> None:
    """Raise `StageError` unless the drawings, the model and the generated drawings have one shape."""
    for shape, what, stage in ((trained, model.FOLDER, "train"), (generated, samples.FOLDER, "sample")):
        if shape != drawings:
            raise StageError(f"{what} is of drawings of shape {shape}, not {drawings}: run the stage {stage} again")


# --- The likelihood of real drawings ---


def bits_by_pixel(trained: model.Model, data: Drawings, what: str) -> Iterator[npt.NDArray[np.float64]]:
    """-log2 of the probability of each pixel of drawings given their class, (N, height, width), in blocks of N.

    Args:
      trained: the model.
      data: the drawings.
      what: what they are, in the plural, for the lines on progress.
    """
    from stages.pixelcnn import network
    from stages.pixelcnn.likelihood import PixelBits

    measure = PixelBits(trained.config, network.kernels(trained.config, trained.weights))
    with progress("evaluate: likelihood", len(data.labels), what) as add:
        for start in range(0, len(data.labels), MEASURED_DRAWINGS):
            block = slice(start, start + MEASURED_DRAWINGS)
            yield measure(data.images[block], trained.condition(data.labels[block]), add)


def likelihood(
    trained: model.Model, data: Drawings, what: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Measure the likelihood of drawings given their class; the arguments are those of `bits_by_pixel`.

    Returns:
      The bits of each drawing, divided by its number of values, (N,), and for each class the mean bits of each pixel,
      (classes, height, width).
    """
    height, width, channels = data.image_shape
    bits = np.empty(len(data.labels))
    indices = class_indices(data.labels, trained.classes)
    sums = np.zeros((len(trained.classes), height, width))
    done = 0
    for pixel_bits in bits_by_pixel(trained, data, what):
        block = slice(done, done := done + len(pixel_bits))
        bits[block] = pixel_bits.reshape(len(pixel_bits), -1).mean(axis=1) / channels
        np.add.at(sums, indices[block], pixel_bits)
    counts = np.bincount(indices, minlength=len(sums))
    return bits, sums / np.maximum(counts, 1)[:, np.newaxis, np.newaxis]


def own_label_is_likeliest(trained: model.Model, drawings: Drawings) -> npt.NDArray[np.bool_]:
    """Whether each drawing is likeliest under its own label, (N,)."""
    num_classes = len(trained.classes)
    labels = np.array([known.label for known in trained.classes], drawings.labels.dtype)
    rows = np.repeat(np.arange(len(drawings.labels)), num_classes)
    relabelled = Drawings(
        drawings.images[rows], np.tile(labels, len(drawings.labels)), drawings.names[rows], drawings.heldout[rows]
    )
    what = f"pairs of {len(drawings.labels)} held-out drawings and {num_classes} classes"
    bits, _ = likelihood(trained, relabelled, what)
    return np.asarray(labels[bits.reshape(-1, num_classes).argmin(axis=1)] == drawings.labels)


# --- The judge's predictions, and the nearest training drawings ---


def score(
    judge: classifier.Judge, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any], training: dataset.Images
) -> tuple[ScoredDrawings, classifier.Predictions, npt.NDArray[np.int64]]:
    """Apply the judge to drawings, and find their nearest training drawings.

    Args:
      judge: the classifier.
      images: (N, height, width, channels) uint8.
      labels: (N,) the drawings' labels.
      training: (M, height, width, channels) uint8, the training drawings.

    Returns:
      What the metrics need, the judge's predictions, and the row in `training` of each nearest drawing, (N,).
    """
    predictions = judge.predict(images)
    distances, nearest = pixels.nearest(images, training)
    scored = ScoredDrawings(
        images=images,
        class_indices=class_indices(labels, judge.classes),
        predicted=predictions.probabilities.argmax(axis=1),
        features=predictions.features,
        nearest_distances=distances,
    )
    return scored, predictions, nearest


def describe_drawings(
    prefix: str, predictions: classifier.Predictions, nearest: npt.NDArray[np.int64], distances: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[Any]]:
    """The arrays that the report shows of each drawing, named with a prefix."""
    top = np.argsort(-predictions.probabilities, axis=1, kind="stable")[:, :TOP_PREDICTIONS]
    return {
        f"{prefix}_predicted": top,
        f"{prefix}_probability": np.take_along_axis(predictions.probabilities, top, axis=1),
        f"{prefix}_nearest": nearest,  # row in images.npy
        f"{prefix}_distance": distances,
    }


# --- Completions ---


def measure_completions(
    trained: model.Model, judge: classifier.Judge, data: Drawings, completed: completions.Completions
) -> list[Row]:
    """Measure completions of held-out drawings, and compare them with the drawings.

    Args:
      trained: the model that has drawn them.
      judge: the classifier.
      data: all drawings.
      completed: the completions.
    """
    given = np.concatenate([completed.drawings, np.repeat(completed.drawings, completions.COMPLETIONS)])
    whole = np.concatenate([data.images[completed.drawings], completed.images.reshape(-1, *data.image_shape)])
    drawings = Drawings(whole, data.labels[given], data.names[given], data.heldout[given])
    bits = np.concatenate(list(bits_by_pixel(trained, drawings, "held-out drawings and their completions")))
    upper = np.array(data.images[completed.drawings])
    upper[:, completed.rows :] = 0
    predicted = judge.predict(np.concatenate([whole, upper])).probabilities.argmax(axis=1)
    number = len(completed.drawings)
    per_drawing = (number, completions.COMPLETIONS)
    return list(
        measure(
            ScoredCompletions(
                rows=completed.rows,
                real=whole[:number],
                completed=completed.images,
                real_bits=bits[:number],
                completed_bits=bits[number:].reshape(*per_drawing, *bits.shape[1:]),
                class_indices=class_indices(data.labels[completed.drawings], judge.classes),
                real_predicted=predicted[:number],
                upper_predicted=predicted[len(whole) :],
                completed_predicted=predicted[number : len(whole)].reshape(per_drawing),
            )
        )
    )


# --- The output files ---


def write_arrays(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write named arrays as float32 and int32 in a safetensors file."""
    from safetensors.numpy import save_file

    dtypes = {"f": np.float32, "i": np.int32}
    save_file({name: np.ascontiguousarray(array, dtypes[array.dtype.kind]) for name, array in arrays.items()}, path)


def summarise(rows: Iterable[Row]) -> dict[str, Any]:
    """The values over all classes of SUMMARY_METRICS, for metrics.json, without undefined ones."""
    values = {row.metric: row.estimate.value for row in rows if row.class_index is None}
    return {key: round(values[key], 6) for key in SUMMARY_METRICS if not math.isnan(values.get(key, math.nan))}


def metric_rows(rows: Iterable[Row], classes: Sequence[model.Class]) -> list[list[object]]:
    """The rows of metrics.csv. Label and name are empty in rows about all classes."""
    table: list[list[object]] = []
    for row in rows:
        known = None if row.class_index is None else classes[row.class_index]
        label_and_name = [known.label, known.name] if known else ["", ""]
        values = [format_value(value) for value in (*row.estimate, row.reference)]
        table.append([row.metric, *label_and_name, *values, METRICS[row.metric].better])
    return table


def class_table(
    rows: Sequence[Row], classes: Sequence[model.Class], heldout_class_indices: npt.NDArray[np.int64]
) -> tuple[list[str], list[list[object]]]:
    """The header and the rows of classes.csv: the values of all metrics that exist by class."""
    metrics = list(dict.fromkeys(row.metric for row in rows if row.class_index is not None))
    values = {(row.class_index, row.metric): row.estimate.value for row in rows}
    body: list[list[object]] = [
        [
            known.label,
            known.name,
            int((heldout_class_indices == index).sum()),
            *(format_value(values[index, metric]) for metric in metrics),
        ]
        for index, known in enumerate(classes)
    ]
    return ["label", "name", "heldout_drawings", *metrics], body


def format_value(value: float) -> str:
    """A value as text; empty for NaN."""
    return "" if math.isnan(value) else repr(round(value, 6))


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="eval_samples_per_class, num_drawings or num_filters"))
