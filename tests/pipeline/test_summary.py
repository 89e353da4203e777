"""What a finished run prints: sentences, what has changed since the last run, and how to go on."""

import csv
import hashlib
import io
import itertools
import json
import math
import webbrowser
from pathlib import Path
from typing import Any

import pytest

from pipeline import dvc, run, summary
from pipeline.compare import CLASSES, METRICS_SUMMARY, METRICS_TABLE
from pipeline.run_settings import experiment_name, fingerprint, update_params_file
from stages import params
from stages.reporting.metric_values import MetricValue
from tests import fake_project

MEASURED_WITH = {"heldout": "1a2b3c4d", "judge": "5e6f7a8b", "generated": 480}
ACCURACY = MetricValue(0.5, 0.45, 0.55, 0.84)
BITS = MetricValue(1.6, 1.58, 1.62)
SECONDS = itertools.count(1_700_000_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fake_project.write(tmp_path)
    for key in ("name", "email"):
        fake_project.git(tmp_path, "config", f"user.{key}", "a@localhost")
    return tmp_path


def finish_run(
    root: Path,
    profile: str = "quick",
    accuracy: MetricValue = ACCURACY,
    bits: MetricValue = BITS,
    measured_with: dict[str, Any] = MEASURED_WITH,
    **settings: Any,
) -> str:
    """Leave in the checkout, in the cache and among the experiments what a run leaves, and return its name.

    Args:
      root: the root of the repository.
      profile: the first part of the name.
      accuracy, bits: its metrics.
      measured_with: what they were measured with.
      settings: changes to the settings of the last run.
    """
    current = params.read(root / "params.yaml")
    update_params_file(root / "params.yaml", current, current | settings)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("metric", "label", "name", *MetricValue._fields, "better"))
    label_accuracy = MetricValue(0.7, 0.6, 0.8, 0.05)
    for metric, value in (
        ("class_accuracy", accuracy),
        ("heldout_bits_per_dim", bits),
        ("label_accuracy", label_accuracy),
    ):
        writer.writerow((metric, "", "", *value, ""))
    outs = []
    contents = {METRICS_TABLE: table.getvalue(), METRICS_SUMMARY: json.dumps(measured_with)}
    for path, content in contents.items():
        md5 = hashlib.md5(content.encode()).hexdigest()
        outs.append({"path": path, "hash": "md5", "md5": md5, "size": len(content)})
        for file in (root / path, root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
    (root / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"evaluate": {"cmd": "", "outs": outs}}}))
    name = experiment_name(profile, params.read(root / "params.yaml"))
    with pytest.MonkeyPatch.context() as patch:  # Git counts in seconds
        patch.setenv("GIT_COMMITTER_DATE", f"{next(SECONDS)} +0000")
        dvc.Workspace(root).save(name)
    return name


# --- What has changed since the last run ---


def test_a_first_run_is_compared_with_nothing(root: Path) -> None:
    assert summary.describe_changes(root, finish_run(root), None) == []


def test_a_run_is_compared_with_the_last_one_of_its_profile(root: Path) -> None:
    finish_run(root, seed=1)
    last = finish_run(root, seed=2)
    finish_run(root, "laptop", seed=3)
    name = finish_run(
        root, accuracy=MetricValue(0.7, 0.65, 0.75, 0.84), bits=MetricValue(1.61, 1.59, 1.63), seed=4, device="cpu"
    )
    assert summary.describe_changes(root, name, None) == [
        f"compared with the last run, {last} (device auto → cpu, seed 2 → 4):",
        "  Class accuracy: 50% → 70%, better by 20.0 percentage points, beyond the 95% intervals",
        "  Bits per dimension: 1.600 → 1.610, worse by 0.010, within the 95% intervals",
    ]


