"""The artifacts of a run in Prefect, and its verdict."""

from typing import Any

import pytest

from pipeline.flows.artifacts import METRIC, FinishedRun, SavedRun, comparison, flatten, key, link, summary, verdict

MEASURED_WITH = {"heldout": "1a2b3c4d", "judge": "5e6f7a8b", "generated": 480}
BASELINE = SavedRun("usual", {METRIC: 1.75, "mmd": 0.5, "recall": 0.75, "steps": 100} | MEASURED_WITH)


def run(bits: float | None, name: str = "trial", **measured_with: Any) -> FinishedRun:
    metrics: dict[str, object] = {"mmd": 0.25, "recall": 0.5, "steps": 120, "judge.accuracy": 0.5} | MEASURED_WITH
    metrics |= {} if bits is None else {METRIC: bits}
    differing: dict[str, tuple[object, object]] = {"num_resnet": (5, 3), "source": ("https://a|b", "*doodles*")}
    return FinishedRun(name, metrics | measured_with, differing=differing, report=("reports/index.html", "abc"))


@pytest.mark.parametrize(
    ("bits", "baseline", "text"),
    [
        (1.5, BASELINE, f"better than usual by 0.25: {METRIC} 1.75 → 1.5"),
        (2.0, BASELINE, f"worse than usual by 0.25: {METRIC} 1.75 → 2"),
        (1.7501, BASELINE, f"equal to usual: {METRIC} 1.75"),
        (1.5, None, f"no verdict on {METRIC} 1.5: no run of the committed settings on these drawings is saved here"),
        (1.5, SavedRun("usual", {}), f"no verdict: usual has no {METRIC}"),
        (1.5, SavedRun("usual", {}, error="dvc.lock is damaged"), "no verdict: usual: dvc.lock is damaged"),
        (None, BASELINE, f"no verdict: the run has no {METRIC}"),
    ],
)
def test_the_verdict(bits: float | None, baseline: SavedRun | None, text: str) -> None:
    assert verdict(run(bits), baseline) == text


@pytest.mark.parametrize(
    ("measured_with", "baseline", "reason"),
    [
        ({"heldout": "00000000"}, BASELINE, "different held-out drawings"),
        ({"heldout": None}, BASELINE, "unknown held-out drawings"),
        ({}, SavedRun("usual", {METRIC: 1.75}), "unknown held-out drawings"),
    ],
)
def test_there_is_no_verdict_on_other_heldout_drawings(
    measured_with: dict[str, Any], baseline: SavedRun, reason: str
) -> None:
    text = f"no verdict on {METRIC} 1.5: not comparable with usual: {reason}"
    assert verdict(run(1.5, **measured_with), baseline) == text
    assert f"**{text}**" in summary(run(1.5, **measured_with), baseline)


def test_a_verdict_by_a_metric_of_the_judge_needs_the_same_judge() -> None:
    assert verdict(run(1.5), BASELINE, "mmd") == "better than usual by 0.25: mmd 0.5 → 0.25"
    text = verdict(run(1.5, judge="00000000"), BASELINE, "mmd")
    assert text == "no verdict on mmd 0.25: not comparable with usual: different judges"
    assert verdict(run(1.5, judge="00000000"), BASELINE).startswith("better than usual"), "bits need no judge"


def test_the_summary_shows_no_change_of_what_is_not_comparable() -> None:
    text = summary(run(1.5), BASELINE)
    assert "| mmd | 0.5 | 0.25 | -0.25 |" in text and "| recall | 0.75 | 0.5 | -0.25 |" in text
    assert "not comparable" not in text
    text = summary(run(1.5, judge="00000000"), BASELINE)
    assert f"| {METRIC} | 1.75 | 1.5 | -0.25 |" in text
    assert "| mmd | 0.5 | 0.25 | – |" in text and "| recall | 0.75 | 0.5 | – |" in text
    assert "| judge | 5e6f7a8b | 00000000 | – |" not in text
    assert "\n–: not comparable with usual: different judges\n" in text
    text = summary(run(1.5, generated=2000), BASELINE)
    assert "| mmd | 0.5 | 0.25 | -0.25 |" in text and "| recall | 0.75 | 0.5 | – |" in text
    assert "\n–: not comparable with usual: different numbers of generated drawings\n" in text


def test_the_summary_has_settings_metrics_and_report() -> None:
    text = summary(run(1.5), BASELINE)
    assert "## Changes to the committed settings\n\n| setting | before | this run |\n" in text
    assert "**better than usual by 0.25" in text
    assert "| num_resnet | 5 | 3 |" in text
    assert "| source | https://a\\|b | \\*doodles\\* |" in text
    assert "| heldout_bits_per_dim | 1.75 | 1.5 | -0.25 |" in text
    assert "| judge.accuracy |  | 0.5 |  |" in text
    assert "`reports/index.html`, MD5 `abc`" in text


def test_a_summary_without_changes_says_so() -> None:
    text = summary(FinishedRun("a", {}, base="the profile quick"), None)
    assert "## Changes to the profile quick\n\nNone.\n" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("https://host/quickdraw_dataset/numpy_bitmap", "https://host/quickdraw_dataset/numpy_bitmap"),
        ("_all_ of a__b and __init__", r"\_all\_ of a\_\_b and \_\_init\_\_"),
        ("a_ _b", r"a\_ \_b"),
        (r"<b> [x](y) `z` C:\d", r"\<b\> \[x\](y) \`z\` C:\\d"),
    ],
)
def test_a_value_is_escaped_as_markdown(value: str, shown: str) -> None:
    assert f"| source | {shown} | doodles |" in summary(
        FinishedRun("a", {}, differing={"source": (value, "doodles")}), None
    )


def test_a_comparison_lists_the_best_first_and_the_failed_last() -> None:
    changes: dict[str, dict[str, object]] = {"a": {"seed": 1}, "b": {"seed": 2, "classes": ["bee"]}, "c": {"seed": 3}}
    table = comparison([run(2.0, "a"), run(1.5, "b")], {"c": "it broke"}, changes)
    assert [(row["experiment"], row[METRIC], row["seed"], row["state"]) for row in table] == [
        ("b", 1.5, 2, "done"),
        ("a", 2.0, 1, "done"),
        ("c", None, 3, "it broke"),
    ]
    assert table[0]["classes"] == "['bee']"
    assert [row["experiment"] for row in comparison([run(None, "a"), run(1.5, "b")], {}, {})] == ["b", "a"]


def test_nested_metrics_have_names_with_dots() -> None:
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b.c": 2, "b.d.e": 3}


def test_a_link_needs_a_template_and_a_report() -> None:
    assert link("https://host/{name}/{hash}.html", run(1.5, "a b")) == "https://host/a%20b/abc.html"
    assert link("", run(1.5)) is None
    assert link("https://host/{name}", FinishedRun("a", {})) is None


def test_a_key_has_the_characters_that_prefect_accepts() -> None:
    assert key("my stage@2: Train_progress") == "my-stage-2-train-progress"
