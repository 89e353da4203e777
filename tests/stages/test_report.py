"""The stage report: the page and the sheets that it makes from the files of a run."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
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
from markupsafe import escape
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import load_file, save_file

from pipeline.compare import parse_metrics
from pipeline.run_settings import experiment_name
from stages import command
from stages import report as stage
from stages.common.errors import StageError
from stages.metrics.catalogue import METRICS
from stages.outputs import completions, film
from stages.outputs.completions import Completions
from stages.outputs.film import Film
from stages.outputs.losses import Loss
from stages.params import BUCKET, Params, fingerprint
from stages.reporting import blind_review, charts, inputs, metric_values, page, sheets
from stages.reporting import page as page_module
from stages.reporting.html import shown_size
from stages.reporting.sentences import describe_metrics
from tests.conftest import LOOKS, inaccessible, opened, refused
from tests.settings import ROOT, write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(1)'  # settings reject this name, and the page escapes it as well
ODD = "'salt' &amp; pepper"
NAMES = ("sea turtle", "The Eiffel Tower", ODD)
LABELS = {"sea turtle": 255, "The Eiffel Tower": 309, ODD: 345}


def strokes(number: int, seed: int) -> sheets.Images:
    """Drawings (number, 28, 28, 1) of three random strokes each."""
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
    """Write the files of the stages before report. The generated drawings are real ones, shifted by three pixels."""
    write(folder, settings.model_dump(mode="json"))
    for path in ("data/extract", "data/filter", "data/train", "data/sample", "data/judge", "data/evaluate", "reports"):
        (folder / path).mkdir(parents=True)
    classes = list(settings.classes)
    samples = max(settings.samples_per_class, settings.eval_samples_per_class)
    pixels = {name: drawings(name, per_class + samples) for name in classes}
    order = np.random.default_rng(1).permutation(
        [(class_index, row) for class_index in range(len(classes)) for row in range(per_class)]
    )
    names = [classes[class_index] for class_index, _ in order]
    table = pd.DataFrame({
        "position": np.arange(len(order)) * 7 + 3,
        "label": np.array([labels[name] for name in names], np.int16),
        "name": pd.Categorical(names),
        "row": order[:, 1].astype(np.int32),
    })  # fmt: skip
    table.to_parquet(folder / "data/extract/index.parquet")
    table["heldout"] = table.groupby("label").cumcount() % 4 == 3
    table.to_parquet(folder / "data/filter/drawings.parquet")
    np.save(
        folder / "data/filter/images.npy", np.stack([pixels[classes[class_index]][row] for class_index, row in order])
    )
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
    film.write(folder / "data/train/film.safetensors", Film(
        np.array([0, 200, 399]), np.stack([[pixels[name][frame] for name in classes] for frame in range(3)])
    ))  # fmt: skip
    images, heldout = np.load(folder / "data/filter/images.npy"), table[table["heldout"]]
    rows = np.concatenate([heldout.index[heldout["label"] == labels[name]][:2] for name in classes])
    completed = np.stack([images[rows], np.roll(images[rows], 3, 2)], axis=1)
    half = images.shape[1] // 2
    completed[:, :, :half] = images[rows, np.newaxis, :half]
    completions.write(folder / "data/sample", Completions(completed, half, rows))
    (folder / "data/judge/weights.safetensors").write_bytes(b"judge")
    size = pixels[classes[0]].shape[1:3]
    write_evaluation(folder, [(labels[name], name) for name in classes], table["heldout"].to_numpy(), settings, size)


def write_evaluation(
    folder: Path, known: Sequence[tuple[int, str]], heldout: Any, settings: Params, size: tuple[int, ...]
) -> None:
    """Write the files of evaluate. Each class's values are 0.1 above those of the class before."""
    random, number = np.random.default_rng(2), len(known)
    with (folder / "reports/metrics.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["metric", "label", "name", "value", "low", "high", "reference", "better"])
        for number_of_class, (label, name) in enumerate([("", ""), *known]):
            for metric in METRICS:
                value = 1.4 + 0.1 * number_of_class if "bits" in metric else 0.1 + 0.1 * number_of_class
                if number_of_class == 0 or metric != "frechet_distance":
                    writer.writerow([metric, label, name, value, value - 0.05, value + 0.05, 0.9, "less"])
    with (folder / "reports/confusion.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["requested", "predicted"])
        names = [name for _, name in known]
        writer.writerows([(requested, predicted) for requested in names for predicted in (names[0], requested)])

    def results(prefix: str, drawings: int) -> dict[str, Any]:
        order = random.permuted(np.tile(np.arange(number, dtype=np.int32), (drawings, 1)), axis=1)
        return {
            f"{prefix}_predicted": np.ascontiguousarray(order[:, :3]),
            f"{prefix}_probability": np.tile(np.array([0.5, 0.25, 0.125][:number], np.float32), (drawings, 1)),
            f"{prefix}_nearest": random.choice(np.flatnonzero(~heldout), drawings).astype(np.int32),
            f"{prefix}_distance": random.random(drawings).astype(np.float32),
        }

    arrays = {
        "pixel_bits": 8 * random.random((number, *size)).astype(np.float32),
        "heldout_rows": np.flatnonzero(heldout).astype(np.int32),
        "heldout_bits_per_dim": random.random(heldout.sum()).astype(np.float32),
        **results("heldout", heldout.sum()),
        **results("generated", number * settings.eval_samples_per_class),
    }
    save_file(arrays, folder / "data/evaluate/drawings.safetensors")
    (folder / "data/evaluate/made_with.json").write_text('{"device": "CPU", "numpy": "2.0"}')


@pytest.fixture(scope="module")
def settings(full_run: Params) -> Params:
    return full_run.model_copy(update={"source": "my drawings", "classes": NAMES, "eval_samples_per_class": 12})


@pytest.fixture(scope="module")
def finished(settings: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stage has run. Tests must not change it."""
    folder = tmp_path_factory.mktemp("finished")
    write_inputs(folder, settings, LABELS, drawings)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stage.main(settings)
    return folder


@pytest.fixture
def input_files(settings: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder with the inputs of the stage. Tests may change it."""
    write_inputs(tmp_path, settings, LABELS, drawings)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def html(folder: Path) -> str:
    return (folder / "reports/index.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """The elements of a page, (tag, attributes), and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.text += " " * (tag == "td")
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self, parent: str) -> list[str]:
        """The addresses of the images that directly follow an element with this class attribute."""
        return [
            image["src"]
            for (_, previous), (tag, image) in zip(self.elements, self.elements[1:], strict=False)
            if tag == "img" and previous.get("class") == parent
        ]

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


# --- The choice of drawings ---


def test_real_drawings_are_the_first_held_out_ones_and_then_training_ones() -> None:
    table = pd.DataFrame({
        "position": [9, 1, 4, 6, 2, 8],
        "label": [7, 7, 7, 7, 5, 7],
        "heldout": [True, False, True, False, True, False],
    })  # fmt: skip
    assert inputs.choose_real(table, 7, 2)["position"].tolist() == [4, 9]
    assert inputs.choose_real(table, 7, 4)["position"].tolist() == [4, 9, 1, 6]
    assert inputs.choose_real(table, 7, 8)["position"].tolist() == [4, 9, 1, 6, 8]


# --- The sheets ---


def test_each_class_has_a_sheet_with_a_file_name_valid_on_every_system(finished: Path) -> None:
    names = {path.name for path in (finished / "reports/classes").iterdir()}
    assert names == {"255_sea_turtle.png", "309_The_Eiffel_Tower.png", "345__salt___amp__pepper.png"}
    assert sheets.sheet_name(345, HOSTILE) == "345____img_src_x_onerror_alert_1___script_alert_1_.png"


def test_a_sheet_has_eight_held_out_drawings_above_eight_generated_ones(finished: Path) -> None:
    with Image.open(finished / "reports/classes/309_The_Eiffel_Tower.png") as image:
        assert (image.size, image.mode) == ((2240, 560), "L")
        pixels = np.asarray(image)
    table = pd.read_parquet(finished / "data/filter/drawings.parquet")
    images = np.load(finished / "data/filter/images.npy")
    real = images[table.index[(table["label"] == 309) & table["heldout"]][:8]]
    generated = np.load(finished / "data/sample/samples.npy")[1, :8]
    for row, expected in enumerate((real, generated)):
        for column in range(8):
            tile = pixels[280 * row : 280 * (row + 1), 280 * column : 280 * (column + 1)]
            assert np.array_equal(tile, np.kron(expected[column, ..., 0], np.ones((10, 10), np.uint8)))


@pytest.mark.parametrize(("samples", "shape"), [(1, (560, 280)), (3, (560, 840)), (8, (560, 2240)), (11, (840, 2240))])
def test_a_sheet_has_a_column_per_generated_drawing_up_to_eight(samples: int, shape: tuple[int, int]) -> None:
    white = np.full((samples, 28, 28), 255, np.uint8)
    pixels = sheets.sheet(white[:1], white)
    assert pixels.shape == shape
    assert pixels.sum() == 255 * 280 * 280 * (1 + samples)
    assert pixels[:280, 280:].sum() == 0, "positions without a real drawing are black"


# --- The page ---


def test_the_page_is_self_contained(finished: Path) -> None:
    page = Elements(html(finished))
    assert html(finished).startswith("<!doctype html>\n")
    for address in page.all("src") + page.all("href"):
        assert address.startswith(("data:image/png;base64,", "#"))
    assert not {tag for tag, _ in page.elements} & {"iframe", "object", "base"}
    scripts = [attributes.get("type") for tag, attributes in page.elements if tag == "script"]
    assert scripts == ["application/json", "application/json", None]
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert not page.all("style"), "the policy refuses style attributes"
    identifiers = page.all("id")
    assert len(set(identifiers)) == len(identifiers)
    assert {address[1:] for address in page.all("href") if address.startswith("#")} <= set(identifiers)
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_page_shows_each_class_with_its_drawings_and_values(finished: Path) -> None:
    page = Elements(html(finished))
    assert html(finished).count('class="tile"') == 3 * (8 + 8)
    assert "sea turtle" in page.text
    assert "label 309" in page.text
    text = " ".join(page.text.split())
    assert "The Eiffel Tower class accuracy 30% 1.600 bits per dimension" in text
    accuracy = METRICS["class_accuracy"]
    row = f"{accuracy.title} {accuracy.meaning} Reference: {accuracy.reference}. 30% 25% to 35% 90%"
    assert row in text, "the value, its interval and its reference, each in its cell"
    assert "8 generated drawings of sea turtle" in page.all("aria-label")
    assert "8 real drawings of sea turtle" in page.all("aria-label")
    generated = np.load(finished / "data/sample/samples.npy")[0, 7, ..., 0]  # the worst class, which is the last
    assert np.array_equal(decode(page.images("tile")[-1]), generated)


def test_the_first_screen_shows_the_best_generated_drawing_of_each_class_beside_a_real_one(
    finished: Path,
) -> None:
    arrays = load_file(finished / "data/evaluate/drawings.safetensors")
    samples = np.load(finished / "data/sample/samples.npy")[..., 0]
    images = np.load(finished / "data/filter/images.npy")[..., 0]
    table = pd.read_parquet(finished / "data/filter/drawings.parquet")
    page = html(finished).partition('<ul class="first">')[2].partition("</ul>")[0]
    addresses = [image["src"] for tag, image in Elements(page).elements if tag == "img"]
    assert len(addresses) == 2 * 3
    for position, class_index in enumerate((2, 1, 0)):  # the highest class accuracy first
        rows = slice(12 * class_index, 12 * class_index + 8)  # those that the page shows
        probabilities = np.where(
            arrays["generated_predicted"][rows] == class_index, arrays["generated_probability"][rows], 0
        ).max(axis=1)
        best = samples[class_index, probabilities.argmax()]
        assert np.array_equal(decode(addresses[2 * position]), best)
        [row] = inputs.choose_real(table, LABELS[NAMES[class_index]], 1).index
        assert np.array_equal(decode(addresses[2 * position + 1]), images[row])


def test_the_page_names_the_project_the_data_and_the_run(finished: Path, settings: Params) -> None:
    page = html(finished)
    run = fingerprint(settings.model_dump(mode="json"))
    assert f"<title>quickdraw-pixelcnn: my drawings, run {run}</title>" in page
    description = next(item["content"] for _, item in Elements(page).elements if item.get("name") == "description")
    assert description.startswith("Real and generated drawings of my drawings, 3 classes. ")
    assert experiment_name("quick", settings.model_dump(mode="json")) == f"quick-{run}"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("doodles/", "doodles"),
        ("digits", "digits"),
        (BUCKET, "Quick, Draw!"),
        ("tfds:quickdraw_bitmap", "Quick, Draw!"),
        ("tfds:emnist/letters", "letters"),
        ("../some/my cats/", "my cats"),
        ("https://user:secret@example.org/drawings", "drawings"),
        ("https://user:secret@example.org", "example.org"),
        ("s3://bucket", "bucket"),
    ],
)
def test_the_data_has_a_short_name_without_a_password(full_run: Params, source: str, name: str) -> None:
    assert page.data_name(full_run.model_copy(update={"source": source})) == name


def test_the_page_has_the_sentences_that_the_terminal_prints(finished: Path) -> None:
    metrics, _ = inputs_of(finished)
    [classes, likelihood, *_] = describe_metrics(metrics, "real", 30)
    for sentence in (classes, likelihood):
        assert html(finished).count(f"<p>{escape(sentence)}</p>") == 1


def inputs_of(folder: Path) -> tuple[dict[str, metric_values.MetricValue], Any]:
    """The metrics over all classes, as `python -m pipeline run` reads them."""
    return parse_metrics((folder / "reports/metrics.csv").read_text(encoding="utf-8"))


def decode(data_uri: str) -> Any:
    """The pixels of a PNG data URI."""
    with Image.open(io.BytesIO(base64.b64decode(data_uri.partition(",")[2]))) as image:
        return np.asarray(image)


def test_a_tile_holds_the_results_of_its_drawing(finished: Path) -> None:
    arrays = load_file(finished / "data/evaluate/drawings.safetensors")
    images = np.load(finished / "data/filter/images.npy")[..., 0]
    tiles = [attributes for _, attributes in Elements(html(finished)).elements if attributes.get("class") == "tile"]
    last = tiles[15]  # the eighth generated drawing of the third class, which is the first on the page
    index = 2 * 12 + 7  # twelve of each class were evaluated
    assert np.array_equal(decode(last["data-nearest"]), images[arrays["generated_nearest"][index]])
    nearer = (arrays["heldout_distance"] < arrays["generated_distance"][index]).mean()
    assert last["data-nearness"] == page.describe_nearness(nearer)
    predicted = [NAMES[i] for i in arrays["generated_predicted"][index]]
    assert last["data-predictions"] == f"{predicted[0]} 50%, {predicted[1]} 25%, {predicted[2]} 13%"
    assert "data-bits" not in last
    assert float(tiles[0]["data-bits"]) in arrays["heldout_bits_per_dim"].round(3)


def test_the_page_has_every_metric_with_its_interval_and_reference(finished: Path) -> None:
    text = " ".join(Elements(html(finished)).text.split())
    distance = METRICS["frechet_distance"]
    assert f"{distance.title} {distance.meaning} Reference: {distance.reference}. 0.100 0.050 to 0.150" in text
    for metric in METRICS.values():
        assert text.count(f"{metric.title} {metric.meaning}") == 1 + 3 * (metric.title != "Fréchet distance")
    assert "device CPU, numpy 2.0" in text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.8, "farther than 80% of held-out drawings are from theirs"),
        (0.5, "farther than 50% of held-out drawings are from theirs"),
        (0.25, "nearer than 75% of held-out drawings are to theirs"),
        (0.0, "nearer than 100% of held-out drawings are to theirs"),
    ],
)
def test_a_distance_is_told_by_what_it_means(share: float, text: str) -> None:
    assert page.describe_nearness(share) == text


