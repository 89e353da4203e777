"""What the report is made of: read from the outputs of the other stages, and checked to be of one run."""

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

from stages.common import files, tables
from stages.common.errors import StageError
from stages.metrics.catalogue import METRICS
from stages.outputs import classifier, dataset, evaluation, index, losses, model, samples
from stages.outputs.losses import Loss
from stages.params import Params
from stages.quickdraw import IMAGE_SHAPE, SIDE
from stages.reporting import blind_review
from stages.reporting.figures import Figure
from stages.reporting.sheets import COLUMNS, Images

if TYPE_CHECKING:
    import pandas as pd

INDEX = index.FOLDER / index.TABLE
IMAGES = dataset.FOLDER / dataset.IMAGES
DRAWINGS = dataset.FOLDER / dataset.TABLE
CONFIG = model.FOLDER / model.CONFIG
LOSS = model.FOLDER / losses.FILE
WEIGHTS = model.FOLDER / model.WEIGHTS
SAMPLES = samples.FOLDER / samples.IMAGES
JUDGE = classifier.FOLDER / classifier.WEIGHTS
ARRAYS = evaluation.FOLDER / evaluation.ARRAYS
MADE_WITH = evaluation.FOLDER / evaluation.MADE_WITH
METRICS_TABLE = evaluation.METRICS
CONFUSION = evaluation.CONFUSION
MAX_GENERATED = 64  # of a class's generated drawings, at the most


@dataclass(frozen=True)
class ReportDrawing:
    """A drawing on the page, (28, 28) uint8, and what evaluate says of it.

    Attributes:
      drawing: white ink on black, as stored.
      nearest: the nearest training drawing; none for a drawing that was trained on.
      distance: how far that one is.
      opinions: the judge's, (class, probability), the likeliest first.
      bits_per_dim: the model's, of a held-out drawing.
    """

    drawing: Images
    nearest: Images | None = None
    distance: float = math.nan
    opinions: tuple[tuple[str, float], ...] = ()
    bits_per_dim: float = math.nan


@dataclass(frozen=True)
class ClassReport:
    """What the report shows of one class."""

    label: int
    name: str
    real: list[ReportDrawing]
    trained_on: int  # how many of `real` the model was trained on, for want of held-out ones
    generated: list[ReportDrawing]
    heldout_drawings: int
    figures: dict[str, Figure]  # by measure
    heat: npt.NDArray[np.float32]  # (28, 28), the bits of each pixel, over the held-out drawings

    @property
    def heldout_bits_per_dim(self) -> float:
        return self.figures["heldout_bits_per_dim"].value


@dataclass(frozen=True)
class ReviewPair:
    """A question of the blind review: the drawings to show, the generated one first or not, and the one shown alone."""

    question: blind_review.Question
    name: str
    real: Images
    generated: Images


@dataclass(frozen=True)
class Report:
    """Everything that the page and the sheets are made of."""

    settings: Params
    classes: list[ClassReport]
    trained_on: int
    heldout_drawings: int
    figures: dict[str, Figure]
    loss: list[Loss]
    confusion: npt.NDArray[np.float64]  # (classes, classes): the share of each row's drawings named as each column
    hashes: list[tuple[str, str, str]]  # what, file, SHA-256
    made_with: dict[str, str]
    asked: list[ReviewPair]
    asked_hash: str
    reviews: list[blind_review.Review]
    other_reviews: int

    @property
    def heldout_bits_per_dim(self) -> float:
        return self.figures["heldout_bits_per_dim"].value


