"""The stage report: from the files of a run to the page and the sheets."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw
from safetensors.numpy import load_file, save_file

from stages import command
from stages import report as stage
from stages.common.errors import StageError
from stages.metrics.catalogue import METRICS
from stages.outputs.losses import Loss
from stages.params import Params
from stages.reporting import blind_review, charts, figures, inputs, page, sheets
from tests.conftest import opened, refused
from tests.settings import ROOT, write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

HOSTILE = (
    '"><img src=x onerror=alert(1)><script>alert(1)'  # which the settings refuse; the page escapes it all the same
)
ODD = "'salt' &amp; pepper"
NAMES = ("sea turtle", "The Eiffel Tower", ODD)
LABELS = {"sea turtle": 255, "The Eiffel Tower": 309, ODD: 345}


def strokes(number: int, seed: int) -> sheets.Images:
    """Drawings (number, 28, 28, 1): a few strokes each, no two the same."""
    random = np.random.default_rng(seed)
    drawings = np.zeros((number, 28, 28, 1), np.uint8)
    for drawing in drawings:
        image = Image.new("L", (28, 28))
        for _ in range(3):
            ImageDraw.Draw(image).line(random.integers(2, 26, 6).tolist(), fill=255, width=2)
        drawing[..., 0] = np.asarray(image)
    return drawings


def drawings(name: str, number: int) -> sheets.Images:
    return strokes(number, LABELS[name])


def write_inputs(
    folder: Path,
    settings: Params,
    labels: dict[str, int],
    drawings: Callable[[str, int], sheets.Images],
    per_class: int = 40,
    losses: Sequence[tuple[int, int, str, float]] | None = None,
) -> None:
    """The files of a run as the stages before this one leave them, the samples being real drawings shifted aside."""
    write(folder, settings.model_dump(mode="json"))
    for path in ("data/extract", "data/filter", "data/train", "data/sample", "data/judge", "data/evaluate", "reports"):
        (folder / path).mkdir(parents=True)
    classes = list(settings.classes)
    samples = max(settings.samples_per_class, settings.eval_samples_per_class)
    pixels = {name: drawings(name, per_class + samples) for name in classes}
    order = np.random.default_rng(1).permutation(
        [(place, row) for place in range(len(classes)) for row in range(per_class)]
    )
    names = [classes[place] for place, _ in order]
    table = pd.DataFrame({
        "position": np.arange(len(order)) * 7 + 3,
        "label": np.array([labels[name] for name in names], np.int16),
        "name": pd.Categorical(names),
        "row": order[:, 1].astype(np.int32),
    })  # fmt: skip
    table.to_parquet(folder / "data/extract/index.parquet")
    table["heldout"] = table.groupby("label").cumcount() % 4 == 3
    table.to_parquet(folder / "data/filter/drawings.parquet")
    np.save(folder / "data/filter/images.npy", np.stack([pixels[classes[place]][row] for place, row in order]))
    np.save(
        folder / "data/sample/samples.npy",
        np.stack([np.roll(pixels[name][per_class:], (3, 3), (1, 2)) for name in classes]),
    )
    (folder / "data/train/weights.safetensors").write_bytes(b"weights")
    config = {"classes": [{"label": labels[name], "name": name} for name in classes]}
    (folder / "data/train/config.json").write_text(json.dumps(config))
    if losses is None:
        losses = [(step, step * 32, "train", 1.7 + 6.3 / (1 + step / 8)) for step in range(0, 400, 4)]
        losses += [(step, step * 32, "heldout", 1.76 + 6.3 / (1 + step / 8)) for step in (100, 200, 300, 399)]
    pd.DataFrame(losses, columns=["step", "drawings", "split", "bits_per_dim"]).to_csv(
        folder / "data/train/loss.csv", index=False
    )
    (folder / "data/judge/weights.safetensors").write_bytes(b"judge")
    write_measured(folder, [(labels[name], name) for name in classes], table["heldout"].to_numpy(), settings)


def write_measured(folder: Path, known: Sequence[tuple[int, str]], heldout: Any, settings: Params) -> None:
    """What evaluate leaves: the figure of a class is 0.1 above that of the one before."""
    random, number = np.random.default_rng(2), len(known)
    with (folder / "reports/metrics.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["metric", "label", "name", "value", "low", "high", "reference", "better"])
        for place, (label, name) in enumerate([("", ""), *known]):
            for measure in METRICS:
                value = 1.4 + 0.1 * place if "bits" in measure else 0.1 + 0.1 * place
                if place == 0 or measure != "frechet_distance":
                    writer.writerow([measure, label, name, value, value - 0.05, value + 0.05, 0.9, "less"])
    with (folder / "reports/confusion.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["requested", "predicted"])
        names = [name for _, name in known]
        writer.writerows([(name, other) for name in names for other in (names[0], name)])

    def of(whose: str, drawings: int) -> dict[str, Any]:
        return {
            f"{whose}_predicted": random.integers(0, number, (drawings, min(3, number))).astype(np.int32),
            f"{whose}_probability": np.tile(np.array([0.5, 0.25, 0.125][:number], np.float32), (drawings, 1)),
            f"{whose}_nearest": random.choice(np.flatnonzero(~heldout), drawings).astype(np.int32),
            f"{whose}_distance": random.random(drawings).astype(np.float32),
        }

    arrays = {
        "pixel_bits": 8 * random.random((number, 28, 28)).astype(np.float32),
        "heldout_rows": np.flatnonzero(heldout).astype(np.int32),
        "heldout_bits_per_dim": random.random(heldout.sum()).astype(np.float32),
        **of("heldout", heldout.sum()),
        **of("generated", number * settings.eval_samples_per_class),
    }
    save_file(arrays, folder / "data/evaluate/drawings.safetensors")
    (folder / "data/evaluate/made_with.json").write_text('{"device": "CPU", "numpy": "2.0"}')


@pytest.fixture(scope="module")
def settings(full_run: Params) -> Params:
    return full_run.model_copy(update={"mirror": "drawings of my own", "classes": NAMES, "eval_samples_per_class": 12})


@pytest.fixture(scope="module")
def finished(settings: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stage has run, for tests that only look."""
    folder = tmp_path_factory.mktemp("finished")
    write_inputs(folder, settings, LABELS, drawings)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stage.main(settings)
    return folder


