"""`python -m pipeline compare`: a page that compares experiments, from the outputs that DVC saved."""

import io
import json
import math
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pipeline import compare as module
from pipeline.__main__ import main
from pipeline.compare import ClassDrawings, ExperimentReport
from pipeline.dvc import DvcError, NoSuchFile, Snapshot
from stages.metrics import catalogue
from stages.metrics.catalogue import METRICS
from stages.reporting import html
from stages.reporting.metric_values import MetricValue
from stages.reporting.sheets import read_sheet
from tests import fake_project
from tests.conftest import LOOKS, inaccessible, opened, refused
from tests.settings import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<script>alert(1)</script>"
MEASURED_WITH = {"heldout": "1a2b3c4d", "judge": "5e6f7a8b", "generated": 480}


def sheet(columns: int, rows: int, seed: int = 0) -> tuple[Any, bytes]:
    """Random drawings, (rows, columns, 28, 28), and their sheet as PNG."""
    drawings = np.random.default_rng(seed).integers(1, 256, (rows, columns, 28, 28), np.uint8)
    pixels = drawings.swapaxes(1, 2).reshape(rows * 28, columns * 28).repeat(10, 0).repeat(10, 1)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return drawings, png.getvalue()


def test_reading_a_sheet_restores_every_pixel() -> None:
    drawings, png = sheet(3, 2)
    real, generated = read_sheet(png)
    np.testing.assert_array_equal([*real, *generated], drawings.reshape(6, 28, 28))


def test_the_first_eight_generated_drawings_are_shown() -> None:
    drawings, png = sheet(8, 3)
    real, generated = module.shown_drawings(png)
    assert (len(real), len(generated)) == (8, 8)
    assert generated[7] == html.data_uri(drawings[1, 7])


def interval(value: float, margin: float = 0.1, reference: float = math.nan) -> MetricValue:
    return MetricValue(value, value - margin, value + margin, reference)


@pytest.mark.parametrize(
    ("better", "values", "expected"),
    [
        ("less", [2.0, 1.0, 3.0], {1}),
        ("more", [2.0, 1.0, 3.0], {2}),
        ("more", [3.0, 1.0, 3.0], {0, 2}),
        ("more", [3.0, 3.0], set()),
        ("more", [3.0, None, math.nan], set()),
        ("more", [1.0, None, 2.0], {2}),
        ("more", [1.0, 1.19], set()),  # their intervals overlap
        ("more", [1.0, 2.0, 2.1], set()),
        (None, [2.0, 1.0], set()),
    ],
)
def test_the_best_value_is_marked_if_its_interval_is_apart(
    better: str | None, values: list[float | None], expected: set[int]
) -> None:
    assert module.best("", [None if value is None else interval(value) for value in values], better) == expected


def test_no_value_is_the_best_without_intervals() -> None:
    assert module.best("class_accuracy", [MetricValue(0.1), MetricValue(0.9)], "more") == set()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([interval(0.2, 0.01, 0.25), interval(0.26, 0.02, 0.25), interval(0.5, 0.01, 0.4)], {1}),
        ([interval(0.2, 0.04, 0.25), interval(0.26, 0.02, 0.25)], set()),  # 0.24 is as close as 0.26
        ([interval(0.21, 0.01, 0.25), interval(0.29, 0.01, 0.25)], set()),
    ],
)
def test_the_closest_to_its_reference_is_the_best_if_alike_is_better(
    values: list[MetricValue], expected: set[int]
) -> None:
    assert module.best("ink", values, "alike") == expected


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("c2st_accuracy", [0.43, 0.5], set()),
        ("c2st_accuracy", [0.43, 0.5, 0.6], {0, 1}),
        ("c2st_accuracy", [0.7, 0.6], {1}),
        ("mmd", [-0.02, 0.0], set()),
        ("mmd", [0.1, -0.02, 0.0], {1, 2}),
    ],
)
def test_values_better_than_perfect_are_equally_good(metric: str, values: list[float], expected: set[int]) -> None:
    assert module.best(metric, [interval(value, 0.01) for value in values], "less") == expected


