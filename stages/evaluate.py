"""Measure the model: its likelihood of real drawings, and its own drawings against those held out.

reads    data/filter/, data/train/, data/sample/, data/judge/
writes   reports/metrics.json    the measures over all classes
         reports/measures.csv    every measure in all and by class, with its 95% interval and its reference
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

from stages import command, device, drawings, files, model, tables
from stages import judge as judges
from stages.drawings import Drawings
from stages.errors import StageError
from stages.measures import pixels, table
from stages.measures.catalogue import MEASURES
from stages.measures.table import Likelihood, Row, Seen
from stages.params import Params
from stages.progress import progress

METRICS = Path("reports/metrics.json")
MEASURED = Path("reports/measures.csv")
CLASSES = Path("reports/classes.csv")
CONFUSION = Path("reports/confusion.csv")
TABLES = (MEASURED, CLASSES, CONFUSION)
FOLDER = Path("data/evaluate")
DRAWN = "drawings.safetensors"
MADE_WITH = "made_with.json"
SAMPLES = Path("data/sample/samples.npy")

MEASURED_COLUMNS = ("measure", "label", "name", "value", "low", "high", "reference", "better")

BATCH = 64  # drawings at once; the figures do not depend on it
LABEL_USE_DRAWINGS = 160  # or one of each class where there are more classes; each is measured under every label
TRAINING_DRAWINGS = 400
OPINIONS = 3  # of the judge's on a drawing, the likeliest first
LIBRARIES = ("numpy", "pandas", "scikit-learn", "scipy", "tensorflow", "tf-keras")


def main(settings: Params) -> None:
    """Run the stage."""
    data = drawings.load()
    samples = read_samples(settings)
    trained = model.load()
    gpus = device.use(settings.device, settings.deterministic)
    judge = judges.load()
    classes = trained.classes
    if judge.classes != tuple(classes):
        raise StageError(f"{judges.FOLDER} is a judge of other classes: run the stage judge again")

    with ExitStack() as outputs:  # none takes its place before all are written, and one that cannot is told of now
        folder = outputs.enter_context(files.folder(FOLDER))
        metrics_file, *tables = (outputs.enter_context(files.output(path)) for path in (METRICS, *TABLES))
        heldout, training = data.where(data.heldout), data.where(~data.heldout)
        pixel_bits = bits_by_pixel(trained, heldout)
        bits = pixel_bits.reshape(len(pixel_bits), -1).mean(axis=1)
        some = training.where(in_proportion(training.labels, heldout.labels, TRAINING_DRAWINGS))
        training_bits = bits_by_pixel(trained, some).mean(axis=(1, 2))
        asked = heldout.where(spread(heldout.labels, LABEL_USE_DRAWINGS))

        real, real_opinions, real_nearest = see(judge, heldout.images, heldout.labels, training.images)
        labels = np.repeat([known.label for known in classes], samples.shape[1])
        flat = samples.reshape(-1, *samples.shape[2:])
        generated, opinions, nearest = see(judge, flat, labels, training.images)
        rows = [
            *table.likelihood(
                len(classes),
                Likelihood(bits, real.classes),
                Likelihood(training_bits, judges.places(some.labels, classes)),
                Likelihood(uses_label(trained, asked), judges.places(asked.labels, classes)),
            ),
            *table.drawings(len(classes), real, generated),
        ]
        rows.sort(key=lambda row: (list(MEASURES).index(row.measure), -1 if row.place is None else row.place))

        of_training = np.flatnonzero(~data.heldout)
        write_drawn(
            folder / DRAWN,
            pixel_bits=np.stack([pixel_bits[real.classes == place].mean(axis=0) for place in range(len(classes))]),
            heldout_rows=np.flatnonzero(data.heldout),
            heldout_bits_per_dim=bits,
            **described("heldout", real_opinions, of_training[real_nearest], real.nearest),
            **described("generated", opinions, of_training[nearest], generated.nearest),
        )
        made_with = {"device": "GPU" if gpus else "CPU"} | {name: version(name) for name in LIBRARIES}
        (folder / MADE_WITH).write_text(json.dumps(made_with, indent=2) + "\n", encoding="utf-8")
        metrics_file.write_text(json.dumps(metrics(rows, len(bits)), indent=2) + "\n", encoding="utf-8")
        names = [known.name for known in classes]
        pairs = zip(generated.classes, generated.named, strict=True)
        write_table(tables[0], MEASURED_COLUMNS, lines(rows, classes))
        write_table(tables[1], *by_class(rows, classes, real.classes))
        write_table(tables[2], ("asked", "named"), [(names[one], names[other]) for one, other in pairs])


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
        for start in range(0, len(data.labels), BATCH):
            # The last batch is filled up, so that one traced graph serves all.
            chosen = np.minimum(np.arange(start, start + BATCH), len(data.labels) - 1)
            found.append(measure(tf.constant(data.images[chosen]), tf.constant(condition[chosen])).numpy())
            add(min(BATCH, len(data.labels) - start))
    return -np.concatenate(found)[: len(data.labels)].astype(np.float64) / math.log(2)


def uses_label(trained: model.Model, asked: Drawings) -> npt.NDArray[np.bool_]:
    """Whether the label with the highest likelihood of each drawing is its own."""
    number = len(trained.classes)
    labels = np.array([known.label for known in trained.classes], asked.labels.dtype)
    each = np.repeat(np.arange(len(asked.labels)), number)
    as_if = Drawings(asked.images[each], np.tile(labels, len(asked.labels)), asked.names[each], asked.heldout[each])
    bits = bits_by_pixel(trained, as_if).mean(axis=(1, 2)).reshape(-1, number)
    return np.asarray(labels[bits.argmin(axis=1)] == asked.labels)


def spread(labels: npt.NDArray[np.int16], number: int) -> npt.NDArray[np.bool_]:
    """Which of the drawings to take where `number` are enough: as many of each class, one at least, the first ones."""
    chosen = np.zeros(len(labels), bool)
    chosen[np.lexsort((labels, rank(labels)))[: max(number, len(np.unique(labels)))]] = True
    return chosen


def in_proportion(labels: npt.NDArray[np.int16], others: npt.NDArray[np.int16], number: int) -> npt.NDArray[np.bool_]:
    """Which to take where about `number` are enough: of each class the share that it has of others, the first ones.

    So a mean over them is held against one over the others; each of the classes is there.
    """
    found, counts = np.unique(others, return_counts=True)
    wanted = np.zeros(len(labels))
    for label, count in zip(found, counts, strict=True):
        wanted[labels == label] = number * count / len(others)
    return np.asarray(rank(labels) < wanted)


def rank(labels: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
    """The place of each drawing among those of its class."""
    places = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        places[labels == label] = np.arange((labels == label).sum())
    return places


# --- What the judge says of drawings ---


def read_samples(settings: Params) -> npt.NDArray[np.uint8]:
    """The generated drawings to measure, (classes, samples, 28, 28, 1)."""
    if not SAMPLES.exists():
        raise StageError(f"{SAMPLES} is not there: run the stage sample first")
    try:
        samples = tables.mapped(SAMPLES)
    except ValueError as error:
        raise StageError(f"{SAMPLES} cannot be read ({error}): run the stage sample again") from None
    wanted = (len(settings.classes), settings.eval_samples_per_class, 28, 28, 1)
    if samples.ndim != 5 or samples[:, : wanted[1]].shape != wanted:
        raise StageError(
            f"{SAMPLES} holds uint8 of shape {samples.shape}, not uint8 of {wanted} or more: run the stage sample again"
        )
    return np.asarray(samples[:, : wanted[1]])


def see(
    judge: judges.Judge, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any], training: npt.NDArray[np.uint8]
) -> tuple[Seen, judges.Opinions, npt.NDArray[np.int64]]:
    """Drawings as the measures want them, what the judge says of them, and their nearest training drawings."""
    opinions = judge.look(np.asarray(images))
    distances, nearest = pixels.nearest(images[..., 0], training[..., 0])
    classes = judges.places(labels, judge.classes)
    named = opinions.probabilities.argmax(axis=1)
    return Seen(np.asarray(images[..., 0]), classes, named, opinions.features, distances), opinions, nearest


def described(
    whose: str, opinions: judges.Opinions, nearest: npt.NDArray[np.int64], distances: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[Any]]:
    """What the report shows of each drawing."""
    best = np.argsort(-opinions.probabilities, axis=1, kind="stable")[:, :OPINIONS]
    return {
        f"{whose}_named": best,
        f"{whose}_probability": np.take_along_axis(opinions.probabilities, best, axis=1),
        f"{whose}_nearest": nearest,  # its row in images.npy
        f"{whose}_distance": distances,
    }


# --- The files ---


def write_drawn(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Arrays by name, as float32 and int32."""
    from safetensors.numpy import save_file

    kinds = {"f": np.float32, "i": np.int32}
    save_file({name: np.ascontiguousarray(array, kinds[array.dtype.kind]) for name, array in arrays.items()}, path)


