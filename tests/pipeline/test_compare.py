"""`python -m pipeline compare`: experiments side by side, from what DVC keeps of them."""

import io
import json
import math
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pipeline import compare as module
from pipeline.__main__ import main
from pipeline.compare import ClassDrawings, ExperimentReport
from pipeline.dvc import DvcError, Snapshot
from stages.metrics import catalogue
from stages.metrics.catalogue import METRICS
from stages.params import Params
from stages.reporting import html
from stages.reporting.figures import Figure
from stages.reporting.sheets import read_sheet
from tests import fake_project
from tests.conftest import opened, refused
from tests.settings import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<script>alert(1)</script>"


def sheet(columns: int, rows: int, seed: int = 0) -> tuple[Any, bytes]:
    """Drawings (rows, columns, 28, 28), and the sheet of them."""
    drawings = np.random.default_rng(seed).integers(1, 256, (rows, columns, 28, 28), np.uint8)
    pixels = drawings.swapaxes(1, 2).reshape(rows * 28, columns * 28).repeat(10, 0).repeat(10, 1)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return drawings, png.getvalue()


def test_the_drawings_of_a_sheet_come_back_to_the_pixel() -> None:
    drawings, png = sheet(3, 2)
    real, generated = read_sheet(png)
    np.testing.assert_array_equal([*real, *generated], drawings.reshape(6, 28, 28))


def test_of_many_generated_drawings_the_first_eight_are_shown() -> None:
    drawings, png = sheet(8, 3)
    real, generated = module.shown_drawings(png)
    assert (len(real), len(generated)) == (8, 8)
    assert generated[7] == html.data_uri(drawings[1, 7])


@pytest.mark.parametrize(
    ("better", "values", "expected"),
    [
        ("less", [2.0, 1.0, 3.0], {1}),
        ("more", [2.0, 1.0, 3.0], {2}),
        ("more", [3.0, 1.0, 3.0], {0, 2}),
        ("more", [3.0, 3.0], set()),
        ("more", [3.0, None, math.nan], set()),
        ("more", [1.0, None, 2.0], {2}),
        (None, [2.0, 1.0], set()),
    ],
)
def test_the_best_is_marked(better: str | None, values: list[float | None], expected: set[int]) -> None:
    assert module.best("", [None if value is None else Figure(value) for value in values], better) == expected


def test_the_nearest_to_its_reference_is_the_best_of_what_should_be_alike() -> None:
    found = [Figure(0.2, reference=0.25), Figure(0.26, reference=0.25), Figure(0.5, reference=0.5)]
    assert module.best("ink", found, "alike") == {2}


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
def test_nothing_is_better_than_perfect(metric: str, values: list[float], expected: set[int]) -> None:
    assert module.best(metric, [Figure(value) for value in values], "less") == expected


@pytest.mark.parametrize(
    ("setting", "unmarked"),
    [
        ("mirror", {"heldout_bits_per_dim", "ink", "class_accuracy", "mmd", "frechet_distance"}),
        ("classes", {"heldout_bits_per_dim", "ink", "class_accuracy", "mmd", "frechet_distance"}),
        ("judge_seed", {"class_accuracy", "mmd", "frechet_distance"}),
        ("judge_steps", {"class_accuracy", "mmd", "frechet_distance"}),
        ("eval_samples_per_class", {"frechet_distance"}),
        ("num_resnet", set()),
    ],
)
def test_what_is_measured_with_another_yardstick_is_not_held_against_it(setting: str, unmarked: set[str]) -> None:
    measures = ("heldout_bits_per_dim", "ink", "class_accuracy", "mmd", "frechet_distance")
    assert {
        measure for measure in measures if module.incomparable_settings(measure, {setting}) == [setting]
    } == unmarked


def test_the_measures_by_a_judge_are_those_that_its_word_or_two_halves_are_the_reference_of() -> None:
    by_judge = {key for key, measure in METRICS.items() if measure.reference in (catalogue.JUDGE, catalogue.HALVES)}
    assert by_judge == module.BY_JUDGE
    assert module.OF_SIZE < module.BY_JUDGE
    assert {*module.DRAWINGS, *module.JUDGE, *module.SIZE} <= Params.model_fields.keys()


def test_only_settings_that_differ_are_listed() -> None:
    def one(**settings: Any) -> ExperimentReport:
        return ExperimentReport("", settings, {}, {}, {})

    assert module.differing([one(a=1, b=[1, 2]), one(a=1, b=[1])]) == {"b": ["1, 2", "1"]}
    assert module.differing([one(a=True), one()]) == {"a": ["true", "–"]}


def test_a_run_from_before_there_was_a_table_has_bare_figures() -> None:
    class Old(Snapshot):
        def __init__(self) -> None:
            pass

        def read(self, path: str) -> bytes:
            if path != "reports/metrics.json":
                raise DvcError(path)
            return b'{"heldout_bits_per_dim": 1.5, "heldout_drawings": 20}'

    assert module.overall(Old()) == ({"heldout_bits_per_dim": Figure(1.5)}, {})


def experiment(name: str, seed: int, class_accuracy: float, **settings: Any) -> ExperimentReport:
    figures = {
        "class_accuracy": Figure(class_accuracy, class_accuracy - 0.1, class_accuracy + 0.1),
        "ink": Figure(0.2, reference=0.2),
    }
    real, generated = module.shown_drawings(sheet(8, 2, seed)[1])
    classes = {"26": ClassDrawings("bee", real, generated, figures)} | (
        {"345": ClassDrawings(HOSTILE, real, generated, {})} if seed else {}
    )
    return ExperimentReport(
        name, {"seed": seed} | settings, figures, {"class_accuracy": "more", "ink": "alike"}, classes
    )


