"""Read the inputs of the report from the outputs of the other stages, and check that they belong to one run."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages import params
from stages.common import files, tables
from stages.common.errors import StageError
from stages.metrics.catalogue import METRICS
from stages.metrics.subsets import compared
from stages.outputs import classifier, completions, dataset, evaluation, film, index, losses, model, samples
from stages.outputs.losses import Loss
from stages.params import Params, fingerprint
from stages.reporting import blind_review
from stages.reporting.metric_values import MetricValue
from stages.reporting.sheets import COLUMNS, Images

if TYPE_CHECKING:
    import pandas as pd

INDEX = index.FOLDER / index.TABLE
IMAGES = dataset.FOLDER / dataset.IMAGES
DRAWINGS = dataset.FOLDER / dataset.TABLE
CONFIG = model.FOLDER / model.CONFIG
LOSS = model.FOLDER / losses.FILE
FILM = model.FOLDER / film.FILE
WEIGHTS = model.FOLDER / model.WEIGHTS
SAMPLES = samples.FOLDER / samples.IMAGES
COMPLETIONS = [samples.FOLDER / name for name in (completions.GIVEN, completions.IMAGES)]  # if there are any
JUDGE = classifier.FOLDER / classifier.WEIGHTS
ARRAYS = evaluation.FOLDER / evaluation.ARRAYS
MADE_WITH = evaluation.FOLDER / evaluation.MADE_WITH
METRICS_TABLE = evaluation.METRICS
CONFUSION = evaluation.CONFUSION
MAX_GENERATED = 64  # drawings of a class on the page


@dataclass(frozen=True)
class ReportDrawing:
    """A drawing on the page, with its results from evaluate.

    Attributes:
      drawing: uint8, as stored: (H, W), where 255 is ink, or (H, W, 3) in colour.
      nearest: the nearest training drawing, alike; None if the drawing was not evaluated.
      share_nearer: the share of the held-out drawings that are nearer to theirs.
      predictions: the judge's likeliest classes, (class, probability), the likeliest first.
      bits_per_dim: the model's bits per dimension, if this is a held-out drawing.
    """

    drawing: Images
    nearest: Images | None = None
    share_nearer: float = math.nan
    predictions: tuple[tuple[str, float], ...] = ()
    bits_per_dim: float = math.nan


@dataclass(frozen=True)
class ClassReport:
    """What the report shows of one class.

    Attributes:
      label: the class's number.
      name: the class's name.
      real: the real drawings to show: held-out ones, then training ones if there are too few.
      real_from_training: how many of `real` are training drawings.
      generated: the generated drawings to show.
      heldout_drawings: how many held-out drawings the class has.
      metrics: the value of each metric.
      pixel_bits: (H, W), the mean bits of each pixel over the held-out drawings.
      learned: the frames of the film of training.
      completions: (N, 1 + COMPLETIONS, …), for each completed drawing the drawing, then its completions.
    """

    label: int
    name: str
    real: list[ReportDrawing]
    real_from_training: int
    generated: list[ReportDrawing]
    heldout_drawings: int
    metrics: dict[str, MetricValue]
    pixel_bits: npt.NDArray[np.float32]
    learned: Images
    completions: Images

    @property
    def best_generated(self) -> int:
        """Which of the generated drawings has the highest probability of the class, according to the judge."""
        probabilities = [dict(drawing.predictions).get(self.name, 0.0) for drawing in self.generated]
        return probabilities.index(max(probabilities))


@dataclass(frozen=True)
class ReviewPair:
    """A question of the blind review, with its class name, its two drawings, and what the judge predicts.

    Attributes:
      question: the question.
      name: the class.
      real, generated: its drawings.
      predictions: the judge's likeliest classes of the generated one; empty if it was not evaluated.
    """

    question: blind_review.Question
    name: str
    real: Images
    generated: Images
    predictions: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything that the page and the sheets show.

    Attributes:
      run: the fingerprint of the settings, with which the name of the run's experiment ends.
      settings: of the run.
      classes: in the order of the settings.
      training_drawings: how many drawings the model was trained on.
      heldout_drawings: how many drawings were held out.
      compared_drawings: how many of them generated drawings are compared with.
      metrics: the value of each metric over all classes.
      loss: the training and held-out losses.
      film_steps: the number of training steps before each frame of the film.
      completed_rows: how many upper rows of the completed drawings were given; None if none was completed.
      confusion: (classes, classes), the share of each row's drawings that the judge predicts as each column.
      hashes: (description, path, SHA-256) of each file that the page depends on.
      made_with: the device and the versions of the libraries that evaluate used.
      review_pairs: the questions of the blind review.
      review_hash: identifies these questions and the drawings that they show.
      reviews: the saved reviews of these questions.
      other_reviews: how many saved reviews have other questions.
    """

    run: str
    settings: Params
    classes: list[ClassReport]
    training_drawings: int
    heldout_drawings: int
    compared_drawings: int
    metrics: dict[str, MetricValue]
    loss: list[Loss]
    film_steps: list[int]
    completed_rows: int | None
    confusion: npt.NDArray[np.float64]
    hashes: list[tuple[str, str, str]]
    made_with: dict[str, str]
    review_pairs: list[ReviewPair]
    review_hash: str
    reviews: list[blind_review.Review]
    other_reviews: int

    @property
    def size(self) -> tuple[int, int]:
        """The height and the width of every drawing, in pixels."""
        height, width = self.classes[0].real[0].drawing.shape[:2]
        return height, width