# --- Reading, and whether what was read belongs together ---


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while `path` is read into a message for a person."""
    try:
        yield
    except FileNotFoundError:
        raise StageError(f"{path} is not there: run the stage {_writer(path)} first") from None
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError, csv.Error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the content's
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise StageError(f"{path} cannot be used ({reason}): run the stage {_writer(path)} again") from error


def _require(agrees: bool, path: Path, problem: str) -> None:
    if not agrees:
        raise StageError(f"{path} {problem}: run the stage {_writer(path)} again")


def _writer(path: Path) -> str:
    """The stage that writes a file: what lies in data/ is in a folder of its name."""
    return path.parts[1] if path.parts[0] == "data" else "evaluate"


def read_drawings(path: Path) -> Images:
    """An array of drawings (…, 28, 28, 1), without its last axis, and left on the disk until it is looked at."""
    with _reading(path):
        array = tables.open_memmap(path)
        if array.shape[-3:] != IMAGE_SHAPE:
            raise ValueError(f"it should hold drawings, (…, {SIDE}, {SIDE}, 1), and holds {array.shape}")
    return array[..., 0]


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
    """The classes of the model, (label, name), and all that was sampled of each: (classes, samples, 28, 28) uint8."""
    config = read_json(CONFIG)
    with _reading(CONFIG):
        classes = [(int(entry["label"]), str(entry["name"])) for entry in config["classes"]]
    _require([name for _, name in classes] == list(settings.classes), CONFIG, "is of a model for other classes")
    number = max(settings.samples_per_class, settings.eval_samples_per_class)
    drawings = samples.read(len(classes), number)
    _require(drawings.shape[1] == number, SAMPLES, f"holds {drawings.shape[1]} drawings of each class, not {number}")
    return classes, drawings[..., 0]


def read_figures(classes: Sequence[tuple[int, str]]) -> tuple[dict[str, Figure], list[dict[str, Figure]]]:
    """The measures over all classes, and those of each class."""
    found: dict[str, dict[str, Figure]] = {str(label): {} for label in ("", *(label for label, _ in classes))}
    with _reading(METRICS_TABLE):
        for row in read_csv(METRICS_TABLE):
            figure = Figure(*(float(row[key] or "nan") for key in Figure._fields))
            if row["metric"] in METRICS:
                found.setdefault(row["label"], {})[row["metric"]] = figure
        _ = [figures["heldout_bits_per_dim"] for figures in found.values()]
    _require(len(found) == 1 + len(classes), METRICS_TABLE, f"is about other classes than {CONFIG}")
    return found[""], [found[str(label)] for label, _ in classes]


def read_arrays(classes: int, samples: int) -> dict[str, npt.NDArray[Any]]:
    """What evaluate says of each drawing: arrays by name."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with _reading(ARRAYS):
        try:
            arrays = load(ARRAYS.read_bytes())
        except SafetensorError as error:
            raise ValueError(error) from None
        shapes = arrays["pixel_bits"].shape, arrays["generated_nearest"].shape
        if shapes != ((classes, SIDE, SIDE), (classes * samples,)):
            raise ValueError(f"it is about other drawings than {SAMPLES}")
        _ = arrays["heldout_rows"], arrays["heldout_predicted"], arrays["generated_predicted"]
    return arrays


def read_confusion(names: Sequence[str]) -> npt.NDArray[np.float64]:
    """How often each class was named where each was asked for, as shares of the rows."""
    counts = np.zeros((len(names), len(names)))
    with _reading(CONFUSION):
        for row in read_csv(CONFUSION):
            counts[names.index(row["requested"]), names.index(row["predicted"])] += 1
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def choose_real(drawings: pd.DataFrame, label: int, number: int) -> pd.DataFrame:
    """The first `number` drawings of a class by position: those held out, and for want of more those trained on."""
    of_class = drawings[drawings["label"] == label]
    return of_class.sort_values(["heldout", "position"], ascending=[False, True])[:number]


def review_hash(samples: str, asked: Sequence[ReviewPair]) -> str:
    """What a blind review is known by: the SHA-256 of that of the samples, of the questions and of what they show."""
    digest = hashlib.sha256(samples.encode())
    for one in asked:
        digest.update(json.dumps([one.name, *one.question]).encode() + one.real.tobytes() + one.generated.tobytes())
    return digest.hexdigest()