def test_only_settings_that_differ_are_listed() -> None:
    assert module.differing_settings([{"a": 1, "b": [1, 2]}, {"a": 1, "b": [1]}]) == {"b": ["1, 2", "1"]}
    assert module.differing_settings([{"a": True}, {}]) == {"a": ["true", "–"]}


LONG = ["x" * 31, "y"]


@pytest.mark.parametrize(
    ("differing", "heading"),
    [
        ({"num_resnet": ["1", "3"]}, "num_resnet 1 → 3"),
        ({"num_resnet": ["1", "3", "1"], "seed": ["0", "1", "2"]}, "num_resnet 1, 3, seed 0, 1, 2"),
        ({"classes": LONG, "seed": ["0", "1"]}, "classes, seed 0 → 1"),
        ({key: ["0", "1"] for key in "abcdef"}, "a 0 → 1, b 0 → 1, c 0 → 1, d 0 → 1, and 2 more"),
        ({}, ""),
    ],
)
def test_the_heading_is_what_differs(differing: dict[str, list[str]], heading: str) -> None:
    assert module.describe_differences(differing) == heading


@pytest.mark.parametrize(
    ("differing", "labels"),
    [
        ({"num_resnet": ["1", "3"]}, ["num_resnet 1", "num_resnet 3"]),
        ({"num_resnet": ["1", "3"], "seed": ["0", "1"]}, ["num_resnet 1", "num_resnet 3"]),
        ({"classes": LONG, "seed": ["0", "1"]}, ["seed 0", "seed 1"]),
        ({"classes": LONG}, ["first", "second"]),
        ({}, ["first", "second"]),
    ],
)
def test_runs_are_called_by_what_differs(differing: dict[str, list[str]], labels: list[str]) -> None:
    assert module.run_labels([experiment("first", 0, 0.5), experiment("second", 0, 0.5)], differing) == labels


def test_the_heading_of_runs_that_do_not_differ() -> None:
    first, second = experiment("first", 0, 0.5), experiment("second", 0, 0.5)
    assert "<h1>The same settings</h1>" in module.page([first, second])
    assert "<h1>first</h1>" in module.page([first])


def test_runs_are_called_by_two_settings_where_one_is_not_enough() -> None:
    runs = [experiment("a", 0, 0.5), experiment("b", 0, 0.5), experiment("c", 0, 0.5)]
    differing = {"num_resnet": ["1", "1", "3"], "seed": ["0", "1", "0"]}
    assert module.run_labels(runs, differing) == [
        "num_resnet 1, seed 0",
        "num_resnet 1, seed 1",
        "num_resnet 3, seed 0",
    ]


def test_the_workspace_is_not_listed_beside_the_experiment_that_it_holds() -> None:
    nan = {"mmd": MetricValue(float("nan"))}  # which is not equal to itself
    workspace, first, second = (
        replace(experiment(name, seed, 0.5), metrics=dict(nan))
        for name, seed in (("workspace", 1), ("first", 0), ("second", 1))
    )
    assert [run.name for run in module.without_duplicate([workspace, first, second])] == ["first", "second"]
    assert [run.name for run in module.without_duplicate([workspace, first])] == ["workspace", "first"]
    other = replace(second, settings={"seed": 2})
    assert [run.name for run in module.without_duplicate([workspace, other])] == ["workspace", "second"]
    assert module.without_duplicate([workspace]) == [workspace]


OLD_FILES = {  # of a run from before reports/metrics.csv, when metrics had other names
    "params.yaml": "seed: 1\n",
    "reports/metrics.json": json.dumps({
        "heldout_bits_per_dim": 1.5, "fidelity": 0.5, "told_apart": 0.75, "heldout_drawings": 20,
    }),
    "reports/classes.csv": (
        "label,name,heldout_drawings,heldout_bits_per_dim,fidelity,label_use\n"
        "26,bee,20,1.5,0.5,0.9\n"
    ),
}  # fmt: skip


