"""The real drawings above the generated ones, what was measured on them, and a blind review: a page for the browser.

reads    every setting, which the page shows; data/extract/index.parquet and the weights, of which it shows the hash;
         data/filter/, data/train/, data/sample/, data/evaluate/, reports/measures.csv, reports/confusion.csv, and the
         files of answers in reviews/
writes   reports/index.html                    one file that asks for nothing else
         reports/classes/<label>_<name>.png    2240 × 560: eight real drawings above eight generated ones
command  python -m stages.report
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages import charts, command, files, pages, reviews, tables
from stages.charts import Loss
from stages.errors import StageError
from stages.measures.catalogue import MEASURES, SHARES
from stages.params import DOODLES, Params

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup

INDEX = Path("data/extract/index.parquet")
IMAGES = Path("data/filter/images.npy")
DRAWINGS = Path("data/filter/drawings.parquet")
CONFIG = Path("data/train/config.json")
LOSS = Path("data/train/loss.csv")
WEIGHTS = Path("data/train/weights.safetensors")
SAMPLES = Path("data/sample/samples.npy")
JUDGE = Path("data/judge/weights.safetensors")
DRAWN = Path("data/evaluate/drawings.safetensors")
MADE_WITH = Path("data/evaluate/made_with.json")
MEASURED = Path("reports/measures.csv")
CONFUSION = Path("reports/confusion.csv")

PAGE = Path("reports/index.html")
SHEETS = Path("reports/classes")

SIDE = 28  # pixels along each side of a drawing
COLUMNS = 8  # drawings side by side
SCALE = 10  # a sheet shows a drawing at 280 × 280
SHOWN = 64  # of a class's generated drawings, at the most
FRAMES = 8  # of a drawing in progress
IN_PROGRESS = 6  # classes shown in progress
# What the classes can be sorted by, besides their order and their names.
SORTED_BY = ("fidelity", "informedness", "heldout_bits_per_dim", "label_use", "precision", "coverage", "told_apart")

Images = npt.NDArray[np.uint8]


class Figure(NamedTuple):
    """A measure's value, its 95% interval and what to hold it against; NaN for what could not be measured."""

    value: float
    low: float
    high: float
    reference: float


@dataclass(frozen=True)
class Shown:
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
    real: list[Shown]
    trained_on: int  # how many of `real` the model was trained on, for want of held-out ones
    generated: list[Shown]
    heldout_drawings: int
    figures: dict[str, Figure]  # by measure
    heat: npt.NDArray[np.float32]  # (28, 28), the bits of each pixel, over the held-out drawings

    @property
    def heldout_bits_per_dim(self) -> float:
        return self.figures["heldout_bits_per_dim"].value


@dataclass(frozen=True)
class Asked:
    """A question of the blind review: the drawings to show, the generated one first or not, and the one shown alone."""

    question: reviews.Question
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
    asked: list[Asked]
    asked_hash: str
    reviews: list[reviews.Review]
    other_reviews: int

    @property
    def heldout_bits_per_dim(self) -> float:
        return self.figures["heldout_bits_per_dim"].value


def main(settings: Params) -> None:
    """Run the stage."""
    report = read(settings)
    with files.folder(SHEETS) as folder, files.output(PAGE) as temporary:
        write_sheets(report.classes, folder)
        temporary.write_text(page(report), encoding="utf-8")


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
        array = tables.mapped(path)
        if array.shape[-3:] != (SIDE, SIDE, 1):
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
    samples = read_drawings(SAMPLES)
    shape = (len(classes), max(settings.samples_per_class, settings.eval_samples_per_class), SIDE, SIDE)
    _require(samples.shape == shape, SAMPLES, f"has the shape {(*samples.shape, 1)} and not {(*shape, 1)}")
    return classes, samples


def read_figures(classes: Sequence[tuple[int, str]]) -> tuple[dict[str, Figure], list[dict[str, Figure]]]:
    """The measures over all classes, and those of each class."""
    found: dict[str, dict[str, Figure]] = {str(label): {} for label in ("", *(label for label, _ in classes))}
    with _reading(MEASURED):
        for row in read_csv(MEASURED):
            figure = Figure(*(float(row[key] or "nan") for key in Figure._fields))
            if row["measure"] in MEASURES:
                found.setdefault(row["label"], {})[row["measure"]] = figure
        _ = [figures["heldout_bits_per_dim"] for figures in found.values()]
    _require(len(found) == 1 + len(classes), MEASURED, f"is about other classes than {CONFIG}")
    return found[""], [found[str(label)] for label, _ in classes]