def test_a_bar_has_a_solid_part_up_to_the_interval() -> None:
    svg = ElementTree.fromstring(page.bar(0.5, 0.4, 0.62))
    assert [(part.get("x", "0"), part.get("width")) for part in svg] == [("0", "100"), ("0", "40.0"), ("40.0", "22.0")]
    svg = ElementTree.fromstring(page.bar(0.5))
    assert [(part.get("x", "0"), part.get("width")) for part in svg] == [("0", "100"), ("0", "50.0"), ("50.0", "0.0")]
    assert page.bar(float("nan")) == ""


def test_a_drawing_in_progress_is_part_of_the_finished_one() -> None:
    [drawing] = strokes(1, 0)[..., 0]
    frames = page.frames(drawing)
    masks = [frame[..., 1] == 255 for frame in frames]
    assert [int(mask.sum()) for mask in masks] == [98 * number for number in range(1, 9)]
    for frame, mask in zip(frames, masks, strict=True):
        assert mask.ravel()[: mask.sum()].all(), "starting at the top left"
        assert np.array_equal(frame[..., 0], np.where(mask, drawing, 0))


def test_values_better_than_perfect_sort_as_perfect() -> None:
    def key(metric: str, value: float, reference: float = 0) -> float:
        return metric_values.sort_key(metric_values.MetricValue(value, np.nan, np.nan, reference), metric)

    assert key("c2st_accuracy", 0.43) == key("c2st_accuracy", 0.5) < key("c2st_accuracy", 0.6)
    assert key("mmd", -0.02) == key("mmd", 0) < key("mmd", 0.1)
    assert key("class_accuracy", 0.9) < key("class_accuracy", 0.2) < key("class_accuracy", np.nan)
    assert key("ink", 0.2, 0.25) < key("ink", 0.35, 0.25)
    assert metric_values.PERFECT.keys() <= METRICS.keys()


