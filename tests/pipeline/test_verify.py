"""`python -m pipeline verify`: a report, and whether it belongs to the files here."""

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
ANSWERS, OTHER_ANSWERS = Path("reviews/one.json"), Path("reviews/to other questions.json")


@pytest.fixture(scope="module")
def reported(full_run: Params, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A repository in which the report has been made."""
    root = tmp_path_factory.mktemp("repository")
    fake_project.write(root)
    settings = full_run.model_copy(
        update={"mirror": "drawings of my own", "classes": test_report.NAMES, "eval_samples_per_class": 8}
    )
    test_report.write_inputs(root, settings, test_report.LABELS, test_report.drawings)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        said = {"questions": inputs.read(settings).asked_hash, "reviewer": "", "mode": blind_review.PAIRS}
        (root / ANSWERS).write_text(json.dumps(said | {"answers": [[0, True]]}))
        (root / OTHER_ANSWERS).write_text(json.dumps(said | {"questions": ""}))
        report.main(settings)
    return root, settings


@pytest.fixture(autouse=True)
def restored(reported: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The repository as the current folder, put right after each test."""
    root, settings = reported
    monkeypatch.chdir(root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and ".git" not in path.parts}
    yield
    for path, content in before.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
    Path("dvc.lock").unlink(missing_ok=True)
    write(root, settings.model_dump(mode="json"))


def test_a_page_of_these_files_belongs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 0
    assert capsys.readouterr().out == (
        f"{PAGE} belongs to what lies here: 14 files and {len(Params.model_fields)} settings are as when it was made\n"
    )


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["verify", *words]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return [*out.splitlines(), err.removeprefix("error: ").rstrip()]


CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "weights": (
        lambda: inputs.WEIGHTS.write_bytes(b"others"),
        f"{inputs.WEIGHTS}: is another one than the page was made from",
    ),
    "samples gone": (inputs.SAMPLES.unlink, f"{inputs.SAMPLES}: is not here"),
    "a byte of a table": (
        lambda: inputs.METRICS_TABLE.write_bytes(inputs.METRICS_TABLE.read_bytes().replace(b"0.1", b"0.9", 1)),
        f"{inputs.METRICS_TABLE}: is another one than the page was made from",
    ),
}


READ = [
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
    ANSWERS,
    OTHER_ANSWERS,
]


@pytest.mark.parametrize("path", READ, ids=str)
def test_every_file_that_the_page_is_made_from_is_held_against_it(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_bytes(path.read_bytes() + b" ")
    assert refused(capsys)[0] == f"{path}: is another one than the page was made from"


@pytest.mark.parametrize("change", CHANGES)
def test_another_file_is_named(change: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, said = CHANGES[change]
    make()
    assert refused(capsys) == [said, f"{PAGE} does not belong to the files here: see the 1 lines above"]


def test_another_setting_is_named(reported: tuple[Path, Params], capsys: pytest.CaptureFixture[str]) -> None:
    root, settings = reported
    write(root, settings.model_dump(mode="json") | {"seed": 7})
    assert refused(capsys)[0] == "seed: 0 on the page, 7 in params.yaml"


def test_a_page_that_was_written_into_is_not_the_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Its list of files is still true, but DVC knows the page by its hash."""
    known = hashlib.md5(PAGE.read_bytes()).hexdigest()
    lock = {"stages": {"report": {"outs": [{"path": str(PAGE), "md5": known}]}}}
    Path("dvc.lock").write_text(json.dumps(lock))
    assert main(["verify"]) == 0
    capsys.readouterr()
    PAGE.write_text(PAGE.read_text().replace("10%", "90%"))
    assert refused(capsys)[0] == f"{PAGE}: is not, to the byte, the page that the last run here wrote"


def block(files: object, settings: object = None) -> str:
    return (
        f'<script type="application/json" id="provenance">{json.dumps({"files": files, "settings": settings})}</script>'
    )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<p>no report</p>",
        '<script id="provenance">{',
        '<script id="provenance">null</script>',
        block({}, {}),
        block({"data/a": 5}, {}),
        block({"../data/a": "0"}, {}),
        block({"data/../../a": "0"}, {}),
        block({"/etc/passwd": "0"}, {}),
        block(["data/a"], {}),
        block({"data/a": "0"}),
        '<script id="provenance">' + "[" * 100_000 + "</script>",
    ],
)
def test_what_is_no_report_is_refused(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.html").write_text(content)
    said = refused(capsys, "other.html")
    assert said == ["other.html does not say what it was made from; it is no report of this project"]
    Path("other.html").write_bytes(b"\xff\xfe")
    assert refused(capsys, "other.html") == said


def test_a_page_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "none.html") == ["none.html is not there"]


def test_a_strangers_page_says_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    clear = "\x1b[2J\n"
    settings = {f"{clear}key": 1, "seed": f"{clear}value", "classes": [clear], "num_drawings": "9" * 10_000}
    Path("other.html").write_text(block({"data/a": "0"}, settings))
    said = refused(capsys, "other.html")
    assert "�[2J key: 1 on the page, unset in params.yaml" in said
    assert "seed: �[2J value on the page, 0 in params.yaml" in said
    assert all(line.isprintable() and len(line) < 1200 for line in said)
    assert len(said) == 1 + len(Params.model_fields) + 1 + 1, "a line for the file, each setting, the key, and the end"