def read_arrays(classes: int, samples: int) -> dict[str, npt.NDArray[Any]]:
    """What evaluate says of each drawing: arrays by name."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with _reading(DRAWN):
        try:
            arrays = load(DRAWN.read_bytes())
        except SafetensorError as error:
            raise ValueError(error) from None
        shapes = arrays["pixel_bits"].shape, arrays["generated_nearest"].shape
        if shapes != ((classes, SIDE, SIDE), (classes * samples,)):
            raise ValueError(f"it is about other drawings than {SAMPLES}")
        _ = arrays["heldout_rows"], arrays["heldout_named"], arrays["generated_named"]
    return arrays


def read_confusion(names: Sequence[str]) -> npt.NDArray[np.float64]:
    """How often each class was named where each was asked for, as shares of the rows."""
    counts = np.zeros((len(names), len(names)))
    with _reading(CONFUSION):
        for row in read_csv(CONFUSION):
            counts[names.index(row["asked"]), names.index(row["named"])] += 1
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def choose_real(drawings: pd.DataFrame, label: int, number: int) -> pd.DataFrame:
    """The first `number` drawings of a class by position: those held out, and for want of more those trained on."""
    of_class = drawings[drawings["label"] == label]
    return of_class.sort_values(["heldout", "position"], ascending=[False, True])[:number]


def hash_of_asked(samples: str, asked: Sequence[Asked]) -> str:
    """What a blind review is known by: the SHA-256 of that of the samples, of the questions and of what they show."""
    digest = hashlib.sha256(samples.encode())
    for one in asked:
        digest.update(json.dumps([one.name, *one.question]).encode() + one.real.tobytes() + one.generated.tobytes())
    return digest.hexdigest()


def hashes() -> list[tuple[str, str, str]]:
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
        ("Drawings measured", DRAWN),
        ("Computed on", MADE_WITH),
        ("Measures", MEASURED),
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
    known, samples = read_samples(settings)
    names = [name for _, name in known]
    in_all, by_class = read_figures(known)
    images = read_drawings(IMAGES)
    drawings = read_table(DRAWINGS, {"position": "int64", "label": "int16", "heldout": "bool"})
    _require(images.shape == (len(drawings), SIDE, SIDE), IMAGES, f"does not hold the {len(drawings)} of {DRAWINGS}")
    heldout = np.flatnonzero(drawings["heldout"])
    measured = settings.eval_samples_per_class
    arrays = read_arrays(len(known), measured)
    _require(np.array_equal(arrays["heldout_rows"], heldout), DRAWN, f"is about other drawings than {DRAWINGS}")

    def real(row: int) -> Shown:
        place = int(np.searchsorted(heldout, row))
        if place == len(heldout) or heldout[place] != row:
            return Shown(images[row])
        return described("heldout", place, images[row], float(arrays["heldout_bits_per_dim"][place]))

    def described(whose: str, place: int, drawing: Images, bits: float = math.nan) -> Shown:
        opinions = zip(arrays[f"{whose}_named"][place], arrays[f"{whose}_probability"][place], strict=True)
        return Shown(
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
        with _reading(DRAWN):
            classes.append(
                ClassReport(
                    label,
                    name,
                    [real(row) for row in chosen.index],
                    int((~chosen["heldout"]).sum()),
                    [
                        described("generated", place * measured + number, drawing)
                        if number < measured
                        else Shown(drawing)
                        for number, drawing in enumerate(samples[place, : min(SHOWN, settings.samples_per_class)])
                    ],
                    len(rows[-1]),
                    by_class[place],
                    arrays["pixel_bits"][place],
                )
            )
    questions = reviews.questions(
        [len(of_class) for of_class in rows], [samples.shape[1]] * len(known), settings.samples_per_class, settings.seed
    )
    asked = [Asked(q, names[q.place], images[rows[q.place][q.real]], samples[q.place, q.generated]) for q in questions]
    made_with = read_json(MADE_WITH)
    with _reading(MADE_WITH):
        made_with = {str(key): str(value) for key, value in made_with.items()}
    found = hashes()
    asked_hash = hash_of_asked(next(digest for _, path, digest in found if path == SAMPLES.as_posix()), asked)
    reviewed, others = reviews.read(asked_hash, questions)
    found += [("Review", path.as_posix(), files.sha256(path)) for path in reviews.paths()]
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


# --- The sheets ---


def sheet_name(label: int, name: str) -> str:
    """`309_The_Eiffel_Tower.png`: a file name that is one on every system, whatever the class is called."""
    return f"{label}_{re.sub('[^A-Za-z0-9-]', '_', name)}.png"


def sheet(real: Images, generated: Images) -> Images:
    """A row of real drawings above rows of generated ones: (height, width) uint8, no margins, 280 pixels a drawing.

    As wide as the generated drawings, up to eight; places without a drawing are black.
    """
    columns = min(COLUMNS, len(generated))
    rows = 1 + math.ceil(len(generated) / columns)
    places = np.zeros((rows * columns, SIDE, SIDE), np.uint8)
    places[: len(real)] = real
    places[columns : columns + len(generated)] = generated
    tiled = places.reshape(rows, columns, SIDE, SIDE).swapaxes(1, 2).reshape(rows * SIDE, columns * SIDE)
    return tiled.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def write_sheets(classes: Sequence[ClassReport], folder: Path) -> None:
    from PIL import Image

    for entry in classes:
        real, generated = (np.stack([shown.drawing for shown in some]) for some in (entry.real, entry.generated))
        Image.fromarray(sheet(real, generated)).save(folder / sheet_name(entry.label, entry.name))


# --- The page ---


def in_words(text: str) -> Markup:
    """A setting's description as HTML: what stands between `backticks` is code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def figure(value: float, measure: str) -> str:
    """A measure's value for people: shares in percent."""
    if math.isnan(value):
        return "–"
    if measure in SHARES:
        return f"{value:.0%}" if value >= 0.0995 or value == 0 else f"{value:.1%}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def interval(found: Figure, measure: str) -> str:
    """`12% to 15%`, or nothing where there is none."""
    if math.isnan(found.low):
        return ""
    return f"{figure(found.low, measure)} to {figure(found.high, measure)}"