class OldRun(Snapshot):
    """The files of an old run."""

    def __init__(self, root: Path, revision: str | None) -> None:
        pass

    def list(self, folder: str) -> list[str]:
        return [f"{folder}/26_bee.png"]

    def read(self, path: str) -> bytes:
        if path == "reports/classes/26_bee.png":
            return sheet(8, 2)[1]
        if path not in OLD_FILES:
            raise NoSuchFile(path)
        return OLD_FILES[path].encode()


def test_an_old_run_without_metrics_csv_has_the_values_of_metrics_json() -> None:
    values = {"heldout_bits_per_dim": 1.5, "fidelity": 0.5, "told_apart": 0.75}
    expected = {key: MetricValue(value) for key, value in values.items()}
    assert module.overall(OldRun(Path(), "old")) == (expected, {})


def test_an_old_run_shows_a_dash_for_metrics_that_it_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.dvc.Snapshot", OldRun)
    old = module.read(Path(), "old")
    assert old.classes["26"].metrics == {"heldout_bits_per_dim": MetricValue(1.5), "fidelity": MetricValue(0.5)}
    page = module.page([old, experiment("new", 0, 0.75)])
    assert values_by_metric(page) == {
        "Class accuracy": ["–", "75%"],
        "Bits per dimension": ["1.500", "–"],
        "Recall": ["–", "38%"],
        "fidelity": ["0.500", "–"],
        "told apart": ["0.750", "–"],
        "Ink": ["–", "20%"],
    }
    assert "with unknown held-out drawings, unknown judges, unknown numbers of generated drawings." in page
    assert "<b>best</b>" not in page
    assert "not comparable: unknown held-out drawings, unknown judges</small>" in page


def values_by_metric(page: str) -> dict[str, list[str]]:
    """The values in each row of the tables of metrics."""
    rows = []
    for table in page.split('<table class="metrics">')[1:]:
        body = table.partition("<tbody>")[2].partition("</table>")[0]
        rows += [re.findall(r"<(?:th|td)[^>]*>([^<]*[^< ])", row) for row in body.split("<tr>")[1:]]
    return {name: values for name, *values in rows}


def experiment(name: str, seed: int, class_accuracy: float, **measured_with: Any) -> ExperimentReport:
    metrics = {
        "class_accuracy": interval(class_accuracy),
        "ink": MetricValue(0.2, reference=0.2),
        "recall": interval(class_accuracy / 2, 0.05),
    }
    real, generated = module.shown_drawings(sheet(8, 2, seed)[1])
    classes = {"26": ClassDrawings("bee", real, generated, metrics)} | (
        {"345": ClassDrawings(HOSTILE, real, generated, {})} if seed else {}
    )
    better = {"class_accuracy": "more", "ink": "alike", "recall": "more"}
    return ExperimentReport(name, {"seed": seed}, metrics, better, classes, MEASURED_WITH | measured_with)


@pytest.mark.parametrize(
    ("measured_with", "reason", "metrics"),
    [
        ({"heldout": "0"}, "different held-out drawings", ["class_accuracy", "ink", "recall"]),
        ({"judge": "0"}, "different judges", ["class_accuracy", "recall"]),
        ({"judge": "0", "heldout": "0"}, "different held-out drawings", ["class_accuracy", "ink", "recall"]),
        ({"generated": 20}, "different numbers of generated drawings", ["recall"]),
        ({"judge": None}, "unknown judges", ["class_accuracy", "recall"]),
    ],
)
def test_values_that_were_measured_otherwise_are_not_marked(
    measured_with: dict[str, Any], reason: str, metrics: list[str]
) -> None:
    experiments = [experiment("a", 0, 0.5), experiment("b", 0, 0.75), experiment("c", 1, 0.25, **measured_with)]
    assert module.incomparable_metrics(experiments) == {reason: metrics}
    page = module.page(experiments)
    assert page.count(f"<small>not comparable: {reason}") == len(metrics)
    assert page.count("<b>best</b>") == len({"class_accuracy", "recall"} - set(metrics)), "ink is alike in all"
    page = module.page(experiments[:2])
    assert page.count("<b>best</b>") == 2 and "not comparable" not in page
    assert "with the same held-out drawings, the same judges, the same numbers of generated drawings." in page
    assert module.incomparable_metrics(experiments[2:]) == {}, "one experiment has nothing to be compared with"