def file_hashes() -> list[tuple[str, str, str]]:
    """What the page was made from, but for the reviews: in words, its file, and the SHA-256 of its bytes."""
    found = []
    for what, path in (
        ("Index", INDEX),
        ("Drawings", IMAGES),
        ("Held out or not", DRAWINGS),
        ("Model", CONFIG),
        ("Weights", WEIGHTS),
        ("Loss", LOSS),
        ("Samples", SAMPLES),
        ("Judge", JUDGE),
        ("Drawings measured", ARRAYS),
        ("Computed on", MADE_WITH),
        ("Measures", METRICS_TABLE),
        ("Confusion", CONFUSION),
    ):
        with _reading(path):
            found.append((what, path.as_posix(), files.sha256(path)))
    return found


def read(settings: Params) -> Report:
    """Read all that the report shows.

    Raises:
      StageError: a file is missing or broken, or belongs to another run than the others.
    """
    known, generated = read_samples(settings)
    names = [name for _, name in known]
    in_all, by_class = read_figures(known)
    images = read_drawings(IMAGES)
    drawings = read_table(DRAWINGS, {"position": "int64", "label": "int16", "heldout": "bool"})
    _require(images.shape == (len(drawings), SIDE, SIDE), IMAGES, f"does not hold the {len(drawings)} of {DRAWINGS}")
    heldout = np.flatnonzero(drawings["heldout"])
    measured = settings.eval_samples_per_class
    arrays = read_arrays(len(known), measured)
    _require(np.array_equal(arrays["heldout_rows"], heldout), ARRAYS, f"is about other drawings than {DRAWINGS}")

    def real(row: int) -> ReportDrawing:
        place = int(np.searchsorted(heldout, row))
        if place == len(heldout) or heldout[place] != row:
            return ReportDrawing(images[row])
        return described("heldout", place, images[row], float(arrays["heldout_bits_per_dim"][place]))

    def described(whose: str, place: int, drawing: Images, bits: float = math.nan) -> ReportDrawing:
        opinions = zip(arrays[f"{whose}_predicted"][place], arrays[f"{whose}_probability"][place], strict=True)
        return ReportDrawing(
            drawing,
            images[arrays[f"{whose}_nearest"][place]],
            float(arrays[f"{whose}_distance"][place]),
            tuple((names[named], float(probability)) for named, probability in opinions),
            bits,
        )

    classes, rows = [], []
    for place, (label, name) in enumerate(known):
        everything = choose_real(drawings, label, len(drawings))
        _require(len(everything) > 0, DRAWINGS, f"holds no drawing of {name!r}")
        chosen = everything[: min(COLUMNS, settings.samples_per_class)]
        rows.append(everything.index[everything["heldout"]])
        with _reading(ARRAYS):
            classes.append(
                ClassReport(
                    label,
                    name,
                    [real(row) for row in chosen.index],
                    int((~chosen["heldout"]).sum()),
                    [
                        described("generated", place * measured + number, drawing)
                        if number < measured
                        else ReportDrawing(drawing)
                        for number, drawing in enumerate(
                            generated[place, : min(MAX_GENERATED, settings.samples_per_class)]
                        )
                    ],
                    len(rows[-1]),
                    by_class[place],
                    arrays["pixel_bits"][place],
                )
            )
    questions = blind_review.questions(
        [len(of_class) for of_class in rows],
        [generated.shape[1]] * len(known),
        settings.samples_per_class,
        settings.seed,
    )
    asked = [
        ReviewPair(q, names[q.place], images[rows[q.place][q.real]], generated[q.place, q.generated]) for q in questions
    ]
    made_with = read_json(MADE_WITH)
    with _reading(MADE_WITH):
        made_with = {str(key): str(value) for key, value in made_with.items()}
    found = file_hashes()
    asked_hash = review_hash(next(digest for _, path, digest in found if path == SAMPLES.as_posix()), asked)
    reviewed, others = blind_review.read(asked_hash, questions)
    found += [("Review", path.as_posix(), files.sha256(path)) for path in blind_review.paths()]
    return Report(
        settings,
        classes,
        len(drawings) - len(heldout),
        len(heldout),
        in_all,
        read_loss(LOSS),
        read_confusion(names),
        found,
        made_with,
        asked,
        asked_hash,
        reviewed,
        others,
    )
