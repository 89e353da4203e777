"""`python -m pipeline verify`: it detects each difference between a report and the workspace."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.__main__ import main
from stages import report
from stages.params import Params
from stages.reporting import blind_review, inputs
from tests import fake_project
from tests.settings import write
from tests.stages import test_report

PAGE = Path("reports/index.html")
REVIEW, UNRELATED_REVIEW = Path("reviews/one.json"), Path("reviews/of other questions.json")


@pytest.fixture(scope="module")
def workspace(full_run: Params, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A repository with a report and its inputs, and the settings."""
    root = tmp_path_factory.mktemp("repository")
    fake_project.write(root)
    settings = full_run.model_copy(
        update={"source": "my drawings", "classes": test_report.NAMES, "eval_samples_per_class": 8}
    )
    test_report.write_inputs(root, settings, test_report.LABELS, test_report.drawings)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        review = {"questions": inputs.read(settings).review_hash, "reviewer": "", "mode": blind_review.PAIRS}
        (root / REVIEW).write_text(json.dumps(review | {"answers": [[0, True]]}))
        (root / UNRELATED_REVIEW).write_text(json.dumps(review | {"questions": ""}))
        report.main(settings)
    return root, settings


@pytest.fixture(autouse=True)
def restored_workspace(workspace: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Change into the workspace, and restore its files after each test."""
    root, settings = workspace
    monkeypatch.chdir(root)
    contents = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and ".git" not in path.parts}
    yield
    for path, content in contents.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
    Path("dvc.lock").unlink(missing_ok=True)
    write(root, settings.model_dump(mode="json"))


def test_an_unchanged_workspace_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 0
    assert capsys.readouterr().out == (
        f"{PAGE} matches this workspace: 17 files and {len(Params.model_fields)} settings are those it was made from\n"
    )


def reported_lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Run the command, which must fail. Returns the differences and the error."""
    assert main(["verify", *arguments]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return [*out.splitlines(), err.removeprefix("error: ").rstrip()]


CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "other weights": (
        lambda: inputs.WEIGHTS.write_bytes(b"others"),
        f"{inputs.WEIGHTS}: differs from the file that the report was made from",
    ),
    "samples deleted": (inputs.SAMPLES.unlink, f"{inputs.SAMPLES}: does not exist"),
    "one byte of a table": (
        lambda: inputs.METRICS_TABLE.write_bytes(inputs.METRICS_TABLE.read_bytes().replace(b"0.1", b"0.9", 1)),
        f"{inputs.METRICS_TABLE}: differs from the file that the report was made from",
    ),
}


INPUTS = [
    inputs.INDEX,
    inputs.IMAGES,
    inputs.DRAWINGS,
    inputs.CONFIG,
    inputs.LOSS,
    inputs.WEIGHTS,
    inputs.SAMPLES,
    inputs.JUDGE,
    inputs.ARRAYS,
    inputs.MADE_WITH,
    inputs.METRICS_TABLE,
    inputs.CONFUSION,
    REVIEW,
    UNRELATED_REVIEW,
]


@pytest.mark.parametrize("path", INPUTS, ids=str)
def test_every_input_file_is_compared(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_bytes(path.read_bytes() + b" ")
    assert reported_lines(capsys)[0] == f"{path}: differs from the file that the report was made from"


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_reported(change: str, capsys: pytest.CaptureFixture[str]) -> None:
    apply, difference = CHANGES[change]
    apply()
    assert reported_lines(capsys) == [
        difference,
        f"{PAGE} does not match this workspace; the differences are listed above",
    ]


def test_a_changed_setting_is_reported(workspace: tuple[Path, Params], capsys: pytest.CaptureFixture[str]) -> None:
    root, settings = workspace
    write(root, settings.model_dump(mode="json") | {"seed": 7})
    assert reported_lines(capsys)[0] == "seed: 0 in the report, 7 in params.yaml"


def test_an_edited_report_is_detected(capsys: pytest.CaptureFixture[str]) -> None:
    """Its list of inputs is still correct, but its hash differs from that in dvc.lock."""
    recorded = hashlib.md5(PAGE.read_bytes()).hexdigest()
    lock = {"stages": {"report": {"outs": [{"path": str(PAGE), "md5": recorded}]}}}
    Path("dvc.lock").write_text(json.dumps(lock))
    assert main(["verify"]) == 0
    capsys.readouterr()
    PAGE.write_text(PAGE.read_text().replace("10%", "90%"))
    assert reported_lines(capsys)[0] == f"{PAGE}: differs from the report that the last run in this workspace wrote"


def provenance(files: object, settings: object = None) -> str:
    return (
        f'<script type="application/json" id="provenance">{json.dumps({"files": files, "settings": settings})}</script>'
    )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<p>not a report</p>",
        '<script id="provenance">{',
        '<script id="provenance">null</script>',
        provenance({}, {}),
        provenance({"data/a": 5}, {}),
        provenance({"../data/a": "0"}, {}),
        provenance({"data/../../a": "0"}, {}),
        provenance({"/etc/passwd": "0"}, {}),
        provenance(["data/a"], {}),
        provenance({"data/a": "0"}),
        '<script id="provenance">' + "[" * 100_000 + "</script>",
    ],
)
def test_a_file_that_is_not_a_report_is_an_error(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.html").write_text(content)
    lines = reported_lines(capsys, "other.html")
    assert lines == ["other.html does not list its inputs: it is not a report of this project"]
    Path("other.html").write_bytes(b"\xff\xfe")
    assert reported_lines(capsys, "other.html") == lines


def test_a_report_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert reported_lines(capsys, "none.html") == ["none.html does not exist"]


def test_an_untrusted_report_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    clear_screen = "\x1b[2J\n"
    settings = {
        f"{clear_screen}key": 1,
        "seed": f"{clear_screen}value",
        "classes": [clear_screen],
        "num_drawings": "9" * 10_000,
    }
    Path("other.html").write_text(provenance({"data/a": "0"}, settings))
    lines = reported_lines(capsys, "other.html")
    assert "�[2J key: 1 in the report, unset in params.yaml" in lines
    assert "seed: �[2J value in the report, 0 in params.yaml" in lines
    assert all(line.isprintable() and len(line) < 1200 for line in lines)
    assert len(lines) == 1 + len(Params.model_fields) + 1 + 1, "the file, each setting, the unknown key, and the error"