def test_the_command_says_what_is_not_comparable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiments = {"a": experiment("a", 0, 0.5), "b": experiment("b", 0, 0.75, judge="0")}
    monkeypatch.setattr("pipeline.dvc.find_root", lambda _: tmp_path)
    monkeypatch.setattr(module, "read", lambda _, name: experiments[name])
    module.compare(["a", "b"])
    assert capsys.readouterr().out == (
        f"compared: a, b\ncomparison: {tmp_path / 'reports/compare.html'}\n"
        "not comparable, because of different judges: class_accuracy, recall\n"
    )


def test_what_a_metric_must_be_measured_with_follows_from_its_definition() -> None:
    judged = {key for key in METRICS if "judge" in catalogue.conditions(key)}
    completed = {"completion_accuracy", "upper_rows_accuracy"}
    assert judged == {"class_accuracy", "informedness", "mmd"} | completed | catalogue.SIZED
    sized = {key for key in METRICS if "generated" in catalogue.conditions(key)}
    assert sized == catalogue.SIZED
    assert catalogue.COMPLETED == {key for key in METRICS if "completed" in catalogue.conditions(key)} > completed
    assert all("heldout" in catalogue.conditions(key) for key in METRICS)
    assert catalogue.conditions("fidelity") == ("heldout", "judge", "generated"), "nothing is known of it"


@pytest.mark.browser
def test_the_page_in_a_browser(browser: "Browser", tmp_path: Path) -> None:
    path = tmp_path / "compare.html"
    path.write_text(module.page([experiment("first", 0, 0.5), experiment(HOSTILE, 1, 0.75)]), encoding="utf-8")
    with opened(browser, path) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390, "tables scroll, the page does not"
        assert page.locator("h1").inner_text() == "seed 0 → 1"
        strips = page.get_by_role("article", name="bee").locator(".strip")
        boxes = [strip.bounding_box() for strip in strips.all()]
        assert len(boxes) == 3
        for box in boxes:
            assert box and box["y"] + box["height"] <= 844 and box["x"] + box["width"] <= 390
        assert page.get_by_role("article", name="bee").locator("figcaption").all_inner_texts() == [
            "real", "seed 0 class accuracy 50%", "seed 1 class accuracy 75% compared with other real drawings",
        ]  # fmt: skip
        drawings, metrics = (page.locator(part).bounding_box() for part in ("#drawings", "#metrics"))
        assert drawings and metrics and drawings["y"] < metrics["y"]
        intervals = (
            page.locator(".metrics small").filter(has_text="% to ").evaluate_all("all => all.map(x => x.offsetHeight)")
        )
        assert intervals and max(intervals) < 30, "no interval is broken over two lines"
        assert page.locator(".best").all_inner_texts() == ["75% best\n65% to 85%", "38% best\n33% to 43%"]
        assert page.get_by_text("Class accuracy: 50% → 75%, better by 25.0 percentage points, beyond").is_visible()
        assert page.get_by_role("row", name="seed").get_by_role("cell").all_inner_texts() == ["0", "1"]
        assert page.get_by_role("article", name=HOSTILE).is_visible()
        assert page.get_by_text("not among its classes").count() == 1
        images = page.locator("img")
        assert images.count() == 8 * (1 + 2) + 8 * (1 + 1)
        assert images.evaluate_all("all => all.every(image => image.complete && image.naturalWidth === 28)")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_wrong(browser: "Browser", tmp_path: Path, look: str) -> None:
    path = tmp_path / "compare.html"
    path.write_text(module.page([experiment("first", 0, 0.5), experiment(HOSTILE, 1, 0.75)]), encoding="utf-8")
    with opened(browser, path, **LOOKS[look]) as page:
        assert inaccessible(page) == [], "folded"
        page.locator("details").evaluate_all("all => all.forEach((details) => { details.open = true; })")
        assert inaccessible(page) == [], "everything open"
        page.locator("img").first.evaluate("image => image.removeAttribute('alt')")
        assert [line.partition(":")[0] for line in inaccessible(page)] == ["critical image-alt"]