def metrics(rows: Iterable[Row], heldout: int) -> dict[str, float]:
    """The figures over all classes that tell runs apart; what could not be measured is left out.

    `classes_named` is how many classes the judge names at least half of the times that they were asked for.
    """
    found: dict[str, float] = {}
    for row in rows:
        if row.place is None and not row.measure.startswith("ink_") and not math.isnan(row.estimate.value):
            found[row.measure] = round(row.estimate.value, 6)
            if row.measure == "fidelity":
                found["judge_accuracy"] = round(row.reference, 6)
        if row.place is not None and row.measure == "fidelity":
            found["classes_named"] = found.get("classes_named", 0) + (row.estimate.value >= 0.5)
    return found | {"heldout_drawings": heldout}


def lines(rows: Iterable[Row], classes: Sequence[model.Class]) -> list[list[object]]:
    """The rows of measures.csv; a label and a name for a class, and neither for all of them."""
    found: list[list[object]] = []
    for row in rows:
        known = ["", ""] if row.place is None else [classes[row.place].label, classes[row.place].name]
        figures = [written(figure) for figure in (*row.estimate, row.reference)]
        found.append([row.measure, *known, *figures, MEASURES[row.measure].better])
    return found


def by_class(
    rows: Sequence[Row], classes: Sequence[model.Class], of_heldout: npt.NDArray[np.int64]
) -> tuple[list[str], list[list[object]]]:
    """The header and the rows of classes.csv: the value of every measure that there is by class."""
    measures = list(dict.fromkeys(row.measure for row in rows if row.place is not None))
    values = {(row.place, row.measure): row.estimate.value for row in rows}
    body: list[list[object]] = [
        [
            known.label,
            known.name,
            int((of_heldout == place).sum()),
            *(written(values[place, measure]) for measure in measures),
        ]
        for place, known in enumerate(classes)
    ]
    return ["label", "name", "heldout_drawings", *measures], body


def written(figure: float) -> str:
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