def best_first(found: Figure, measure: str) -> float:
    """A number to sort by: the lower the better, what could not be measured last."""
    value = pages.cost(measure, MEASURES[measure].better, found.value, found.reference)
    return 1e9 if math.isnan(value) else round(value, 6)


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


def often_named(shares: npt.NDArray[np.float64], names: Sequence[str], number: int = 3) -> list[tuple[str, float]]:
    """The names that the judge gives most, with their shares of a set."""
    return [(names[place], float(shares[place])) for place in np.argsort(-shares, kind="stable")[:number]]


def blind(report: Report) -> dict[str, Any]:
    """What the page's review by the reader needs."""
    questions = []
    for asked in report.asked:
        pair = [pages.data_uri(asked.generated), pages.data_uri(asked.real)]
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
    """The page as HTML. Its style and its script are admitted by their hashes, images only from the page itself."""
    from markupsafe import Markup

    here = Path(__file__).parent
    style = (here / "report.css").read_text(encoding="utf-8")
    script = (here / "report.js").read_text(encoding="utf-8")
    environment = pages.environment(here)
    environment.filters |= {
        "as_written": pages.as_written,
        "best_first": best_first,
        "bits": "{:.3f}".format,
        "data_uri": pages.data_uri,
        "figure": figure,
        "frames": frames,
        "in_words": in_words,
        "interval": interval,
        "number": "{:,}".format,
        "percent": "{:.0%}".format,
    }
    heat = np.stack([entry.heat for entry in report.classes])
    most = charts.heat_scale(heat)
    names = [entry.name for entry in report.classes]
    return environment.get_template("report.html").render(
        report=report,
        measures=MEASURES,
        sorted_by=[measure for measure in SORTED_BY if all(measure in entry.figures for entry in report.classes)],
        meanings={key: field.description for key, field in Params.model_fields.items()},
        stand_in=report.settings.mirror.rstrip("/") == DOODLES,
        curve=charts.loss_curve(report.loss),
        heat=charts.heat_map(np.average(heat, axis=0, weights=[c.heldout_drawings for c in report.classes]), most),
        heats=[charts.coloured(entry, most) for entry in heat],
        matrix=charts.confusion(report.confusion, names),
        named=[often_named(row, names) for row in report.confusion],
        names_in_all=often_named(report.confusion.mean(axis=0), names),
        in_progress=report.classes[:IN_PROGRESS],
        blind=blind(report),
        provenance=provenance(report),
        style=Markup(style),
        style_hash=pages.policy_hash(style),
        script=Markup(script),
        script_hash=pages.policy_hash(script),
    )


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="eval_samples_per_class or num_drawings"))