def test_the_provenance_block_lists_files_and_settings(finished: Path, settings: Params) -> None:
    block = html(finished).partition('id="provenance">')[2].partition("</script>")[0]
    provenance = json.loads(block)
    assert provenance["settings"] == settings.model_dump(mode="json")
    for path, digest in provenance["files"].items():
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
    """A folder with the page of a class whose name is HTML."""
    monkeypatch.chdir(tmp_path)
    settings = settings.model_copy(update={"classes": (HOSTILE,)})
    write_inputs(tmp_path, settings, {HOSTILE: 345}, lambda _, number: strokes(number, 0))
    stage.main(settings)
    return tmp_path


def test_a_hostile_name_is_escaped(hostile: Path) -> None:
    page = Elements(html(hostile))
    assert HOSTILE in page.text
    assert not page.all("onerror")
    assert "x" not in page.all("src")


def test_a_run_on_doodles_has_a_banner(finished: Path, input_files: Path, settings: Params) -> None:
    assert "stand-in" not in html(finished).partition("</style>")[2].partition("</header>")[0].lower()
    stage.main(settings.model_copy(update={"source": "doodles"}))
    page = Elements(html(input_files))
    assert "A run on stand-in drawings" in page.text.partition("Classes")[0]
    assert not [label for label in page.all("aria-label") if "real " in label]


@pytest.mark.parametrize("shape", [(8, 12, 1), (64, 40, 3)])
def test_pictures_of_any_shape_and_in_colour(
    shape: tuple[int, int, int], settings: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    height, width, channels = shape
    one = settings.model_copy(update={"classes": NAMES[:1], "samples_per_class": 3})
    pictures = np.random.default_rng(3).integers(0, 256, (30, *shape), np.uint8)
    write_inputs(tmp_path, one, LABELS, lambda _, number: pictures[:number], per_class=18)
    stage.main(one)
    page = Elements(html(tmp_path))
    sizes = {(image["width"], image["height"]) for tag, image in page.elements if tag == "img" and "src" in image}
    assert sizes == {(str(width), str(height))}
    generated = np.roll(pictures[18:], (3, 3), (1, 2))
    expected = generated[0, ..., 0] if channels == 1 else generated[0]
    assert np.array_equal(decode(page.images("tile")[3]), expected), "shown as it is stored"
    real, shown = sheets.read_sheet(Path("reports/classes/255_sea_turtle.png").read_bytes())
    assert (len(real), len(shown)) == (3, 3)
    assert np.array_equal(shown[0], expected)
    assert decode(page.images("strip in-progress")[0]).shape == (height, width, channels + 1)


def strips(folder: Path, kind: str) -> list[list[Any]]:
    """The pixels of the pictures in each strip of a kind."""
    found = re.findall(rf'<div class="strip {kind}".*?</div>', html(folder), re.DOTALL)
    return [[decode(source) for source in re.findall(r'src="([^"]+)"', strip)] for strip in found]


def test_completions_are_between_what_was_given_and_the_drawing(finished: Path) -> None:
    completed = np.load(finished / "data/sample/completions.npy")[..., 0]
    images = np.load(finished / "data/filter/images.npy")[..., 0]
    rows = json.loads((finished / "data/sample/completions.json").read_text())["drawings"]
    found = strips(finished, "in-progress")[: len(rows)]
    best_first = [4, 5, 2, 3, 0, 1]  # the classes are in the order of the page
    for (upper, first, second, whole), index in zip(found, best_first, strict=True):
        assert np.array_equal(whole, images[rows[index]])
        assert np.array_equal(first, completed[index, 0]) and np.array_equal(second, completed[index, 1])
        assert np.array_equal(upper[:14, :, 0], whole[:14]) and not upper[14:].any(), "nothing of the lower rows"
        assert (upper[:14, :, 1] == 255).all()
    assert "the upper 14 rows of some held-out drawings" in Elements(html(finished)).text


def test_the_film_shows_a_class_at_each_step(finished: Path) -> None:
    drawings = film.read(finished / "data/train/film.safetensors").drawings[..., 0]
    found = strips(finished, "film")
    assert len(found) == len(NAMES)
    for frames, class_index in zip(found, (2, 1, 0), strict=True):
        assert np.array_equal(frames, drawings[:, class_index])
    assert "after 0, 200, 399 steps" in Elements(html(finished)).text
    heads = re.findall(r'<div class="strip film steps".*?</div>', html(finished), re.DOTALL)
    assert [re.findall(r"<span>(.*?)</span>", head) for head in heads] == [["0", "200", "399"]] * 2


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (2200, "2.2k"), (9949, "9.9k"), (9950, "10k"), (12_000, "12k"),
     (999_499, "999k"), (999_500, "1M"), (2_500_000, "2.5M")],
)  # fmt: skip
def test_a_step_is_named_in_four_characters(number: int, text: str) -> None:
    assert page.short_number(number) == text


def test_a_run_without_film_and_completions(settings: Params, input_files: Path) -> None:
    film.write(inputs.FILM, Film(np.zeros(0, np.int64), np.zeros((0,) * 5, np.uint8)))
    for path in inputs.COMPLETIONS:
        path.unlink()
    stage.main(settings)
    text = Elements(html(input_files)).text
    assert "Completions" not in text and "How it learned" not in text