def test_a_run_that_changes_the_settings_of_another_is_compared_with_that(root: Path) -> None:
    changed = finish_run(root, "quick", seed=1)
    settings = params.read(root / "params.yaml")
    finish_run(root, "run", seed=2)
    name = finish_run(root, "run", seed=3)
    [first, *_] = summary.describe_changes(root, name, fingerprint(settings))
    assert first == f"compared with the last run, {changed} (seed 1 → 3):"


def test_a_repeated_run_is_not_compared_with_itself(root: Path) -> None:
    name = finish_run(root, seed=1)
    assert finish_run(root) == name
    assert summary.describe_changes(root, name, None) == []
    assert summary.describe_changes(root, name, name.rpartition("-")[2]) == []


def test_a_run_is_compared_with_one_of_the_same_settings_at_an_earlier_commit(root: Path) -> None:
    name = finish_run(root)
    fake_project.git(root, "commit", "--quiet", "--allow-empty", "--message", "Change the code")
    assert finish_run(root) == name
    assert summary.describe_changes(root, name, None) == [
        f"compared with the last run, {name} (the same settings):",
        "  Class accuracy: 50%, as before",
        "  Bits per dimension: 1.600, as before",
    ]


def test_metrics_of_another_judge_are_not_compared(root: Path) -> None:
    finish_run(root)
    name = finish_run(root, measured_with=MEASURED_WITH | {"judge": "00c0ffee"}, judge_steps=10)
    assert summary.describe_changes(root, name, None)[1:] == [
        "  Class accuracy: 50%, not comparable because of different judges",
        "  Bits per dimension: 1.600, as before",
    ]


def test_long_values_and_many_settings_are_cut(root: Path) -> None:
    last = finish_run(root)
    name = finish_run(root, source="/srv/" + "long/" * 10, num_resnet=1, num_filters=8, epochs=1, batch_size=2, seed=1)
    [first, *_] = summary.describe_changes(root, name, None)
    changes = "source, num_resnet 5 → 1, num_filters 128 → 8, epochs 10 → 1, and 2 more"
    assert first == f"compared with the last run, {last} ({changes}):"


@pytest.mark.parametrize("damage", ["missing", "damaged", "lock", "params"])
def test_a_last_run_that_cannot_be_read_does_not_fail_the_run(root: Path, damage: str) -> None:
    finish_run(root, seed=1)
    if damage in ("missing", "damaged"):
        for file in [file for file in (root / ".dvc" / "cache").rglob("*") if file.is_file()]:
            file.unlink() if damage == "missing" else file.write_bytes(b"\xff{")
    else:
        (root / {"lock": "dvc.lock", "params": "params.yaml"}[damage]).write_bytes(b"\xff: [")
        dvc.Workspace(root).save(experiment_name("quick", {}))
        fake_project.git(root, "checkout", "--quiet", "HEAD", "params.yaml")
    name = finish_run(root, accuracy=ACCURACY._replace(value=0.6), bits=BITS._replace(value=1.7), seed=2)
    assert summary.describe_changes(root, name, None) == []
    assert len(summary.describe_run(root)) == 2


def test_an_output_is_read_from_the_cache_and_not_from_a_remote(root: Path) -> None:
    finish_run(root)
    commit = dvc.list_experiments(root)[0].commit
    content = (root / METRICS_TABLE).read_bytes()
    assert dvc.read_from_cache(root, commit, METRICS_TABLE) == content
    (root / ".dvc" / "cache" / "files").rename(root / "files")
    (root / ".dvc" / "config.local").write_text("[core]\nremote = store\n['remote \"store\"']\nurl = ..\n")
    for path in (METRICS_TABLE, "reports/none.csv"):
        with pytest.raises(dvc.NoSuchFile, match=path):
            dvc.read_from_cache(root, commit, path)


def test_a_run_without_metrics_is_not_compared(root: Path) -> None:
    finish_run(root)
    unknown = MetricValue(math.nan)
    name = finish_run(root, accuracy=unknown, bits=unknown, seed=1)
    assert summary.describe_changes(root, name, None) == summary.describe_run(root) == []