@pytest.mark.browser
def test_the_policy_refuses_an_injected_script(browser: "Browser", tmp_path: Path) -> None:
    messages = refused(browser, module.page([experiment("first", 0, 0.5), experiment(HOSTILE, 1, 0.75)]), tmp_path)
    assert "script" in messages
    assert "img-src" in messages


# A quick stage that writes what evaluate and report write.
STAGE = """
    import json, pathlib, sys
    import numpy as np
    from PIL import Image
    from ruamel.yaml import YAML

    seed = YAML(typ="safe", pure=True).load(pathlib.Path("params.yaml"))["seed"]
    pathlib.Path("reports/classes").mkdir(parents=True)
    ink = np.random.default_rng(seed).integers(0, 256, (56, 56), np.uint8).repeat(10, 0).repeat(10, 1)
    Image.fromarray(ink).save("reports/classes/26_bee.png")
    pathlib.Path("reports/metrics.json").write_text(json.dumps(
        {"class_accuracy": 0.25 + seed / 4, "heldout": "1a", "judge": "2b", "generated": 9}
    ))
    header = "metric,label,name,value,low,high,reference,better\\n"
    row = f"class_accuracy,,,{0.25 + seed / 4},0.2,0.8,0.9,more\\n"
    pathlib.Path("reports/metrics.csv").write_text(header + row)
    pathlib.Path("reports/classes.csv").write_text(f"label,name,class_accuracy\\n26,bee,{0.25 + seed / 4}\\n")
    """


@pytest.fixture(params=["", "my project"])
def repository(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, or its subfolder, with a run of seed 0, and an experiment `second` of seed 1."""
    top, tmp_path = tmp_path, tmp_path / str(request.param)
    tmp_path.mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    outs = [f"reports/{name}" for name in ("classes", "metrics.json", "metrics.csv", "classes.csv")]
    stage = {"cmd": f"{sys.executable} stage.py", "params": ["seed"], "outs": outs}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"all": stage}}))
    (tmp_path / "stage.py").write_text(textwrap.dedent(STAGE))
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    shutil.copy(ROOT / ".gitignore", tmp_path)
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    fake_project.git(top, "init", "--quiet")
    for key, value in (("user.name", "a"), ("user.email", "a@localhost")):
        fake_project.git(tmp_path, "config", key, value)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "repro", "--quiet"], check=True)
    fake_project.git(tmp_path, "add", "--all")
    fake_project.git(tmp_path, "commit", "--quiet", "--message", "one")
    subprocess.run([*dvc, "exp", "run", "--quiet", "--name", "second", "--set-param", "seed=1"], check=True)
    return tmp_path


@pytest.mark.slow
def test_experiments_and_revisions_are_compared_without_running_stages(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "stage.py").write_text("raise SystemExit('computed again')")
    assert main(["compare"]) == 0
    assert capsys.readouterr().out == (f"compared: second\ncomparison: {repository / 'reports/compare.html'}\n")
    assert main(["compare", "HEAD", "second"]) == 0
    page = (repository / "reports/compare.html").read_text()
    assert re.search(r'<th scope="row"><code>seed</code> <small>[^<]+</small></th><td>0</td><td>1</td>', page)
    assert "<h1>seed 0 → 1</h1>" in page
    assert "<b>best</b>" not in page, "the intervals overlap"
    first = module.read(repository, "HEAD").classes["26"]
    assert first.metrics == {"class_accuracy": MetricValue(0.25)}
    assert first.generated != module.read(repository, "second").classes["26"].generated

    capsys.readouterr()
    assert main(["compare", "HEAD", "none"]) == 1
    assert capsys.readouterr().err == "error: unknown Git revision 'none'\n"
    shutil.rmtree(repository / ".dvc" / "cache")
    with pytest.raises(DvcError, match=r"second has no reports/.*, or it is not in DVC's cache: .*dvc exp pull"):
        module.read(repository, "second")
    assert (repository / "reports/compare.html").read_text() == page, "the page is unchanged"