# --- Reading and checking files ---


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors while `path` is read into a `StageError` of one line."""
    try:
        yield
    except FileNotFoundError:
        raise StageError(f"{path} is missing: run the stage {_stage_of(path)} first") from None
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError, csv.Error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk, not of the content
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise StageError(f"{path} cannot be used ({reason}): run the stage {_stage_of(path)} again") from error


def _require(condition: bool, path: Path, problem: str) -> None:
    if not condition:
        raise StageError(f"{path} {problem}: run the stage {_stage_of(path)} again")


def _stage_of(path: Path) -> str:
    """The stage that writes a file. Each folder in data/ has the name of its stage."""
    return path.parts[1] if path.parts[0] == "data" else "evaluate"


def read_drawings(path: Path) -> Images:
    """An array of drawings (…, H, W, 1 or 3), memory-mapped; grey ones without their last axis."""
    with _reading(path):
        array = tables.open_memmap(path)
        if array.ndim < 4 or array.shape[-1] not in (1, 3):
            raise ValueError(f"it holds an array of shape {array.shape}; expected: drawings, (…, H, W, 1 or 3)")
    return _without_grey(array)


def _without_grey(array: Images) -> Images:
    """The drawings (…, H, W, 1 or 3) as the report shows them: grey ones without their last axis."""
    return array[..., 0] if array.shape[-1] == 1 else array


def read_json(path: Path) -> Any:
    with _reading(path):
        return json.loads(path.read_text(encoding="utf-8"))


def read_csv(path: Path) -> list[dict[str, str]]:
    with _reading(path), open(path, encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        if not table.fieldnames:
            raise ValueError("it is empty")
        return list(table)


def read_table(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    with _reading(path):
        return tables.read(path, columns)


def read_loss(path: Path) -> list[Loss]:
    rows = read_csv(path)
    with _reading(path):
        return [Loss(int(row["step"]), int(row["drawings"]), row["split"], float(row["bits_per_dim"])) for row in rows]


def read_samples(settings: Params) -> tuple[list[tuple[int, str]], Images]:
    """The classes of the model, (label, name), and the generated drawings, (classes, drawings, H, W) or (…, 3)."""
    config = read_json(CONFIG)
    with _reading(CONFIG):
        classes = [(int(entry["label"]), str(entry["name"])) for entry in config["classes"]]
    _require([name for _, name in classes] == list(settings.classes), CONFIG, "has other classes than params.yaml")
    number = max(settings.samples_per_class, settings.eval_samples_per_class)
    drawings = read_drawings(SAMPLES)
    with _reading(SAMPLES):
        if drawings.ndim < 4 or drawings.shape[0] != len(classes) or drawings.shape[1] < number:
            raise ValueError(
                f"it has the shape {drawings.shape}; expected: {len(classes)} classes of {number} drawings, or more"
            )
    _require(drawings.shape[1] == number, SAMPLES, f"holds {drawings.shape[1]} drawings of each class, not {number}")
    return classes, drawings


def read_metrics(classes: Sequence[tuple[int, str]]) -> tuple[dict[str, MetricValue], list[dict[str, MetricValue]]]:
    """The metrics over all classes, and those of each class, by metric."""
    by_label: dict[str, dict[str, MetricValue]] = {str(label): {} for label in ("", *(label for label, _ in classes))}
    with _reading(METRICS_TABLE):
        for row in read_csv(METRICS_TABLE):
            metric_value = MetricValue(*(float(row[key] or "nan") for key in MetricValue._fields))
            if row["metric"] in METRICS:
                by_label.setdefault(row["label"], {})[row["metric"]] = metric_value
        _ = [metrics["heldout_bits_per_dim"] for metrics in by_label.values()]  # every class must have it
    _require(len(by_label) == 1 + len(classes), METRICS_TABLE, f"has other classes than {CONFIG}")
    return by_label[""], [by_label[str(label)] for label, _ in classes]


def read_arrays(num_classes: int, per_class: int, size: tuple[int, int]) -> dict[str, npt.NDArray[Any]]:
    """The results of evaluate for each drawing: arrays by name. The bits of a pixel's colours are added up."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with _reading(ARRAYS):
        try:
            arrays = load(ARRAYS.read_bytes())
        except SafetensorError as error:
            raise ValueError(error) from None
        if arrays["pixel_bits"].ndim == 4:
            arrays["pixel_bits"] = arrays["pixel_bits"].sum(axis=-1)
        shapes = arrays["pixel_bits"].shape, arrays["generated_nearest"].shape
        if shapes != ((num_classes, *size), (num_classes * per_class,)):
            raise ValueError(f"it has other drawings than {SAMPLES}")
        _ = [arrays[name] for name in ("heldout_rows", "heldout_distance", "heldout_predicted", "generated_predicted")]
    return arrays