def test_the_bits_of_the_colours_of_a_pixel_are_added_up(
    settings: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = settings.model_copy(update={"classes": NAMES[:1]})
    write_inputs(tmp_path, one, LABELS, lambda _, number: np.zeros((number, 8, 9, 3), np.uint8))
    arrays = load_file(inputs.ARRAYS)
    bits = np.arange(8 * 9 * 3, dtype=np.float32).reshape(1, 8, 9, 3)
    save_file(arrays | {"pixel_bits": bits}, inputs.ARRAYS)
    report = inputs.read(one)
    assert report.size == (8, 9)
    assert np.array_equal(report.classes[0].pixel_bits, bits[0, ..., 0] + bits[0, ..., 1] + bits[0, ..., 2])


@pytest.mark.parametrize("size", ["", "28", "0x5", "5x0", "257x1", "28x28x3", "-1x5", "٢x٢", "28x27"])
def test_a_sheet_of_a_wrong_size_is_refused(size: str) -> None:
    information, png = PngInfo(), io.BytesIO()
    information.add_itxt(sheets.SIZE, size)
    Image.fromarray(np.zeros((560, 280), np.uint8)).save(png, "PNG", pnginfo=information)
    with pytest.raises(ValueError, match=r"^a sheet of "):
        sheets.read_sheet(png.getvalue())


def test_generated_drawings_of_another_shape_than_the_real_ones(
    input_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(inputs.SAMPLES, np.zeros((3, 12, 20, 30, 3), np.uint8))
    line = error_line(capsys)
    assert line == (
        "data/sample/samples.npy holds drawings of the shape (20, 30, 3), and data/filter/images.npy of (28, 28): "
        "run the stage sample again"
    )


@pytest.mark.parametrize(
    ("height", "width", "target", "shown"),
    [(28, 28, 84, "84px"), (28, 28, 112, "112px"), (8, 12, 28, "24px"), (64, 40, 28, "17.5px"), (64, 64, 84, "64px")],
)
def test_drawings_are_enlarged_by_whole_numbers(height: int, width: int, target: int, shown: str) -> None:
    assert shown_size(height, width, target) == shown


def test_fewer_samples_and_fewer_held_out_drawings(settings: Params, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    few = settings.model_copy(update={"samples_per_class": 5})
    write_inputs(tmp_path, few, LABELS, drawings, per_class=7)  # one of seven is held out
    stage.main(few)
    page = Elements(html(tmp_path))
    assert len(page.images("tile")) == 3 * (5 + 5)
    assert page.text.count("4 from training") == 3
    with Image.open("reports/classes/255_sea_turtle.png") as image:
        assert image.size == (1400, 560)


def test_the_page_shows_at_most_64_generated_drawings(settings: Params, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    many = settings.model_copy(update={"samples_per_class": 70, "classes": NAMES[:1]})
    write_inputs(tmp_path, many, LABELS, drawings)
    stage.main(many)
    page = Elements(html(tmp_path))
    assert len(page.images("tile")) == 8 + 64
    assert "first 64 of 70" in page.text


def test_a_second_run_replaces_the_sheets(input_files: Path, settings: Params) -> None:
    (input_files / "reports/classes").mkdir()
    (input_files / "reports/classes/0_gone.png").write_bytes(b"")
    stage.main(settings)
    assert len(list((input_files / "reports/classes").iterdir())) == 3
    assert inputs.METRICS_TABLE.exists()


def test_a_run_with_undefined_metrics_has_a_page(input_files: Path, settings: Params) -> None:
    """With one drawing per class, most metrics are undefined."""
    with inputs.METRICS_TABLE.open("w", encoding="utf-8") as file:
        file.write("metric,label,name,value,low,high,reference,better\n")
        for label in ("", *LABELS.values()):
            file.write(f"heldout_bits_per_dim,{label},,2,,,,less\n")
            file.write(f"mmd,{label},,,,,,less\n")
    stage.main(settings)
    assert "2.000 bits per dimension" in " ".join(Elements(html(input_files)).text.split())


def test_memorised_drawings_are_compared_with_held_out_ones(input_files: Path, settings: Params) -> None:
    """If drawings repeat, more than 1% of the held-out drawings count as memorised, too."""
    lines = inputs.METRICS_TABLE.read_text(encoding="utf-8").splitlines(keepends=True)
    for low, reference, message in (
        (0.05, 0.01, "may be copies"),
        (0.05, 0.04, "too few to tell"),  # only 30 are held out
        (0.05, "", "may be copies"),
        (0.015, 0.001, "too few to tell"),
    ):
        new_line = f"memorised,,,0.06,{low},0.07,{reference},alike\n"
        changed = (
            new_line if line.startswith("memorised,,,") else line for line in lines if not line.startswith("recall,,,")
        )
        inputs.METRICS_TABLE.write_text("".join(changed), encoding="utf-8")
        stage.main(settings)
        assert message in html(input_files), (low, reference)


def noise(number: int) -> sheets.Images:
    """Drawings (number, 28, 28, 1) that compress worse than any real one."""
    return np.random.default_rng(0).integers(0, 256, (number, 28, 28, 1), np.uint8)


def coloured(number: int) -> sheets.Images:
    """Pictures (number, 64, 64, 3) of six ellipses each, in colours with smooth edges."""
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(number):
        image = Image.new("RGB", (256, 256), tuple(random.integers(0, 256, 3).tolist()))
        for _ in range(6):
            (left, top), (right, bottom) = np.sort(random.integers(0, 256, (2, 2)), axis=0).tolist()
            fill = tuple(random.integers(0, 256, 3).tolist())
            ImageDraw.Draw(image).ellipse((left, top, right + 4, bottom + 4), fill=fill, outline=0)
        pictures.append(np.asarray(image.resize((64, 64), Image.Resampling.LANCZOS)))
    return np.stack(pictures)


@pytest.mark.parametrize(
    ("pictures", "megabytes"), [(noise, 3), pytest.param(coloured, 8, marks=pytest.mark.slow)], ids=["grey", "colour"]
)
def test_a_page_of_twenty_classes_with_eight_drawings_is_small(
    pictures: Callable[[int], sheets.Images],
    megabytes: int,
    full_run: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pictures are on the page pixel by pixel as they are stored, so that larger ones in colour take their bytes."""
    monkeypatch.chdir(tmp_path)
    settings = full_run.model_copy(update={"source": "my drawings"})
    assert (len(settings.classes), settings.samples_per_class) == (20, 8)
    labels = {name: label for label, name in enumerate(settings.classes)}
    drawings = pictures(140)
    write_inputs(tmp_path, settings, labels, lambda _, number: drawings[:number])
    stage.main(settings)
    assert stage.PAGE.stat().st_size < megabytes * 1_000_000


# --- The blind review ---


def review_pair(name: str = "bee", ink: int = 0, left: bool = True) -> inputs.ReviewPair:
    drawings = np.full((2, 28, 28), ink, np.uint8)
    return inputs.ReviewPair(blind_review.Question(0, 1, 2, left, False), name, *drawings)


def test_the_review_hash_depends_on_the_questions_and_their_drawings() -> None:
    expected = inputs.review_hash("ab", [review_pair(), review_pair()])
    assert expected == inputs.review_hash("ab", [review_pair(), review_pair()])
    others = [
        ("cd", [review_pair(), review_pair()]),
        ("ab", [review_pair()]),
        ("ab", [review_pair(), review_pair(left=False)]),
        ("ab", [review_pair(), review_pair(name="cat")]),
        ("ab", [review_pair(), review_pair(ink=1)]),
    ]
    assert expected not in [inputs.review_hash(*other) for other in others]


@pytest.mark.parametrize("change", ["samples_per_class", "seed", "held-out drawings"])
def test_answers_to_other_questions_are_not_scored(
    change: str, input_files: Path, settings: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generated drawings are the same, byte for byte."""
    (input_files / "reviews").mkdir()
    review_hash = inputs.read(settings).review_hash
    saved = {"questions": review_hash, "mode": blind_review.PAIRS, "reviewer": "", "answers": [[0, True]]}
    (input_files / "reviews/one.json").write_text(json.dumps(saved))
    report = inputs.read(settings)
    assert (len(report.reviews), report.other_reviews) == (1, 0)
    if change == "held-out drawings":
        images = np.load(inputs.IMAGES)
        np.save(inputs.IMAGES, np.roll(images, 1, axis=1))
        for path in inputs.COMPLETIONS:  # of the former drawings
            path.unlink()
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
def test_any_loss_can_be_plotted(losses: list[tuple[int, int, str, float]]) -> None:
    curve = ElementTree.fromstring(charts.loss_curve([Loss(*row) for row in losses]))
    lines = {element.get("id"): element.find("path") for element in curve.iter() if element.get("id")}
    assert lines["loss-train-line"] is None or "NaN" not in lines["loss-train-line"].get("d", "")
    assert not [element for element in curve.iter() if "style" in element.attrib]
    colours = {value for element in curve.iter() for key in ("fill", "stroke") if (value := element.get(key))}
    assert colours <= {"none", "currentColor"}


@pytest.mark.parametrize("number", [1, 20, 345])
def test_a_confusion_matrix_has_axis_titles_and_is_small(number: int) -> None:
    names = [f"class {index}" for index in range(number)]
    chart = charts.confusion(np.eye(number), names)
    texts = {element.text for element in ElementTree.fromstring(chart).iter("text")}
    assert {"predicted class", "requested class", "share", "of row"} <= texts
    assert texts & set(names) == (set(names) if number <= charts.MAX_CLASS_NAMES else set())
    assert len(chart) < 60_000


# --- The same inputs give the same bytes ---


def test_another_folder_and_another_process_give_the_same_bytes(finished: Path, input_files: Path) -> None:
    """With another hash seed, time zone and matplotlibrc. The process imports no TensorFlow, DVC or Prefect."""
    (input_files / "matplotlibrc").write_text("lines.linewidth: 9\nfont.size: 30\nsvg.fonttype: path\n")
    forbidden = "{'tensorflow', 'tensorflow_datasets', 'dvc', 'prefect'}"
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from stages import command, report\n"
        "assert command.run(report.main, '', []) == 0\n"
        f"print({forbidden} & {{name.partition('.')[0] for name in sys.modules}})"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "MATPLOTLIBRC": str(input_files)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("set()\n", "")
    written = [path.relative_to(input_files) for path in sorted((input_files / "reports").rglob("*")) if path.is_file()]
    assert Path("reports/index.html") in written
    for path in written:
        assert (input_files / path).read_bytes() == (finished / path).read_bytes(), path
    assert str(input_files) not in html(input_files)


def test_help_loads_nothing_heavy() -> None:
    module = ["-X", "importtime", "-m", "stages.report", "--help"]
    result = subprocess.run([sys.executable, *module], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "reports/index.html" in result.stdout
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not loaded & {"pandas", "matplotlib", "jinja2", "PIL", "pyarrow", "tensorflow"}


# --- Missing and invalid inputs ---


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


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Run the stage, check that it fails and writes nothing, and return the one line of its error."""
    assert command.run(stage.main, stage.__doc__, []) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not stage.PAGE.exists()
    assert not stage.SHEETS.exists()
    return err.removeprefix("error: ").rstrip()


@pytest.mark.parametrize(("path", "writer"), INPUTS.items(), ids=str)
def test_an_input_that_is_missing(
    path: Path, writer: str, input_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.unlink()
    assert error_line(capsys) == f"{path} is missing: run the stage {writer} first"


OTHER_CLASSES = "metric,label,name,value,low,high,reference,better\nheldout_bits_per_dim,{},{},2,1,3,,less\n"
INVALID: dict[str, tuple[Path, Callable[[Path], object], str]] = {
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
        "cannot be used (it has the shape (2, 8, 28, 28); expected: 3 classes of 12 drawings, or more)",
    ),
    "four samples a class": (
        inputs.SAMPLES,
        lambda path: np.save(path, strokes(12, 0).reshape(3, 4, 28, 28, 1)),
        "cannot be used (it has the shape (3, 4, 28, 28); expected: 3 classes of 12 drawings, or more)",
    ),
    "an image short": (inputs.IMAGES, lambda path: np.save(path, strokes(119, 0)), "does not hold the 120 drawings of"),
    "a table without labels": (
        inputs.DRAWINGS,
        lambda path: pd.DataFrame({"position": [1]}).to_parquet(path),
        "cannot be used (",
    ),
    "a model of other classes": (
        inputs.CONFIG,
        lambda path: path.write_text('{"classes": [{"label": 26, "name": "bee"}]}'),
        "has other classes than params.yaml",
    ),
    "a model without classes": (
        inputs.CONFIG,
        lambda path: path.write_text("{}"),
        "cannot be used (it has no 'classes')",
    ),
    "a metric that is not a number": (
        inputs.METRICS_TABLE,
        lambda path: path.write_text(OTHER_CLASSES.format("", "").replace(",2,", ",two,")),
        "cannot be used (could not convert",
    ),
    "metrics of other classes": (
        inputs.METRICS_TABLE,
        lambda path: path.write_text(path.read_text() + OTHER_CLASSES.format(26, "bee").partition("\n")[2]),
        "has other classes than data/train/config.json",
    ),
    "confusion of other classes": (
        inputs.CONFUSION,
        lambda path: path.write_text("requested,predicted\nbug,bee\n"),
        "cannot be used ('bug' is not in list)",
    ),
    "truncated arrays": (inputs.ARRAYS, truncate, "cannot be used ("),
    "arrays of another run": (
        inputs.ARRAYS,
        lambda path: save_file({**load_file(path), "generated_nearest": np.zeros(3, np.int32)}, path),
        "cannot be used (it has other drawings than data/sample/samples.npy)",
    ),
    "other drawings held out": (
        inputs.ARRAYS,
        lambda path: save_file({**load_file(path), "heldout_rows": np.zeros(30, np.int32)}, path),
        "has other drawings than data/filter/drawings.parquet",
    ),
    "libraries as a list": (inputs.MADE_WITH, lambda path: path.write_text("[]"), "cannot be used ("),
    "a loss without a column": (
        inputs.LOSS,
        lambda path: path.write_text("step,split,bits_per_dim\n1,train,2.0\n"),
        "cannot be used (it has no 'drawings')",
    ),
    "a loss that is not text": (inputs.LOSS, lambda path: path.write_bytes(b"\xff\xfe"), "cannot be used ("),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_input_that_is_invalid(case: str, input_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, damage, problem = INVALID[case]
    damage(path)
    line = error_line(capsys)
    assert line.startswith(f"{path} {problem}")
    assert line.endswith(f": run the stage {INPUTS[path]} again")


def test_a_class_without_drawings_is_an_error(input_files: Path, settings: Params) -> None:
    table = pd.read_parquet("data/filter/drawings.parquet")
    table.assign(label=np.where(table["label"] == 309, 255, table["label"])).to_parquet("data/filter/drawings.parquet")
    with pytest.raises(StageError, match=r"drawings\.parquet holds no drawing of 'The Eiffel Tower'"):
        stage.main(settings)


# --- In a browser ---


# The contrast of every visible text and of the loss curve with its background: [text, ratio].
CONTRASTS = """
() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const background = (element) => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const contrasts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
    const front = channels(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [luminance(front), luminance(background(element))].sort((x, y) => y - x);
    contrasts.push([walker.currentNode.data.trim(), (a + 0.05) / (b + 0.05)]);
  }
  for (const line of document.querySelectorAll("#loss-train-line path, #loss-heldout-line use")) {
    const front = channels(getComputedStyle(line).stroke);
    const [a, b] = [luminance(front), luminance(background(line))].sort((x, y) => y - x);
    contrasts.push(["a line of the loss curve", (a + 0.05) / (b + 0.05)]);
  }
  return contrasts;
}
"""


@pytest.mark.browser
def test_everything_has_enough_contrast(browser: Browser, input_files: Path, settings: Params) -> None:
    stage.main(settings.model_copy(update={"source": "doodles"}))  # with the banner
    with opened(browser, input_files / "reports/index.html") as page:
        open_details(page)
        schemes: list[tuple[Literal["light", "dark"], str]]
        schemes = [("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 29)")]
        for scheme, background in schemes:
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
            contrasts = page.evaluate(CONTRASTS)
            assert {"bits per dimension", "held out", "Generated", "Coverage", "Start", ODD} <= {
                text for text, _ in contrasts
            }
            assert [contrast for contrast in contrasts if contrast[1] < 4.5] == []


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_wrong(browser: Browser, finished: Path, look: str) -> None:
    with opened(browser, finished / "reports/index.html", **LOOKS[look]) as page:
        assert inaccessible(page) == [], "folded"
        page.locator("#review-start").click()
        assert inaccessible(page) == [], "the blind review in play"
        for _ in range(10):
            page.locator("#review-first").click()
        open_details(page)
        assert inaccessible(page) == [], "the reveal, and everything open"
        page.locator(".tile").first.click()
        assert inaccessible(page) == [], "a drawing enlarged"


@pytest.mark.browser
def test_the_page_fits_a_phone_and_a_desktop(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        open_details(page)
        images = page.locator(".tile img")
        assert images.count() == 48
        assert images.evaluate_all("all => all.every(image => image.complete && image.naturalWidth === 28)")
        assert images.first.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
        for width in (320, 390, 768, 1100, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing overflows"
            side = images.first.evaluate("image => image.getBoundingClientRect().width")
            assert width < 374 or side % 28 == 0, "all pixels of a drawing have the same size"


@pytest.mark.browser
def test_a_hostile_name_is_shown_and_not_executed(browser: Browser, hostile: Path) -> None:
    with opened(browser, hostile / "reports/index.html") as page:
        open_details(page)
        assert page.get_by_role("heading", name=HOSTILE).is_visible()
        assert page.get_by_role("group", name=f"8 generated drawings of {HOSTILE}").is_visible()
        page.locator(".tile").first.click()
        expect(page.get_by_role("dialog").get_by_role("heading")).to_have_text(f"real {HOSTILE}, 1 of 8")
        page.keyboard.press("Escape")
        page.get_by_label("Your name").press("Enter")
        expect(page.locator("#review-prompt")).to_contain_text(f"{HOSTILE}: which one")


@pytest.mark.browser
def test_reaching_a_class_by_keyboard(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        for _ in range(2):  # the classes of the first screen, the best first
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "The Eiffel Tower"
        expect(page.get_by_role("group", name="8 real drawings of The Eiffel Tower")).to_be_hidden()
        page.keyboard.press("Enter")
        page.wait_for_url("**#class-309")
        expect(page.get_by_role("group", name="8 real drawings of The Eiffel Tower")).to_be_visible()
        page.locator("summary.row").nth(2).press("Enter")
        expect(page.get_by_role("group", name="8 generated drawings of sea turtle")).to_be_visible()
        page.get_by_role("button", name="real sea turtle, 1 of 8").press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()


@pytest.mark.browser
def test_a_class_opens_without_javascript(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html", java_script_enabled=False, has_touch=True) as page:
        drawings = page.get_by_role("group", name="8 generated drawings of sea turtle")
        expect(drawings).to_be_hidden()
        page.locator("summary.row").nth(2).tap()
        expect(drawings).to_be_visible()
        expect(page.get_by_text("The blind review needs JavaScript.")).to_be_visible()
        expect(page.locator("#sort")).to_be_hidden()


@pytest.fixture(scope="module")
def twenty(full_run: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page of the twenty classes of the full run, with eight drawings each."""
    folder = tmp_path_factory.mktemp("twenty")
    settings = full_run.model_copy(update={"source": "my drawings", "eval_samples_per_class": 12})
    pictures = strokes(60, 0)
    write_inputs(folder, settings, {name: i for i, name in enumerate(settings.classes)}, lambda _, n: pictures[:n])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stage.main(settings)
    return folder


SCREENS = {"desk": ({"width": 1280, "height": 800}, 8), "phone": ({"width": 390, "height": 844}, 14)}


@pytest.mark.browser
@pytest.mark.parametrize("screen", SCREENS)
def test_the_first_screen_and_the_length_of_the_page(browser: Browser, twenty: Path, screen: str) -> None:
    viewport, screens = SCREENS[screen]
    with opened(browser, twenty / "reports/index.html", viewport=viewport, has_touch=screen == "phone") as page:
        first = page.locator(".first img").evaluate_all("all => all.map((image) => image.getBoundingClientRect())")
        assert len(first) == 2 * 20
        in_view = [box["bottom"] <= viewport["height"] and box["right"] <= viewport["width"] for box in first]
        assert sum(in_view) == 2 * 20, "all pairs of a generated and a real drawing are in view without scrolling"
        pairs = zip(first[::2], first[1::2], strict=True)
        assert all(a["top"] == b["top"] and a["right"] < b["left"] < a["right"] + 8 for a, b in pairs)
        assert page.evaluate("document.documentElement.scrollHeight") <= screens * viewport["height"]
        assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        rows = page.locator("#classes").evaluate("(element) => element.getBoundingClientRect().height")
        assert rows <= viewport["height"], "one row a class, on one screen"
        sizes = page.locator("svg text").evaluate_all(
            "all => all.map((text) => { const { a, b } = text.getScreenCTM();"
            " return Math.hypot(a, b) * parseFloat(getComputedStyle(text).fontSize); })"
        )
        assert min(sizes) >= 10, "the labels of the charts are readable"
        open_details(page)
        assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        names = page.locator(".predicted tbody th").evaluate_all("all => all.map((name) => name.offsetHeight)")
        assert len(names) == 20 and max(names) < 44, "no name is broken over two lines"
        cut_off = "all => all.filter((name) => name.scrollWidth > name.clientWidth).map((name) => name.textContent)"
        assert page.locator("#classes h3, .heat-maps li").evaluate_all(cut_off) == [], "names are whole"
        paths = page.locator(".files td:nth-child(2)").evaluate_all("all => all.map((path) => path.offsetHeight)")
        assert paths and max(paths) < 44, "no path is broken over two lines"
        heads = page.locator(".metrics td:visible").first.evaluate("cell => getComputedStyle(cell, '::before').content")
        shown = page.locator(".metrics thead").first.evaluate("(head) => head.getBoundingClientRect().height") > 1
        assert shown != (heads == '"value"'), "each number has its head, above the column or above the number"


@pytest.mark.browser
def test_every_control_is_reached_by_keyboard(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        settings = f"{len(Params.model_fields)} settings of this run"
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        assert {"sort", "reverse", "reviewer", "review-start", "More metrics", settings} <= reached
        assert {"Settings", "All metrics of sea turtle"} & reached == {"Settings"}, "a closed class has no stops"


def expect(locator: Locator) -> Any:
    """Playwright's assertions, which wait until the page has reacted."""
    from playwright.sync_api import expect

    return expect(locator)


def headings(page: Page) -> list[str]:
    return page.locator("#classes h3").all_text_contents()


def open_details(page: Page) -> None:
    """Open all that is folded."""
    page.locator("details").evaluate_all("all => all.forEach((details) => { details.open = true; })")


@pytest.mark.browser
def test_sorting(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        assert headings(page) == list(NAMES)[::-1], "the highest class accuracy first"
        page.get_by_role("button", name="Worst first").click()
        assert headings(page) == list(NAMES)
        assert page.get_by_text("Sorted by Class accuracy, worst first.").is_visible()
        page.get_by_role("button", name="Best first").press("Enter")
        assert headings(page) == list(NAMES)[::-1]
        sort = page.get_by_label("Sort by")
        sort.select_option("heldout_bits_per_dim")  # less is better
        assert headings(page) == list(NAMES)
        sort.select_option("name")
        assert headings(page) == [ODD, "sea turtle", "The Eiffel Tower"]
        page.get_by_role("button", name="Reverse").press("Enter")
        assert headings(page) == ["The Eiffel Tower", "sea turtle", ODD]
        sort.select_option("class_index")
        assert headings(page) == list(NAMES)[::-1]


@pytest.mark.browser
def test_the_viewer_by_keyboard_and_by_mouse(browser: Browser, finished: Path) -> None:
    arrays = load_file(finished / "data/evaluate/drawings.safetensors")
    with opened(browser, finished / "reports/index.html") as page:
        viewer = page.get_by_role("dialog")
        title = viewer.get_by_role("heading")
        expect(viewer).to_be_hidden()
        page.locator("summary.row", has_text="sea turtle").click()
        page.get_by_role("button", name="generated sea turtle, 2 of 8").click()
        expect(title).to_have_text("generated sea turtle, 2 of 8")
        tile = page.locator(".tile").nth(41)
        assert viewer.locator("#viewer-drawing").get_attribute("src") == tile.locator("img").get_attribute("src")
        assert viewer.locator("#viewer-nearest").get_attribute("src") == tile.get_attribute("data-nearest")
        nearness = page_module.describe_nearness((arrays["heldout_distance"] < arrays["generated_distance"][1]).mean())
        expect(viewer).to_contain_text(f"The nearest training drawing, {nearness}")
        expect(viewer).to_contain_text(f"The judge predicts: {tile.get_attribute('data-predictions')}.")
        page.keyboard.press("ArrowRight")
        expect(title).to_have_text("generated sea turtle, 3 of 8")
        page.keyboard.press("Escape")
        expect(viewer).to_be_hidden()
        # From the tile where it was closed, the arrow keys move along the row, and Enter opens the viewer.
        expect(page.locator(".tile").nth(42)).to_be_focused()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Enter")
        expect(title).to_have_text("generated sea turtle, 2 of 8")
        viewer.get_by_role("button", name="Close").click()
        page.keyboard.press("Tab")
        expect(page.get_by_text("All metrics of sea turtle")).to_be_focused()  # a row is one tab stop


@pytest.mark.browser
def test_the_keys_still_work_at_the_last_drawing(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        viewer = page.get_by_role("dialog")
        title, next_button = viewer.get_by_role("heading"), viewer.get_by_role("button", name="Next")
        open_details(page)
        page.locator(".tile").nth(46).click()
        next_button.click()
        expect(title).to_have_text("generated sea turtle, 8 of 8")
        expect(next_button).to_be_disabled()
        expect(next_button).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("ArrowRight")
        expect(title).to_have_text("generated sea turtle, 8 of 8")
        page.keyboard.press("ArrowLeft")
        expect(title).to_have_text("generated sea turtle, 7 of 8")
        expect(next_button).to_be_enabled()


@pytest.mark.browser
def test_changes_in_the_viewer_are_announced(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        open_details(page)
        page.locator(".tile").first.click()
        for part in ("title", "caption", "nearness", "predictions"):
            live = page.locator("[aria-live=polite]", has=page.locator(f"#viewer-{part}"))
            expect(live).to_be_visible()
        assert page.locator("[aria-live] button").count() == 0, "buttons are not announced"


def start_review(page: Page) -> None:
    page.get_by_role("button", name="Start").press("Enter")
    expect(page.locator("#review-prompt")).to_contain_text("Question 1 of 10")


@pytest.mark.browser
@pytest.mark.parametrize("mode", [blind_review.PAIRS, blind_review.SINGLES])
def test_a_whole_blind_review_by_keyboard(browser: Browser, input_files: Path, settings: Params, mode: str) -> None:
    stage.main(settings)
    questions = blind_review.make_questions([10, 10, 10], [12, 12, 12], 8, settings.seed)
    assert len(questions) == 30
    truth = [
        question.left_is_generated if mode == blind_review.PAIRS else question.single_is_generated
        for question in questions
    ]
    with opened(browser, input_files / "reports/index.html") as page:
        page.get_by_role("radio", name="pairs" if mode == blind_review.PAIRS else "single").check()
        page.get_by_label("Your name").fill("<b>A Person</b>")
        page.keyboard.press("Enter")
        prompt, drawing = page.locator("#review-prompt"), page.locator("#review-left")
        samples = np.load(input_files / "data/sample/samples.npy")[..., 0]
        for number, (question, generated) in enumerate(zip(questions, truth, strict=True)):
            wanted = 10 if number < 10 else 30
            if number == 10:  # the answers so far are revealed; go on
                page.get_by_role("button", name="Go on: 20 more").press("Enter")
            expect(prompt).to_contain_text(f"Question {number + 1} of {wanted}, {NAMES[question.class_index]}: ")
            expect(page.locator("#review-right")).to_be_visible(visible=mode == blind_review.PAIRS)
            first = decode(drawing.get_attribute("src") or "")
            assert np.array_equal(first, samples[question.class_index, question.generated]) == generated
            if number == 3:  # a wrong answer, removed
                page.keyboard.press("ArrowLeft")
                page.keyboard.press("Backspace")
                expect(prompt).to_contain_text("Question 4 of 10")
            if number == 5:  # reload the page, and continue
                page.reload()
                page.get_by_role("button", name="Continue from question 6").press("Enter")
                expect(prompt).to_contain_text("Question 6 of 10")
            correct = number % 3 > 0
            page.keyboard.press("ArrowLeft" if generated == correct else "ArrowRight")
        score = page.locator("#review-score")
        expect(score).to_contain_text("You answered 20 of 30 questions correctly, 67% (95% interval 49% to 81%)")
        expect(score).to_be_focused()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save the answers").press("Enter")
        assert download.value.suggested_filename.endswith(f"-{mode}-b-a-person-b.json")
        (input_files / "reviews").mkdir()
        download.value.save_as(input_files / "reviews" / download.value.suggested_filename)

    stage.main(settings)
    text = " ".join(Elements(html(input_files)).text.split())
    assert "<b>A Person</b>" in text
    assert "in pairs" * (mode == blind_review.PAIRS) in text
    assert "20 of 30 67% 49% to 81%, which includes chance" in text
    assert "reviews of other questions" not in text.lower()
    # Other settings give other questions, to which these answers do not belong.
    stage.main(settings.model_copy(update={"samples_per_class": 7}))
    text = " ".join(Elements(html(input_files)).text.split())
    assert "No review of these questions has been saved yet." in text
    assert "Reviews of other questions, which are not counted here: 1." in text


@pytest.mark.browser
def test_a_whole_game_by_touch_ends_with_the_reveal(browser: Browser, input_files: Path, settings: Params) -> None:
    (input_files / "reviews").mkdir()
    saved = {"questions": inputs.read(settings).review_hash, "mode": blind_review.PAIRS, "reviewer": "A Person"}
    questions = blind_review.make_questions([10, 10, 10], [12, 12, 12], 8, settings.seed)
    one_right = [[0, questions[0].left_is_generated], [1, not questions[1].left_is_generated]]
    (input_files / "reviews/one.json").write_text(json.dumps(saved | {"answers": one_right}))
    stage.main(settings)
    viewport = {"width": 390, "height": 844}
    with opened(browser, input_files / "reports/index.html", viewport=viewport, has_touch=True) as page:
        page.locator("#review-start").tap()
        for number, question in enumerate(questions[:10]):
            for part in ("#review-left", "#review-right", "#review-back", "#review-stop", "#review-progress"):
                box = page.locator(part).bounding_box()
                assert box and box["y"] >= 0 and box["y"] + box["height"] <= viewport["height"], "always in view"
            assert page.locator("#review-progress").evaluate("bar => [bar.value, bar.max]") == [number, 10]
            if number == 4:  # take an answer back, stop, and continue
                page.locator("#review-back").tap()
                expect(page.locator("#review-prompt")).to_contain_text("Question 4 of 10")
                page.locator("#review-stop").tap()
                page.get_by_role("button", name="Continue from question 4").tap()
                page.locator("#review-first" if questions[3].left_is_generated else "#review-second").tap()
            correct = number not in (2, 7)
            left = question.left_is_generated == correct
            page.locator("#review-first" if left else "#review-second").tap()
        score = page.locator("#review-score")
        expect(score).to_contain_text("You answered 8 of 10 questions correctly, 80% (95% interval 49% to 94%).")
        expect(score).to_contain_text("Guessing gives 50%.")
        expect(score).to_contain_text("You did better than 1 of 1 earlier reviewer.")
        expect(score).to_be_in_viewport()
        run = fingerprint(settings.model_dump(mode="json"))
        expect(page.locator("#review-line")).to_have_value(
            f"I recognised 8 of 10 generated drawings (quickdraw-pixelcnn, my drawings, run {run}); guessing gives 5."
        )
        cut_off = "line => [line.scrollWidth - line.clientWidth, line.scrollHeight - line.clientHeight]"
        assert page.locator("#review-line").evaluate(cut_off) == [0, 0], "the whole line is in view"
        captions = "all => all.map((figure) => figure.lastChild.offsetTop - figure.firstChild.offsetTop)"
        assert len(set(page.locator("#review-reveal figure").evaluate_all(captions))) == 1, "captions are level"
        figures = page.locator("#review-reveal figure")
        assert page.locator("#review-reveal h3").all_inner_texts() == ["These deceived you", "These did not"]
        assert figures.count() == 10
        samples = np.load(inputs.SAMPLES)[..., 0]
        predicted = load_file(inputs.ARRAYS)["generated_predicted"]
        for figure, number in zip(figures.all(), (2, 7), strict=False):
            question = questions[number]
            generated = decode(figure.locator("img.generated").get_attribute("src") or "")
            assert np.array_equal(generated, samples[question.class_index, question.generated])
            judged = NAMES[predicted[question.class_index * 12 + question.generated][0]]
            assert figure.inner_text() == f"{NAMES[question.class_index]}; judge: {judged} 50%"
        page.locator("#review-copy").tap()
        assert page.evaluate("document.activeElement.id") in ("review-line", "review-copy")
        with page.expect_download() as download:
            page.locator("#review-save").tap()
        answers = json.loads(download.value.path().read_text())
        assert answers["questions"] == saved["questions"] and len(answers["answers"]) == 10
        expect(page.get_by_role("button", name="Go on: 20 more")).to_be_visible()


@pytest.mark.browser
def test_shares_are_rounded_alike_in_the_browser_and_elsewhere(browser: Browser, finished: Path) -> None:
    shares = [correct / number for number in range(1, 41) for correct in range(number + 1)]
    shares += [0.525, 0.545, 0.0995, 0.09949, 0.995, 0.9949, 0.0005, 0.00049, 0.9995, 0.99949]
    with opened(browser, finished / "reports/index.html") as page:
        assert page.evaluate("shares => shares.map(formatShare)", shares) == [
            metric_values.format_share(share) for share in shares
        ]


@pytest.mark.browser
def test_the_first_key_counts_in_a_review_started_with_enter(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        page.get_by_label("Your name").press("Enter")
        expect(page.locator("#review-first")).to_be_focused()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#review-prompt")).to_contain_text("Question 2 of 10")


@pytest.mark.browser
def test_a_key_held_down_answers_once(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        prompt = page.locator("#review-prompt")
        page.get_by_label("Your name").focus()
        for _ in range(3):
            page.keyboard.down("Enter")
        page.keyboard.up("Enter")
        expect(prompt).to_contain_text("Question 1 of 10")
        for answered, key in enumerate(("ArrowLeft", "ArrowRight"), 1):
            for _ in range(3):
                page.keyboard.down(key)
            page.keyboard.up(key)
            expect(prompt).to_contain_text(f"Question {answered + 1} of 10")


@pytest.mark.browser
def test_keys_pressed_outside_the_review_are_not_answers(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        start_review(page)
        for elsewhere in (page.get_by_role("link", name="Settings"), page.locator("summary").first):
            elsewhere.press("ArrowLeft")
            elsewhere.press("Backspace")
            elsewhere.press("Escape")
            expect(page.locator("#review-prompt")).to_contain_text("Question 1 of 10")
            expect(page.locator("#review-prompt")).to_be_visible()
        elsewhere.blur()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#review-prompt")).to_contain_text("Question 2 of 10")


@pytest.mark.browser
def test_each_review_mode_has_separate_answers(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        prompt, start = page.locator("#review-prompt"), page.locator("#review-start")
        start_review(page)
        for number in range(5):
            page.keyboard.press("ArrowLeft")
            expect(prompt).to_contain_text(f"Question {number + 2} of 10")
        page.keyboard.press("Escape")
        expect(start).to_have_text("Continue from question 6")
        expect(start).to_be_focused()
        page.get_by_role("radio", name="single").check()
        expect(start).to_have_text("Start")
        start_review(page)
        page.keyboard.press("ArrowRight")
        expect(prompt).to_contain_text("Question 2 of 10")
        page.keyboard.press("Escape")
        page.reload()
        expect(start).to_have_text("Continue from question 2")
        page.get_by_role("radio", name="pairs").check()
        expect(start).to_have_text("Continue from question 6")


@pytest.mark.browser
def test_the_saved_file_is_not_revoked_at_once(browser: Browser, finished: Path) -> None:
    with opened(browser, finished / "reports/index.html") as page:
        start_review(page)
        for number in range(10):
            page.keyboard.press("ArrowLeft")
            if number < 9:
                expect(page.locator("#review-prompt")).to_contain_text(f"Question {number + 2} of 10")
        page.evaluate("() => { window.revoked = 0; URL.revokeObjectURL = () => { window.revoked += 1; }; }")
        with page.expect_download():
            page.get_by_role("button", name="Save the answers").press("Enter")
        assert page.evaluate("window.revoked") == 0


@pytest.mark.browser
def test_printing(browser: Browser, input_files: Path, settings: Params) -> None:
    """The print has all content, including the reviews, and no controls."""
    stage.main(settings)
    review_hash = json.loads(html(input_files).partition('id="review-data">')[2].partition("</script>")[0])["hash"]
    review = {"questions": review_hash, "mode": blind_review.PAIRS, "reviewer": "A Person", "answers": [[0, True]]}
    (input_files / "reviews").mkdir()
    (input_files / "reviews/one.json").write_text(json.dumps(review))
    stage.main(settings)
    with opened(browser, input_files / "reports/index.html") as page:
        page.emulate_media(media="print")
        expect(page.get_by_role("row", name="A Person")).to_be_visible()
        for heading in page.locator("h2:not(dialog h2)").all():
            expect(heading).to_be_visible()
        assert page.locator(".thumbs img").evaluate_all("all => all.every((image) => image.checkVisibility())")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator(".tile img").evaluate_all("all => all.every((image) => image.checkVisibility())")
        for part in page.locator(
            "form, dialog, select, kbd, header .parts, .without-script, #review-section button"
        ).all():
            expect(part).to_be_hidden()


@pytest.mark.browser
def test_the_policy_refuses_an_injected_script(browser: Browser, finished: Path, tmp_path: Path) -> None:
    messages = refused(browser, html(finished), tmp_path)
    assert "script" in messages
    assert "img-src" in messages