# --- What it has reached, and how to go on ---


def test_a_run_is_described_in_sentences(root: Path) -> None:
    finish_run(root)
    assert summary.describe_run(root) == [
        "A classifier names the right class for 50% of the generated drawings and for 84% of real drawings; guessing "
        "gives 5.0%.",
        "The model needs 1.600 bits for a pixel's value in real drawings that it has not seen; stored without a model, "
        "a value takes 8.",
    ]
    finish_run(root, source="doodles")
    assert all("stand-in drawings" in sentence for sentence in summary.describe_run(root))


def test_too_few_held_out_drawings_are_said(root: Path) -> None:
    finish_run(root)
    (root / CLASSES).write_text("label,name,heldout_drawings\n26,bee,9\n29,bicycle,6\n")
    third = "Whether the model copies is unknown: 15 held-out drawings are too few to tell, 100 are enough."
    assert summary.describe_run(root)[2:] == [third]
    (root / CLASSES).write_text("label,name,heldout_drawings\n26,bee,many\n")
    assert len(summary.describe_run(root)) == 2, "what is not known is not said"


@pytest.mark.parametrize(
    "table", [None, b"", b"other\n1\n", b"metric,label,value\nclass_accuracy\n", b"\xff", b"a" * 200_000]
)
def test_metrics_that_cannot_be_read_are_not_described(root: Path, table: bytes | None) -> None:
    finish_run(root)
    if table is None:
        (root / METRICS_TABLE).unlink()
    else:
        (root / METRICS_TABLE).write_bytes(table)
    assert summary.describe_run(root) == []


def test_the_checkout_is_described_as_far_as_the_run_has_changed_it(root: Path) -> None:
    restore = "params.yaml holds the settings of this run; `git restore params.yaml` goes back"
    finish_run(root)
    keep = "`git commit dvc.lock` keeps the run (README.md says how)"
    assert summary.describe_checkout(root, "quick-1a2b3c4d") == [keep]
    finish_run(root, seed=1)
    keep = "`git commit params.yaml dvc.lock` keeps the run (README.md says how)"
    assert summary.describe_checkout(root, "quick-1a2b3c4d") == [restore, keep]
    fake_project.git(root, "commit", "--quiet", "--message", "Keep the run", "params.yaml", "dvc.lock")
    assert summary.describe_checkout(root, "quick-1a2b3c4d") == []


def test_a_run_can_be_shared_if_there_is_a_remote(root: Path, tmp_path: Path) -> None:
    config = root / ".dvc/config"
    text = config.read_text().replace("[core]", "[core]\n    remote = team")
    config.write_text(f"{text}['remote \"team\"']\n    url = {tmp_path}\n")
    lines = summary.describe_checkout(root, "quick-1a2b3c4d")
    assert lines[-1] == "`dvc exp push origin quick-1a2b3c4d` shares it with colleagues"


# --- The browser ---


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that writes its argument to `opened`; it fails if there is a file `broken`."""
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\ntest ! -e "{tmp_path}/broken" && echo "$1" > "{tmp_path}/opened"\n')
    program.chmod(0o755)
    monkeypatch.setattr(webbrowser, "_tryorder", [])
    webbrowser.register("the only one", None, webbrowser.GenericBrowser(str(program)), preferred=True)
    return program


def test_the_report_is_opened_in_the_browser(browser: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = (browser.parent / "my project" / "index.html").as_uri()
    run.open_in_browser(link)
    assert (browser.parent / "opened").read_text() == f"{link}\n"
    assert "%20" in link
    assert capsys.readouterr() == ("", "")


def test_a_browser_that_cannot_be_opened_is_one_line(browser: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (browser.parent / "broken").touch()
    run.open_in_browser("file:///index.html")
    assert not (browser.parent / "opened").exists()
    assert capsys.readouterr() == ("", "No browser can be opened here: follow the link to the report yourself\n")