@pytest.fixture
def input_files(settings: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, holding what the stage reads, for tests that change it."""
    write_inputs(tmp_path, settings, LABELS, drawings)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def html(folder: Path) -> str:
    return (folder / "reports/index.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """The elements of a page, (tag, attributes), and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.text += " " * (tag == "td")
        self.found.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self, parent: str) -> list[str]:
        """The addresses of the images that come first after an element of a class."""
        return [
            image["src"]
            for (_, before), (tag, image) in zip(self.found, self.found[1:], strict=False)
            if tag == "img" and before.get("class") == parent
        ]

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.found if attribute in attributes]


# --- Which drawings ---


def test_real_drawings_are_the_first_held_out_ones_and_then_those_trained_on() -> None:
    table = pd.DataFrame({
        "position": [9, 1, 4, 6, 2, 8],
        "label": [7, 7, 7, 7, 5, 7],
        "heldout": [True, False, True, False, True, False],
    })  # fmt: skip
    assert inputs.choose_real(table, 7, 2)["position"].tolist() == [4, 9]
    assert inputs.choose_real(table, 7, 4)["position"].tolist() == [4, 9, 1, 6]
    assert inputs.choose_real(table, 7, 8)["position"].tolist() == [4, 9, 1, 6, 8]


# --- The sheets ---


def test_a_sheet_a_class_under_a_name_that_is_safe_everywhere(finished: Path) -> None:
    names = {path.name for path in (finished / "reports/classes").iterdir()}
    assert names == {"255_sea_turtle.png", "309_The_Eiffel_Tower.png", "345__salt___amp__pepper.png"}
    assert sheets.sheet_name(345, HOSTILE) == "345____img_src_x_onerror_alert_1___script_alert_1_.png"


def test_a_sheet_lays_eight_held_out_drawings_over_eight_samples(finished: Path) -> None:
    with Image.open(finished / "reports/classes/309_The_Eiffel_Tower.png") as image:
        assert (image.size, image.mode) == ((2240, 560), "L")
        pixels = np.asarray(image)
    table = pd.read_parquet(finished / "data/filter/drawings.parquet")
    images = np.load(finished / "data/filter/images.npy")
    real = images[table.index[(table["label"] == 309) & table["heldout"]][:8]]
    generated = np.load(finished / "data/sample/samples.npy")[1, :8]
    for row, drawn in enumerate((real, generated)):
        for column in range(8):
            place = pixels[280 * row : 280 * (row + 1), 280 * column : 280 * (column + 1)]
            assert np.array_equal(place, np.kron(drawn[column, ..., 0], np.ones((10, 10), np.uint8)))


@pytest.mark.parametrize(("samples", "shape"), [(1, (560, 280)), (3, (560, 840)), (8, (560, 2240)), (11, (840, 2240))])
def test_a_sheet_is_as_wide_as_its_samples_up_to_eight(samples: int, shape: tuple[int, int]) -> None:
    white = np.full((samples, 28, 28), 255, np.uint8)
    pixels = sheets.sheet(white[:1], white)
    assert pixels.shape == shape
    assert pixels.sum() == 255 * 280 * 280 * (1 + samples)
    assert pixels[:280, 280:].sum() == 0, "a class with one real drawing leaves the other places black"


# --- The page ---