def read_film(num_classes: int, size: tuple[int, ...]) -> tuple[list[int], Images]:
    """The film of training: the steps, and the drawings by class, (classes, frames, H, W) or (…, 3)."""
    steps, drawings = film.read(FILM)
    if not len(steps):
        return [], np.zeros((num_classes, 0, *size), np.uint8)
    by_class = _without_grey(drawings.swapaxes(0, 1))
    _require(by_class.shape[2:] == size and len(by_class) == num_classes, FILM, f"has other drawings than {SAMPLES}")
    return steps.tolist(), by_class


def read_completions(labels: Sequence[int], size: tuple[int, ...]) -> tuple[int | None, list[Images]]:
    """The number of rows that were given, and for each class its completed drawings, each before its completions."""
    data = dataset.load()
    completed = completions.read(data)
    if completed is None:
        return None, [np.zeros((0, 1 + completions.COMPLETIONS, *size), np.uint8) for _ in labels]
    drawings = np.concatenate([data.images[completed.drawings, np.newaxis], completed.images], axis=1)
    of_label = data.labels[completed.drawings]
    return completed.rows, [_without_grey(drawings[of_label == label]) for label in labels]


def read_confusion(names: Sequence[str]) -> npt.NDArray[np.float64]:
    """How often the judge predicts each class (columns) for each requested class (rows), in shares of a row."""
    counts = np.zeros((len(names), len(names)))
    with _reading(CONFUSION):
        for row in read_csv(CONFUSION):
            counts[names.index(row["requested"]), names.index(row["predicted"])] += 1
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def choose_real(drawings: pd.DataFrame, label: int, number: int) -> pd.DataFrame:
    """The first `number` drawings of a class by position: held-out ones, then training ones if there are too few."""
    of_class = drawings[drawings["label"] == label]
    return of_class.sort_values(["heldout", "position"], ascending=[False, True])[:number]


def review_hash(samples_hash: str, pairs: Sequence[ReviewPair]) -> str:
    """The SHA-256 that identifies a blind review: of the hash of the samples, the questions and their drawings."""
    digest = hashlib.sha256(samples_hash.encode())
    for pair in pairs:
        digest.update(json.dumps([pair.name, *pair.question]).encode() + pair.real.tobytes() + pair.generated.tobytes())
    return digest.hexdigest()


def file_hashes() -> list[tuple[str, str, str]]:
    """(description, path, SHA-256) of each file that the page depends on, except the reviews."""
    hashes = []
    for description, path in (
        ("Index of drawings", INDEX),
        ("Images", IMAGES),
        ("Held-out drawings", DRAWINGS),
        ("Model", CONFIG),
        ("Model weights", WEIGHTS),
        ("Loss", LOSS),
        ("Film of training", FILM),
        ("Generated drawings", SAMPLES),
        *(("Completions", path) for path in COMPLETIONS if path.exists()),
        ("Judge weights", JUDGE),
        ("Evaluation of each drawing", ARRAYS),
        ("Device and libraries", MADE_WITH),
        ("Metrics", METRICS_TABLE),
        ("Confusion", CONFUSION),
    ):
        with _reading(path):
            hashes.append((description, path.as_posix(), files.sha256(path)))
    return hashes


# --- The whole report ---