def test_figures_of_different_judges_are_not_marked(tmp_path: Path) -> None:
    page = module.page([experiment("a", 0, 0.5, judge_seed=0), experiment("b", 0, 0.75, judge_seed=1)])
    assert "<b>best</b>" not in page
    assert page.count("not to be held against each other: judge_seed differs") == 1, "and ink can be"
    page = module.page([experiment("a", 0, 0.5, judge_seed=0), experiment("b", 1, 0.75, judge_seed=0)])
    assert page.count("<b>best</b>") == 1
    assert "not to be held" not in page


@pytest.mark.browser
def test_the_page_in_a_browser(browser: "Browser", tmp_path: Path) -> None:
    path = tmp_path / "compare.html"
    path.write_text(module.page([experiment("first", 0, 0.5), experiment(HOSTILE, 1, 0.75)]), encoding="utf-8")
    with opened(browser, path) as page:
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 390, "tables scroll, the page does not"
        intervals = (
            page.locator(".figures small").filter(has_text=" to 0.").evaluate_all("all => all.map(x => x.offsetHeight)")
        )
        assert intervals and max(intervals) < 30, "no number is broken over two lines"
        assert page.locator(".best").all_inner_texts() == ["0.750 best\n0.650 to 0.850"]
        assert page.get_by_role("row", name="seed").get_by_role("cell").all_inner_texts() == ["0", "1"]
        assert page.get_by_role("rowheader", name=HOSTILE).is_visible()
        assert page.get_by_text("not learnt").count() == 1
        assert page.get_by_text("beside other real drawings than these").count() == 1
        images = page.locator("img")
        assert images.count() == 8 * (1 + 2) + 8 * (1 + 1)
        assert images.evaluate_all("all => all.every(image => image.complete && image.naturalWidth === 28)")


@pytest.mark.browser
def test_the_policy_refuses_an_injected_script(browser: "Browser", tmp_path: Path) -> None:
    said = refused(browser, module.page([experiment("first", 0, 0.5), experiment(HOSTILE, 1, 0.75)]), tmp_path)
    assert "script" in said
    assert "img-src" in said


# A stage that takes no time, and leaves what the report and evaluate leave.
STAGE = """
    import json, pathlib, sys
    import numpy as np
    from PIL import Image
    from ruamel.yaml import YAML

    seed = YAML(typ="safe", pure=True).load(pathlib.Path("params.yaml"))["seed"]
    pathlib.Path("reports/classes").mkdir(parents=True)
    ink = np.random.default_rng(seed).integers(0, 256, (56, 56), np.uint8).repeat(10, 0).repeat(10, 1)
    Image.fromarray(ink).save("reports/classes/26_bee.png")
    pathlib.Path("reports/metrics.json").write_text(json.dumps({"class_accuracy": 0.25 + seed / 4}))
    table = f"metric,label,name,value,low,high,reference,better\\nfidelity,,,{0.25 + seed / 4},0.2,0.8,0.9,more\\n"
    pathlib.Path("reports/metrics.csv").write_text(table)
    pathlib.Path("reports/classes.csv").write_text(f"label,name,class_accuracy\\n26,bee,{0.25 + seed / 4}\\n")
    """


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one run of seed 0, and an experiment `second` of seed 1."""
    monkeypatch.chdir(tmp_path)
    outs = [f"reports/{name}" for name in ("classes", "metrics.json", "metrics.csv", "classes.csv")]
    stage = {"cmd": f"{sys.executable} stage.py", "params": ["seed"], "outs": outs}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"all": stage}}))
    (tmp_path / "stage.py").write_text(textwrap.dedent(STAGE))
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    shutil.copy(ROOT / ".gitignore", tmp_path)
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    fake_project.git(tmp_path, "init", "--quiet")
    for key, value in (("user.name", "a"), ("user.email", "a@localhost")):
        fake_project.git(tmp_path, "config", key, value)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "repro", "--quiet"], check=True)
    fake_project.git(tmp_path, "add", "--all")
    fake_project.git(tmp_path, "commit", "--quiet", "--message", "one")
    subprocess.run([*dvc, "exp", "run", "--quiet", "--name", "second", "--set-param", "seed=1"], check=True)
    return tmp_path


@pytest.mark.slow
def test_experiments_and_revisions_without_computing(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "stage.py").write_text("raise SystemExit('computed again')")
    assert main(["compare"]) == 0
    assert capsys.readouterr().out == (
        f"compared: workspace, second\ncomparison: {repository / 'reports/compare.html'}\n"
    )
    assert main(["compare", "HEAD", "second"]) == 0
    page = (repository / "reports/compare.html").read_text()
    assert '<th scope="row"><code>seed</code></th><td>0</td><td>1</td>' in page
    assert '<td class="best">0.500 <b>best</b>' in page
    first = module.read(repository, "HEAD").classes["26"]
    assert first.figures == {"class_accuracy": Figure(0.25)}
    assert first.generated != module.read(repository, "second").classes["26"].generated

    capsys.readouterr()
    assert main(["compare", "HEAD", "none"]) == 1
    assert capsys.readouterr().err == "error: unknown Git revision 'none'\n"
    shutil.rmtree(repository / ".dvc" / "cache")
    with pytest.raises(DvcError, match=r"second has no reports/.*, or it is not in DVC's cache: .*dvc exp pull"):
        module.read(repository, "second")
    assert (repository / "reports/compare.html").read_text() == page, "what was there stays"