def test_the_page_stands_alone(finished: Path) -> None:
    page = Elements(html(finished))
    assert html(finished).startswith("<!doctype html>\n")
    for address in page.all("src") + page.all("href"):
        assert address.startswith(("data:image/png;base64,", "#"))
    assert not {tag for tag, _ in page.found} & {"iframe", "object", "base"}
    scripts = [attributes.get("type") for tag, attributes in page.found if tag == "script"]
    assert scripts == ["application/json", "application/json", None]
    assert not [key for _, attributes in page.found for key in attributes if key.startswith("on")]
    assert not page.all("style"), "the policy refuses a style in an element"
    identifiers = page.all("id")
    assert len(set(identifiers)) == len(identifiers)
    assert {address[1:] for address in page.all("href") if address.startswith("#")} <= set(identifiers)
    policy = next(attributes["content"] for _, attributes in page.found if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_page_shows_each_class_with_its_drawings_and_figures(finished: Path) -> None:
    page = Elements(html(finished))
    assert html(finished).count('class="tile"') == 3 * (8 + 8)
    assert "sea turtle" in page.text
    assert "label 309" in page.text
    assert "1.600 bits per dimension" in " ".join(page.text.split())
    assert "named by the judge 30% of the time (25% to 35%), real ones 90%" in " ".join(page.text.split())
    assert "8 generated drawings of sea turtle" in page.all("aria-label")
    assert "8 real drawings of sea turtle" in page.all("aria-label")
    generated = np.load(finished / "data/sample/samples.npy")[2, 7, ..., 0]
    assert np.array_equal(picture(page.images("tile")[-1]), generated)


def picture(address: str) -> Any:
    """The pixels of a picture that is its own address."""
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        return np.asarray(image)


def test_a_drawing_says_what_was_found_of_it(finished: Path) -> None:
    arrays = load_file(finished / "data/evaluate/drawings.safetensors")
    images = np.load(finished / "data/filter/images.npy")[..., 0]
    tiles = [attributes for _, attributes in Elements(html(finished)).found if attributes.get("class") == "tile"]
    last = tiles[-1]  # the eighth generated one of the third class, of which twelve were measured
    place = 2 * 12 + 7
    assert np.array_equal(picture(last["data-nearest"]), images[arrays["generated_nearest"][place]])
    assert last["data-distance"] == f"{arrays['generated_distance'][place]:.2f}"
    named = [NAMES[i] for i in arrays["generated_predicted"][place]]
    assert last["data-judge"] == f"{named[0]} 50%, {named[1]} 25%, {named[2]} 12%"
    assert "data-bits" not in last
    assert float(tiles[0]["data-bits"]) in arrays["heldout_bits_per_dim"].round(3)


def test_the_page_has_every_measure_with_its_interval_and_reference(finished: Path) -> None:
    text = " ".join(Elements(html(finished)).text.split())
    assert "Fréchet distance How far apart real and generated lie in the judge's features. 0.100 0.050 to 0.150" in text
    for measure in METRICS.values():
        assert text.count(f"{measure.title} {measure.meaning}") == 1 + 3 * (measure.title != "Fréchet distance")
    assert "names the class asked for on 10% (5.0% to 15%) of the generated ones" in text
    assert "device CPU, numpy 2.0" in text


def test_a_drawing_in_progress_is_a_part_of_the_finished_one() -> None:
    [drawing] = strokes(1, 0)[..., 0]
    frames = page.frames(drawing)
    drawn = [frame[..., 1] == 255 for frame in frames]
    assert [int(part.sum()) for part in drawn] == [98 * number for number in range(1, 9)]
    for frame, part in zip(frames, drawn, strict=True):
        assert part.ravel()[: part.sum()].all(), "from the upper left on"
        assert np.array_equal(frame[..., 0], np.where(part, drawing, 0))


def test_what_is_better_than_perfect_is_sorted_as_perfect() -> None:
    def cost(metric: str, value: float, reference: float = 0) -> float:
        return figures.sort_key(figures.Figure(value, np.nan, np.nan, reference), metric)

    assert cost("c2st_accuracy", 0.43) == cost("c2st_accuracy", 0.5) < cost("c2st_accuracy", 0.6)
    assert cost("mmd", -0.02) == cost("mmd", 0) < cost("mmd", 0.1)
    assert cost("class_accuracy", 0.9) < cost("class_accuracy", 0.2) < cost("class_accuracy", np.nan)
    assert cost("ink", 0.2, 0.25) < cost("ink", 0.35, 0.25)
    assert figures.PERFECT.keys() <= METRICS.keys()


def test_the_page_names_its_files_and_settings_for_a_program(finished: Path, settings: Params) -> None:
    block = html(finished).partition('id="provenance">')[2].partition("</script>")[0]
    found = json.loads(block)
    assert found["settings"] == settings.model_dump(mode="json")
    for path, digest in found["files"].items():
        assert digest == hashlib.sha256((finished / path).read_bytes()).hexdigest(), path


def test_the_page_shows_settings_and_hashes(finished: Path) -> None:
    text = " ".join(Elements(html(finished)).text.split())
    assert "num_filters 128 Width: channels in every layer; time grows with its square." in text
    assert "prefetch false" in text
    for path in (
        "data/extract/index.parquet",
        "data/filter/images.npy",
        "data/filter/drawings.parquet",
        "data/train/weights.safetensors",
        "data/sample/samples.npy",
    ):
        assert f"{path} {hashlib.sha256((finished / path).read_bytes()).hexdigest()}" in text


@pytest.fixture
def hostile(settings: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page of a class whose name is markup."""
    monkeypatch.chdir(tmp_path)
    settings = settings.model_copy(update={"classes": (HOSTILE,)})
    write_inputs(tmp_path, settings, {HOSTILE: 345}, lambda _, number: strokes(number, 0))
    stage.main(settings)
    return tmp_path


def test_a_hostile_name_is_text(hostile: Path) -> None:
    page = Elements(html(hostile))
    assert HOSTILE in page.text
    assert not page.all("onerror")
    assert "x" not in page.all("src")


def test_a_run_on_stand_ins_says_so_across_the_top(finished: Path, input_files: Path, settings: Params) -> None:
    assert "stand-in" not in html(finished).partition("</style>")[2].partition("</header>")[0].lower()
    stage.main(settings.model_copy(update={"mirror": "doodles"}))
    page = Elements(html(input_files))
    assert "A run on stand-in drawings" in page.text.partition("Drawings")[0]
    assert not [label for label in page.all("aria-label") if "real " in label]


def test_fewer_samples_and_fewer_held_out_drawings(settings: Params, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    few = settings.model_copy(update={"samples_per_class": 5})
    write_inputs(tmp_path, few, LABELS, drawings, per_class=7)  # one of seven is held out
    stage.main(few)
    page = Elements(html(tmp_path))
    assert len(page.images("tile")) == 3 * (5 + 5)
    assert page.text.count("4 trained on") == 3
    with Image.open("reports/classes/255_sea_turtle.png") as image:
        assert image.size == (1400, 560)


def test_of_very_many_samples_the_page_shows_the_first(settings: Params, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    many = settings.model_copy(update={"samples_per_class": 70, "classes": NAMES[:1]})
    write_inputs(tmp_path, many, LABELS, drawings)
    stage.main(many)
    page = Elements(html(tmp_path))
    assert len(page.images("tile")) == 8 + 64
    assert "first 64 of 70" in page.text


def test_a_second_run_replaces_the_sheets_of_the_first(input_files: Path, settings: Params) -> None:
    (input_files / "reports/classes").mkdir()
    (input_files / "reports/classes/0_gone.png").write_bytes(b"")
    stage.main(settings)
    assert len(list((input_files / "reports/classes").iterdir())) == 3
    assert inputs.METRICS_TABLE.exists()


def test_a_run_too_small_to_be_measured_has_a_page(input_files: Path, settings: Params) -> None:
    """One drawing of each class leaves most measures open."""
    with inputs.METRICS_TABLE.open("w", encoding="utf-8") as file:
        file.write("metric,label,name,value,low,high,reference,better\n")
        for label in ("", *LABELS.values()):
            file.write(f"heldout_bits_per_dim,{label},,2,,,,less\n")
            file.write(f"mmd,{label},,,,,,less\n")
    stage.main(settings)
    assert "2.000 bits per dimension" in " ".join(Elements(html(input_files)).text.split())


def test_copies_are_held_against_what_the_held_out_drawings_reach(input_files: Path, settings: Params) -> None:
    """Drawings that repeat lie as near to one another as copies do: then more than 1% of the held-out ones do, too."""
    lines = inputs.METRICS_TABLE.read_text(encoding="utf-8").splitlines(keepends=True)
    for low, reference, said in (
        (0.05, 0.01, "may be copies"),
        (0.05, 0.04, "no sign of copying"),
        (0.05, "", "may be copies"),
        (0.015, 0.001, "no sign of copying"),
    ):
        of_all = f"memorised,,,0.06,{low},0.07,{reference},alike\n"
        changed = (of_all if line.startswith("memorised,,,") else line for line in lines)
        inputs.METRICS_TABLE.write_text("".join(changed), encoding="utf-8")
        stage.main(settings)
        assert said in html(input_files), (low, reference)


def test_twenty_classes_of_eight_drawings_make_a_small_page(
    full_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of noise, which takes more bytes than any drawing."""
    monkeypatch.chdir(tmp_path)
    settings = full_run.model_copy(update={"mirror": "drawings of my own"})
    assert (len(settings.classes), settings.samples_per_class) == (20, 8)
    labels = {name: label for label, name in enumerate(settings.classes)}
    noise = np.random.default_rng(0).integers(0, 256, (140, 28, 28, 1), np.uint8)
    write_inputs(tmp_path, settings, labels, lambda _, number: noise[:number])
    stage.main(settings)
    assert stage.PAGE.stat().st_size < 8_000_000


# --- The reviews ---


def asked(name: str = "bee", ink: int = 0, left: bool = True) -> inputs.ReviewPair:
    drawings = np.full((2, 28, 28), ink, np.uint8)
    return inputs.ReviewPair(blind_review.Question(0, 1, 2, left, False), name, *drawings)


def test_a_review_is_known_by_its_questions_and_what_they_show() -> None:
    known = inputs.review_hash("ab", [asked(), asked()])
    assert known == inputs.review_hash("ab", [asked(), asked()])
    others = [
        ("cd", [asked(), asked()]),
        ("ab", [asked()]),
        ("ab", [asked(), asked(left=False)]),
        ("ab", [asked(), asked(name="cat")]),
        ("ab", [asked(), asked(ink=1)]),
    ]
    assert known not in [inputs.review_hash(*other) for other in others]


@pytest.mark.parametrize("change", ["samples_per_class", "seed", "held-out drawings"])
def test_answers_to_other_questions_are_not_scored(
    change: str, input_files: Path, settings: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples are the same to the byte."""
    (input_files / "reviews").mkdir()
    known = inputs.read(settings).asked_hash
    saved = {"questions": known, "mode": blind_review.PAIRS, "reviewer": "", "answers": [[0, True]]}
    (input_files / "reviews/one.json").write_text(json.dumps(saved))
    report = inputs.read(settings)
    assert (len(report.reviews), report.other_reviews) == (1, 0)
    if change == "held-out drawings":
        images = np.load(inputs.IMAGES)
        np.save(inputs.IMAGES, np.roll(images, 1, axis=1))
    else:
        settings = settings.model_copy(update={change: 7})
    report = inputs.read(settings)
    assert (report.reviews, report.other_reviews) == ([], 1)


# --- The loss ---


@pytest.mark.parametrize(
    "losses",
    [
        [],
        [(1, 32, "train", 8.0)],
        [(1, 32, "heldout", 2.0), (2, 64, "heldout", 2.0)],
        [(1, 32, "train", 8.0), (2, 64, "train", float("nan")), (2, 64, "heldout", float("inf"))],
    ],
)
def test_any_loss_can_be_drawn(losses: list[tuple[int, int, str, float]]) -> None:
    curve = ElementTree.fromstring(charts.loss_curve([Loss(*row) for row in losses]))
    lines = {element.get("id"): element.find("path") for element in curve.iter() if element.get("id")}
    assert lines["loss-train-line"] is None or "NaN" not in lines["loss-train-line"].get("d", "")
    assert not [element for element in curve.iter() if "style" in element.attrib]
    colours = {value for element in curve.iter() for key in ("fill", "stroke") if (value := element.get(key))}
    assert colours <= {"none", "currentColor"}


# --- The same inputs, the same bytes ---


def test_another_folder_and_another_process_make_the_same_bytes(finished: Path, input_files: Path) -> None:
    """Another hash seed, time zone and taste in plots too; and no TensorFlow, DVC or Prefect on the way."""
    (input_files / "matplotlibrc").write_text("lines.linewidth: 9\nfont.size: 30\nsvg.fonttype: path\n")
    unwanted = "{'tensorflow', 'tensorflow_datasets', 'dvc', 'prefect'}"
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from stages import command, report\n"
        "assert command.run(report.main, '', []) == 0\n"
        f"print({unwanted} & {{name.partition('.')[0] for name in sys.modules}})"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "MATPLOTLIBRC": str(input_files)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("set()\n", "")
    written = [path.relative_to(input_files) for path in sorted((input_files / "reports").rglob("*")) if path.is_file()]
    assert Path("reports/index.html") in written
    for path in written:
        assert (input_files / path).read_bytes() == (finished / path).read_bytes(), path
    assert str(input_files) not in html(input_files)


def test_help_loads_nothing_heavy() -> None:
    module = ["-X", "importtime", "-m", "stages.report", "--help"]
    shown = subprocess.run([sys.executable, *module], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "reports/index.html" in shown.stdout
    loaded = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert not loaded & {"pandas", "matplotlib", "jinja2", "PIL", "pyarrow", "tensorflow"}


# --- What can be wrong with the inputs ---


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, samples=np.zeros(1))


INPUTS = {
    inputs.INDEX: "extract",
    inputs.IMAGES: "filter",
    inputs.DRAWINGS: "filter",
    inputs.CONFIG: "train",
    inputs.LOSS: "train",
    inputs.WEIGHTS: "train",
    inputs.SAMPLES: "sample",
    inputs.JUDGE: "judge",
    inputs.ARRAYS: "evaluate",
    inputs.MADE_WITH: "evaluate",
    inputs.METRICS_TABLE: "evaluate",
    inputs.CONFUSION: "evaluate",
}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the stage says when it fails, having written nothing."""
    assert command.run(stage.main, stage.__doc__, []) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not stage.PAGE.exists()
    assert not stage.SHEETS.exists()
    return err.removeprefix("error: ").rstrip()


@pytest.mark.parametrize(("path", "writer"), INPUTS.items(), ids=str)
def test_an_input_that_is_not_there(
    path: Path, writer: str, input_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.unlink()
    assert said(capsys) == f"{path} is not there: run the stage {writer} first"


OTHER_CLASSES = "metric,label,name,value,low,high,reference,better\nheldout_bits_per_dim,{},{},2,1,3,,less\n"
WRONG: dict[str, tuple[Path, Callable[[Path], object], str]] = {
    "truncated samples": (inputs.SAMPLES, truncate, "cannot be used ("),
    "truncated images": (inputs.IMAGES, truncate, "cannot be used ("),
    "truncated table": (inputs.DRAWINGS, truncate, "cannot be used ("),
    "truncated config": (inputs.CONFIG, truncate, "cannot be used ("),
    "empty samples": (inputs.SAMPLES, lambda path: path.write_bytes(b""), "cannot be used ("),
    "pickled samples": (inputs.SAMPLES, lambda path: np.save(path, np.array([{}], object)), "cannot be used ("),
    "an archive": (
        inputs.SAMPLES,
        archive,
        "cannot be used (the magic string is not correct",
    ),
    "samples of floats": (
        inputs.SAMPLES,
        lambda path: np.save(path, np.zeros((3, 8, 28, 28, 1))),
        "cannot be used (it holds float64 of shape (3, 8, 28, 28, 1); expected: uint8 in C order)",
    ),
    "samples of two classes": (
        inputs.SAMPLES,
        lambda path: np.save(path, strokes(16, 0).reshape(2, 8, 28, 28, 1)),
        "cannot be used (it has the shape (2, 8, 28, 28, 1); expected: (3, 12, 28, 28, 1), or more drawings)",
    ),
    "four samples a class": (
        inputs.SAMPLES,
        lambda path: np.save(path, strokes(12, 0).reshape(3, 4, 28, 28, 1)),
        "cannot be used (it has the shape (3, 4, 28, 28, 1); expected: (3, 12, 28, 28, 1), or more drawings)",
    ),
    "an image short": (inputs.IMAGES, lambda path: np.save(path, strokes(119, 0)), "does not hold the 120 of"),
    "a table without labels": (
        inputs.DRAWINGS,
        lambda path: pd.DataFrame({"position": [1]}).to_parquet(path),
        "cannot be used (",
    ),
    "a model of other classes": (
        inputs.CONFIG,
        lambda path: path.write_text('{"classes": [{"label": 26, "name": "bee"}]}'),
        "is of a model for other classes",
    ),
    "a model of no classes": (
        inputs.CONFIG,
        lambda path: path.write_text("{}"),
        "cannot be used (it has no 'classes')",
    ),
    "a measure that is no number": (
        inputs.METRICS_TABLE,
        lambda path: path.write_text(OTHER_CLASSES.format("", "").replace(",2,", ",two,")),
        "cannot be used (could not convert",
    ),
    "measures of other classes": (
        inputs.METRICS_TABLE,
        lambda path: path.write_text(path.read_text() + OTHER_CLASSES.format(26, "bee").partition("\n")[2]),
        "is about other classes than data/train/config.json",
    ),
    "names that no class has": (
        inputs.CONFUSION,
        lambda path: path.write_text("requested,predicted\nbug,bee\n"),
        "cannot be used ('bug' is not in list)",
    ),
    "measured drawings cut short": (inputs.ARRAYS, truncate, "cannot be used ("),
    "measured drawings of another run": (
        inputs.ARRAYS,
        lambda path: save_file({**load_file(path), "generated_nearest": np.zeros(3, np.int32)}, path),
        "cannot be used (it is about other drawings than data/sample/samples.npy)",
    ),
    "other drawings held out": (
        inputs.ARRAYS,
        lambda path: save_file({**load_file(path), "heldout_rows": np.zeros(30, np.int32)}, path),
        "is about other drawings than data/filter/drawings.parquet",
    ),
    "a list of what it was made with": (inputs.MADE_WITH, lambda path: path.write_text("[]"), "cannot be used ("),
    "a loss without a column": (
        inputs.LOSS,
        lambda path: path.write_text("step,split,bits_per_dim\n1,train,2.0\n"),
        "cannot be used (it has no 'drawings')",
    ),
    "a loss that is no text": (inputs.LOSS, lambda path: path.write_bytes(b"\xff\xfe"), "cannot be used ("),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_input_that_is_wrong(wrong: str, input_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, breaks, problem = WRONG[wrong]
    breaks(path)
    line = said(capsys)
    assert line.startswith(f"{path} {problem}")
    assert line.endswith(f": run the stage {INPUTS[path]} again")


def test_a_class_without_drawings_is_an_error(input_files: Path, settings: Params) -> None:
    table = pd.read_parquet("data/filter/drawings.parquet")
    table.assign(label=np.where(table["label"] == 309, 255, table["label"])).to_parquet("data/filter/drawings.parquet")
    with pytest.raises(StageError, match=r"drawings\.parquet holds no drawing of 'The Eiffel Tower'"):
        stage.main(settings)


# --- In a browser ---


# What a person reads: every piece of text that is drawn, its colour, and the colour behind it.
CONTRASTS = """
() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
    const front = channels(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [luminance(front), luminance(behind(element))].sort((x, y) => y - x);
    found.push([walker.currentNode.data.trim(), (a + 0.05) / (b + 0.05)]);
  }
  for (const line of document.querySelectorAll("#loss-train-line path, #loss-heldout-line use")) {
    const [a, b] = [luminance(channels(getComputedStyle(line).stroke)), luminance(behind(line))].sort((x, y) => y - x);
    found.push(["a line of the curve", (a + 0.05) / (b + 0.05)]);
  }
  return found;
}
"""


@pytest.mark.browser
def test_everything_is_legible_in_both_schemes(browser: Browser, input_files: Path, settings: Params) -> None:
    stage.main(settings.model_copy(update={"mirror": "doodles"}))  # the page that has everything, its banner too
    with opened(browser, input_files / "reports/index.html") as page:
        for summary in page.locator("summary").all():
            summary.click()
        schemes: list[tuple[Literal["light", "dark"], str]]
        schemes = [("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 29)")]
        for scheme, ground in schemes:
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
            contrasts = page.evaluate(CONTRASTS)
            assert {"bits per dimension", "held out", "Generated", "Coverage", "Start", ODD} <= {
                text for text, _ in contrasts
            }
            assert [found for found in contrasts if found[1] < 4.5] == []


@pytest.mark.browser
def test_it_fits_a_phone_and_a_desktop(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        images = page.locator(".tile img")
        assert images.count() == 48
        assert images.evaluate_all("all => all.every(image => image.complete && image.naturalWidth === 28)")
        assert images.first.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
        for width in (320, 390, 768, 1100, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out"
            side = images.first.evaluate("image => image.getBoundingClientRect().width")
            assert width < 374 or side % 28 == 0, "each pixel of a drawing is as large as the next"


@pytest.mark.browser
def test_a_hostile_name_is_shown_and_does_nothing(browser: Browser, hostile: Path) -> None:
    with opened(browser, hostile / "reports/index.html") as page:
        assert page.get_by_role("heading", name=HOSTILE).is_visible()
        assert page.get_by_role("group", name=f"8 generated drawings of {HOSTILE}").is_visible()
        page.locator(".tile").first.click()
        expect(page.get_by_role("dialog").get_by_role("heading")).to_have_text(f"real {HOSTILE}, 1 of 8")
        page.keyboard.press("Escape")
        page.get_by_label("Your name").press("Enter")
        expect(page.locator("#review-asks")).to_contain_text(f"{HOSTILE}: which one")


@pytest.mark.browser
def test_by_keyboard_to_a_class(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        for _ in range(10):  # eight parts of the page, then the classes
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "The Eiffel Tower"
        page.keyboard.press("Enter")
        page.wait_for_url("**#class-309")
        assert page.get_by_role("article", name="The Eiffel Tower").is_visible()


def expect(locator: Locator) -> Any:
    """What is to be seen of a part of the page soon: what a key does may take a moment."""
    from playwright.sync_api import expect

    return expect(locator)


def headings(page: Page) -> list[str]:
    return page.locator("article h3").all_text_contents()


@pytest.mark.browser
def test_sorting(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        assert headings(page) == list(NAMES)
        sort = page.get_by_label("Sort by")
        sort.select_option("class_accuracy")  # more is better
        assert headings(page) == list(NAMES)[::-1]
        assert page.locator(".contents a").all_text_contents() == list(NAMES)[::-1]
        assert page.get_by_text("Sorted by Class accuracy, best first.").is_visible()
        sort.select_option("heldout_bits_per_dim")  # less is better
        assert headings(page) == list(NAMES)
        sort.select_option("name")
        assert headings(page) == [ODD, "sea turtle", "The Eiffel Tower"]
        page.get_by_role("button", name="Reverse").press("Enter")
        assert headings(page) == ["The Eiffel Tower", "sea turtle", ODD]
        sort.select_option("place")
        assert headings(page) == list(NAMES)[::-1]


@pytest.mark.browser
def test_looking_closer_by_keyboard_and_by_mouse(browser: Browser, finished: Path) -> None:
    arrays = load_file(finished / "data/evaluate/drawings.safetensors")
    with opened(browser, finished / "reports/index.html") as page:
        closer = page.get_by_role("dialog")
        title = closer.get_by_role("heading")
        expect(closer).to_be_hidden()
        page.get_by_role("button", name="generated sea turtle, 2 of 8").click()
        expect(title).to_have_text("generated sea turtle, 2 of 8")
        tile = page.locator(".tile").nth(9)
        assert closer.locator("#closer-drawing").get_attribute("src") == tile.locator("img").get_attribute("src")
        assert closer.locator("#closer-nearest").get_attribute("src") == tile.get_attribute("data-nearest")
        expect(closer).to_contain_text(f"{arrays['generated_distance'][1]:.2f} away")
        expect(closer).to_contain_text(f"The judge says: {tile.get_attribute('data-judge')}.")
        page.keyboard.press("ArrowRight")
        expect(title).to_have_text("generated sea turtle, 3 of 8")
        page.keyboard.press("Escape")
        expect(closer).to_be_hidden()
        # Where it was closed, the arrows go on along the row, and Enter opens.
        expect(page.locator(".tile").nth(10)).to_be_focused()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Enter")
        expect(title).to_have_text("generated sea turtle, 2 of 8")
        closer.get_by_role("button", name="Close").click()
        page.keyboard.press("Tab")
        expect(page.locator("summary", has_text="sea turtle")).to_be_focused()  # a row is one stop


@pytest.mark.browser
def test_at_the_last_drawing_the_keys_go_on(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        closer = page.get_by_role("dialog")
        title, following = closer.get_by_role("heading"), closer.get_by_role("button", name="Next")
        page.locator(".tile").nth(46).click()
        following.click()
        expect(title).to_have_text(f"generated {ODD}, 8 of 8")
        expect(following).to_be_disabled()
        expect(following).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("ArrowRight")
        expect(title).to_have_text(f"generated {ODD}, 8 of 8")
        page.keyboard.press("ArrowLeft")
        expect(title).to_have_text(f"generated {ODD}, 7 of 8")
        expect(following).to_be_enabled()


@pytest.mark.browser
def test_what_changes_in_the_dialog_is_announced(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        page.locator(".tile").first.click()
        for part in ("title", "what", "distance", "judge"):
            live = page.locator("[aria-live=polite]", has=page.locator(f"#closer-{part}"))
            expect(live).to_be_visible()
        assert page.locator("[aria-live] button").count() == 0, "the buttons say nothing new"


def start_review(page: Page) -> None:
    page.get_by_role("button", name="Start").press("Enter")
    expect(page.locator("#review-asks")).to_contain_text("Question 1 of 30")


@pytest.mark.browser
@pytest.mark.parametrize("mode", [blind_review.PAIRS, blind_review.SINGLES])
def test_a_whole_blind_review_by_keyboard(browser: Browser, input_files: Path, settings: Params, mode: str) -> None:
    stage.main(settings)
    questions = blind_review.questions([10, 10, 10], [12, 12, 12], 8, settings.seed)
    assert len(questions) == 30
    truth = [question.left if mode == blind_review.PAIRS else question.single for question in questions]
    with opened(browser, input_files / "reports/index.html") as page:
        page.get_by_role("radio", name="pairs" if mode == blind_review.PAIRS else "single").check()
        page.get_by_label("Your name").fill("<b>A Person</b>")
        page.keyboard.press("Enter")
        asks, shown = page.locator("#review-asks"), page.locator("#review-left")
        samples = np.load(input_files / "data/sample/samples.npy")[..., 0]
        for number, (question, generated) in enumerate(zip(questions, truth, strict=True)):
            expect(asks).to_contain_text(f"Question {number + 1} of 30, {NAMES[question.place]}: ")
            expect(page.locator("#review-right")).to_be_visible(visible=mode == blind_review.PAIRS)
            first = picture(shown.get_attribute("src") or "")
            assert np.array_equal(first, samples[question.place, question.generated]) == generated
            if number == 3:  # a slip, taken back
                page.keyboard.press("ArrowLeft")
                page.keyboard.press("Backspace")
                expect(asks).to_contain_text("Question 4 of 30")
            if number == 5:  # closed, and gone on with
                page.reload()
                page.get_by_role("button", name="Go on from question 6").press("Enter")
                expect(asks).to_contain_text("Question 6 of 30")
            right = number % 3 > 0
            page.keyboard.press("ArrowLeft" if generated == right else "ArrowRight")
        score = page.locator("#review-score")
        expect(score).to_contain_text("You were right 20 times of 30, 67%; between 49% and 81%")
        expect(score).to_be_focused()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save the answers").press("Enter")
        assert download.value.suggested_filename.endswith(f"-{mode}-b-a-person-b.json")
        (input_files / "reviews").mkdir()
        download.value.save_as(input_files / "reviews" / download.value.suggested_filename)

    stage.main(settings)
    text = " ".join(Elements(html(input_files)).text.split())
    assert "<b>A Person</b>" in text
    assert "20 of 30, 67% 49% to 81%, which holds chance" in text
    assert "reviews with other questions" not in text.lower()
    # Other samples or other settings ask other questions, of which these answers say nothing.
    stage.main(settings.model_copy(update={"samples_per_class": 7}))
    text = " ".join(Elements(html(input_files)).text.split())
    assert "No review with these questions has been counted yet." in text
    assert "Reviews with other questions, which are not counted here: 1." in text


@pytest.mark.browser
def test_the_first_key_of_a_review_that_enter_started_counts(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        page.get_by_label("Your name").press("Enter")
        expect(page.locator("#review-first")).to_be_focused()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#review-asks")).to_contain_text("Question 2 of 30")


@pytest.mark.browser
def test_a_key_that_is_held_answers_once(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        asks = page.locator("#review-asks")
        page.get_by_label("Your name").focus()
        for _ in range(3):
            page.keyboard.down("Enter")
        page.keyboard.up("Enter")
        expect(asks).to_contain_text("Question 1 of 30")
        for answered, key in enumerate(("ArrowLeft", "ArrowRight"), 1):
            for _ in range(3):
                page.keyboard.down(key)
            page.keyboard.up(key)
            expect(asks).to_contain_text(f"Question {answered + 1} of 30")


@pytest.mark.browser
def test_keys_pressed_elsewhere_are_no_answers(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        start_review(page)
        for elsewhere in (page.get_by_role("link", name="Settings"), page.locator("summary").first):
            elsewhere.press("ArrowLeft")
            elsewhere.press("Backspace")
            elsewhere.press("Escape")
            expect(page.locator("#review-asks")).to_contain_text("Question 1 of 30")
            expect(page.locator("#review-asks")).to_be_visible()
        elsewhere.blur()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#review-asks")).to_contain_text("Question 2 of 30")


@pytest.mark.browser
def test_the_other_way_of_asking_has_answers_of_its_own(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        asks, start = page.locator("#review-asks"), page.locator("#review-start")
        start_review(page)
        for number in range(5):
            page.keyboard.press("ArrowLeft")
            expect(asks).to_contain_text(f"Question {number + 2} of 30")
        page.keyboard.press("Escape")
        expect(start).to_have_text("Go on from question 6")
        expect(start).to_be_focused()
        page.get_by_role("radio", name="single").check()
        expect(start).to_have_text("Start")
        start_review(page)
        page.keyboard.press("ArrowRight")
        expect(asks).to_contain_text("Question 2 of 30")
        page.keyboard.press("Escape")
        page.reload()
        expect(start).to_have_text("Go on from question 2")
        page.get_by_role("radio", name="pairs").check()
        expect(start).to_have_text("Go on from question 6")


@pytest.mark.browser
def test_the_saved_file_is_there_as_long_as_it_takes(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        start_review(page)
        for number in range(30):
            page.keyboard.press("ArrowLeft")
            if number < 29:
                expect(page.locator("#review-asks")).to_contain_text(f"Question {number + 2} of 30")
        page.evaluate("() => { window.revoked = 0; URL.revokeObjectURL = () => { window.revoked += 1; }; }")
        with page.expect_download():
            page.get_by_role("button", name="Save the answers").press("Enter")
        assert page.evaluate("window.revoked") == 0


@pytest.mark.browser
def test_what_is_printed(browser: Browser, input_files: Path, settings: Params) -> None:
    """All that says something, the reviews too; nothing that wants a click or a script."""
    stage.main(settings)
    asked = json.loads(html(input_files).partition('id="blind">')[2].partition("</script>")[0])["hash"]
    review = {"questions": asked, "mode": blind_review.PAIRS, "reviewer": "A Person", "answers": [[0, True]]}
    (input_files / "reviews").mkdir()
    (input_files / "reviews/one.json").write_text(json.dumps(review))
    stage.main(settings)
    with opened(browser, input_files / "reports/index.html") as page:
        page.emulate_media(media="print")
        expect(page.get_by_role("row", name="A Person")).to_be_visible()
        for heading in page.locator("h2:not(dialog h2)").all():
            expect(heading).to_be_visible()
        assert page.locator(".tile img").evaluate_all("all => all.every((image) => image.checkVisibility())")
        for part in page.locator(
            "form, dialog, select, kbd, header .parts, .without-script, #review-part button"
        ).all():
            expect(part).to_be_hidden()


@pytest.mark.browser
def test_the_policy_refuses_an_injected_script(browser: Browser, finished: Path, tmp_path: Path) -> None:
    said = refused(browser, html(finished), tmp_path)
    assert "script" in said
    assert "img-src" in said