def read(settings: Params) -> Report:
    """Read everything that the report shows.

    Raises:
      StageError: a file is missing or broken, or belongs to another run than the others.
    """
    known, generated = read_samples(settings)
    names = [name for _, name in known]
    metrics, metrics_by_class = read_metrics(known)
    images = read_drawings(IMAGES)
    drawings = read_table(DRAWINGS, {"position": "int64", "label": "int16", "heldout": "bool"})
    _require(images.shape[0] == len(drawings), IMAGES, f"does not hold the {len(drawings)} drawings of {DRAWINGS}")
    _require(
        images.shape[1:] == generated.shape[2:],
        SAMPLES,
        f"holds drawings of the shape {generated.shape[2:]}, and {IMAGES} of {images.shape[1:]}",
    )
    heldout_rows = np.flatnonzero(drawings["heldout"])
    num_evaluated = settings.eval_samples_per_class
    arrays = read_arrays(len(known), num_evaluated, (images.shape[1], images.shape[2]))
    compared_rows = heldout_rows[compared(drawings["label"].to_numpy()[heldout_rows])]
    _require(np.array_equal(arrays["heldout_rows"], compared_rows), ARRAYS, f"has other drawings than {DRAWINGS}")

    film_steps, learned = read_film(len(known), images.shape[1:])
    completed_rows, completed = read_completions([label for label, _ in known], images.shape[1:])
    heldout_distances = np.sort(arrays["heldout_distance"])

    def real_drawing(row: int) -> ReportDrawing:
        index = int(np.searchsorted(compared_rows, row))
        if index == len(compared_rows) or compared_rows[index] != row:
            return ReportDrawing(images[row])
        return evaluated_drawing("heldout", index, images[row], float(arrays["heldout_bits_per_dim"][index]))

    def evaluated_drawing(prefix: str, index: int, drawing: Images, bits: float = math.nan) -> ReportDrawing:
        nearer = int(np.searchsorted(heldout_distances, arrays[f"{prefix}_distance"][index]))
        return ReportDrawing(
            drawing=drawing,
            nearest=images[arrays[f"{prefix}_nearest"][index]],
            share_nearer=nearer / max(1, len(heldout_distances)),
            predictions=predicted(prefix, index),
            bits_per_dim=bits,
        )

    def predicted(prefix: str, index: int) -> tuple[tuple[str, float], ...]:
        predictions = zip(arrays[f"{prefix}_predicted"][index], arrays[f"{prefix}_probability"][index], strict=True)
        return tuple((names[class_index], float(probability)) for class_index, probability in predictions)

    classes, heldout_rows_by_class = [], []
    for class_index, (label, name) in enumerate(known):
        of_class = choose_real(drawings, label, len(drawings))
        _require(len(of_class) > 0, DRAWINGS, f"holds no drawing of {name!r}")
        shown = of_class[: min(COLUMNS, settings.samples_per_class)]
        heldout_rows_by_class.append(of_class.index[of_class["heldout"]])
        with _reading(ARRAYS):
            classes.append(
                ClassReport(
                    label=label,
                    name=name,
                    real=[real_drawing(row) for row in shown.index],
                    real_from_training=int((~shown["heldout"]).sum()),
                    generated=[
                        evaluated_drawing("generated", class_index * num_evaluated + number, drawing)
                        if number < num_evaluated
                        else ReportDrawing(drawing)
                        for number, drawing in enumerate(
                            generated[class_index, : min(MAX_GENERATED, settings.samples_per_class)]
                        )
                    ],
                    heldout_drawings=len(heldout_rows_by_class[-1]),
                    metrics=metrics_by_class[class_index],
                    pixel_bits=arrays["pixel_bits"][class_index],
                    learned=learned[class_index],
                    completions=completed[class_index],
                )
            )
    questions = blind_review.make_questions(
        [len(rows) for rows in heldout_rows_by_class],
        [generated.shape[1]] * len(known),
        settings.samples_per_class,
        settings.seed,
    )
    review_pairs = [
        ReviewPair(
            question=question,
            name=names[question.class_index],
            real=images[heldout_rows_by_class[question.class_index][question.real]],
            generated=generated[question.class_index, question.generated],
            predictions=predicted("generated", question.class_index * num_evaluated + question.generated)
            if question.generated < num_evaluated
            else (),
        )
        for question in questions
    ]
    made_with = read_json(MADE_WITH)
    with _reading(MADE_WITH):
        made_with = {str(key): str(value) for key, value in made_with.items()}
    hashes = file_hashes()
    samples_hash = next(digest for _, path, digest in hashes if path == SAMPLES.as_posix())
    hash_of_review = review_hash(samples_hash, review_pairs)
    reviews, other_reviews = blind_review.read(hash_of_review, questions)
    hashes += [("Review", path.as_posix(), files.sha256(path)) for path in blind_review.review_files()]
    return Report(
        run=fingerprint(params.read()),
        settings=settings,
        classes=classes,
        training_drawings=len(drawings) - len(heldout_rows),
        heldout_drawings=len(heldout_rows),
        compared_drawings=len(compared_rows),
        metrics=metrics,
        loss=read_loss(LOSS),
        film_steps=film_steps,
        completed_rows=completed_rows,
        confusion=read_confusion(names),
        hashes=hashes,
        made_with=made_with,
        review_pairs=review_pairs,
        review_hash=hash_of_review,
        reviews=reviews,
        other_reviews=other_reviews,
    )
