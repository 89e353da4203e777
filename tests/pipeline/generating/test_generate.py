"""`python -m pipeline generate` in one process: what it writes, when it is interrupted, and what it refuses."""

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.__main__ import main
from pipeline.generating import destination
from stages.outputs.samples import Settings
from stages.quickdraw import npy_header, sources
from tests.pipeline.generating import project
from tests.pipeline.generating.interrupts import interrupt

pytestmark = pytest.mark.usefixtures("small_shards", "one_core")

FILES = {"bee.npy", "The Eiffel Tower.npy", "manifest.json"}


def generate(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command, which must succeed, and return what it prints."""
    assert main(["generate", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command, which must fail, and return its line."""
    assert main(["generate", *map(str, arguments)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    return lines[-1].removeprefix("error: ")


def assert_holds(folder: Path, per_class: int) -> None:
    """Check that a folder is a source of the model's drawings, and holds nothing else."""
    assert project.hashes(folder).keys() == FILES
    model = pipeline.load_model()
    source = sources.open_source(str(folder), Path())
    assert source.counts() == dict.fromkeys(model.classes, per_class)
    assert source.image_shape() == model.image_shape
    for name in model.classes:
        drawings = np.load(folder / f"{name}.npy", allow_pickle=False)
        np.testing.assert_array_equal(drawings.reshape(-1, *model.image_shape), model.sample(name, per_class))


def test_the_folder_is_a_source_of_the_models_drawings(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = generate(capsys, tmp_path / "new", "--per-class", 20)
    assert_holds(tmp_path / "new", 20)
    first, verify, run = out.splitlines()
    assert re.fullmatch(
        rf"{tmp_path}/new holds 40 drawings of 8×8 pixels, grey, 20 of each of 2 classes; 40 of them are new, "
        r"[\d,]+ a second",
        first,
    )
    assert verify == f"`python -m pipeline verify {tmp_path}/new` draws a few of them again, and compares"
    assert run == (
        f"Learn from them: python -m pipeline run --profile quick --source {tmp_path}/new "
        "-S 'classes=[bee, The Eiffel Tower]'"
    )
    before = project.hashes(tmp_path / "new")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "new").iterdir()}
    assert "; 0 of them are new\n" in generate(capsys, tmp_path / "new", "--per-class", 20)
    assert project.hashes(tmp_path / "new") == before
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "new").iterdir()}, "nothing is written"


def test_drawings_in_colour_that_are_not_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "project").mkdir()
    project.make(tmp_path / "project", project.untrained((8, 12, 3)), Settings(1, 0.9, 2.0))
    monkeypatch.chdir(tmp_path / "project")
    generate(capsys, tmp_path / "new", "--per-class", 9)
    assert_holds(tmp_path / "new", 9)
    assert np.load(tmp_path / "new" / "bee.npy").shape == (9, 8, 12, 3)


def test_the_classes_that_are_named(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = generate(capsys, tmp_path / "new", "--per-class", 3, "--class", "bee")
    assert project.hashes(tmp_path / "new").keys() == {"bee.npy", "manifest.json"}
    assert "holds 3 drawings of 8×8 pixels, grey; 3 of them are new" in out


def test_more_drawings_are_added_to_those_that_are_there(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(capsys, tmp_path / "all", "--per-class", 30)
    generate(capsys, tmp_path / "new", "--per-class", 12)
    # The second shard of each class had 4 drawings, so it is drawn again.
    assert "; 44 of them are new" in generate(capsys, tmp_path / "new", "--per-class", 30)
    assert project.hashes(tmp_path / "new") == project.hashes(tmp_path / "all")


@pytest.mark.parametrize("bit", [0, 200, 128 + 20 * 64 - 1])
def test_a_damaged_shard_is_drawn_again_and_no_other(
    bit: int, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(capsys, tmp_path / "new", "--per-class", 20)
    before = project.hashes(tmp_path / "new")
    content = bytearray((tmp_path / "new" / "bee.npy").read_bytes())
    content[bit] ^= 1
    (tmp_path / "new" / "bee.npy").write_bytes(content)
    number = {0: 0, 200: 8}.get(bit, 4)  # the header is written again without a drawing
    assert f"; {number} of them are new" in generate(capsys, tmp_path / "new", "--per-class", 20)
    assert project.hashes(tmp_path / "new") == before


@pytest.mark.parametrize("damage", ["cut short", "too long", "deleted"])
def test_a_damaged_file_is_written_again(
    damage: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(capsys, tmp_path / "new", "--per-class", 20)
    before = project.hashes(tmp_path / "new")
    file = tmp_path / "new" / "bee.npy"
    content = file.read_bytes()
    file.unlink()
    if damage != "deleted":
        file.write_bytes(content[:-1] if damage == "cut short" else content + b"\0")
    generate(capsys, tmp_path / "new", "--per-class", 20)
    assert project.hashes(tmp_path / "new") == before


def test_finished_shards_are_not_drawn_again_after_an_interrupt(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, destination.Folder, at=8)  # before and after the mark, the manifest and two parts
        assert main(["generate", str(tmp_path / "new"), "--per-class", "20"]) == 130
    assert "interrupted after 8 of 40 drawings" in capsys.readouterr().err
    [part, _] = sorted((tmp_path / "new" / "parts" / "bee").iterdir())
    part.write_bytes(part.read_bytes()[:-1])
    assert "; 32 of them are new" in generate(capsys, tmp_path / "new", "--per-class", 20)
    assert_holds(tmp_path / "new", 20)


def test_an_interrupt_while_it_checks_is_one_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(capsys, tmp_path / "new", "--per-class", 9)
    before = project.hashes(tmp_path / "new")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(destination.Folder, "size", interrupted)
        assert main(["generate", str(tmp_path / "new"), "--per-class", "9"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "interrupted while the drawings that are there were checked; the same command goes on from here"
    )
    assert project.hashes(tmp_path / "new") == before


def test_other_drawings_are_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new"
    generate(capsys, folder, "--per-class", 9)
    before = project.hashes(folder)
    other = tmp_path / "other"
    other.mkdir()
    project.make(other, project.untrained(seed=1), Settings(3, 0.5, 1.0))
    line = refusal(capsys, folder, "--per-class", 9, "--run", other)
    assert re.fullmatch(
        rf"{folder} holds other drawings: model [0-9a-f]{{12}} there, [0-9a-f]{{12}} here; temperature 1\.0 there, "
        r"0\.5 here; choose a new folder, or --run and --class as before",
        line,
    )
    line = refusal(capsys, folder, "--per-class", 9, "--class", "bee")
    assert line.startswith(f"{folder} holds other drawings: the classes 'bee' and 'The Eiffel Tower' there, 'bee' here")
    assert refusal(capsys, folder, "--per-class", 8) == (
        f"{folder} holds 9 drawings of each class, and --per-class is 8; expected: at least 9"
    )
    assert project.hashes(folder) == before


def test_what_cannot_be_written_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert refusal(capsys, tmp_path / "file", "--per-class", 1) == f"{tmp_path}/file is not a folder; choose a new one"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "bee.npy").write_text("mine")
    assert refusal(capsys, tmp_path / "full", "--per-class", 1) == (
        f"{tmp_path}/full is not empty, and has no manifest.json, but 'bee.npy': choose a new folder"
    )
    assert project.hashes(tmp_path / "full").keys() == {"bee.npy"}
    for number in (0, -1, 2**31):
        assert refusal(capsys, tmp_path / "new", "--per-class", number) == (
            f"--per-class is {number}; expected: a whole number from 1 to 2147483647"
        )
    assert refusal(capsys, tmp_path / "new", "--per-class", 1, "--class", "beee") == (
        "--class: 'beee' is not a class of the model. Did you mean 'bee'?"
    )
    assert refusal(capsys, "nothing://there", "--per-class", 1).startswith("nothing://there: Protocol not known")
    assert not (tmp_path / "new").exists()


def test_a_class_that_cannot_be_the_name_of_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's configuration is untrusted."""
    (tmp_path / "project").mkdir()
    project.make(tmp_path / "project", project.untrained())
    monkeypatch.chdir(tmp_path / "project")
    config = tmp_path / "project" / "data" / "train" / "config.json"
    text = config.read_text(encoding="utf-8")
    for name in ("../bee", "(unfinished)", ".bee"):
        config.write_text(text.replace('"bee"', f'"{name}"'), encoding="utf-8")
        line = refusal(capsys, tmp_path / "new", "--per-class", 1)
        assert line.startswith(f"a class of the model: '{name}' cannot be the name of a ")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_another_process_writes_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with destination.Folder("new", tmp_path / "new").lock():
        assert refusal(capsys, tmp_path / "new", "--per-class", 1) == (
            f"another process is generating drawings in {tmp_path}/new: wait until it ends"
        )
    generate(capsys, tmp_path / "new", "--per-class", 1)


@pytest.mark.parametrize(
    "change",
    [
        b"",
        b"[",
        b"[]",
        b"{}",
        b'{"format": 2}',
        {"image_shape": [8, 8]},
        {"image_shape": [8, 8, 10**9]},
        {"per_class": 10**12},
        {"per_class": "many"},
        {"classes": ["../bee"]},
        {"classes": None},
        {"model": "../bee"},
        {"records": {"bee": {"0-8": {"sha256": "../", "processor": "x"}}}},
        {"records": {"bee": {"0-8": {"sha256": "0" * 64, "processor": "a/b"}}}},
        {"records": [[[]]]},
    ],
)
def test_a_manifest_that_is_none_is_refused(
    change: bytes | dict[str, object],
    root: Path,
    tmp_path: Path,
    tiny_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "new"
    shutil.copytree(tiny_folder, folder)
    if isinstance(change, bytes):
        (folder / "manifest.json").write_bytes(change)
    else:
        project.edit_manifest(folder, **change)
    assert f"{folder}/manifest.json is not a manifest of generated drawings" in refusal(
        capsys, folder, "--per-class", 1
    )
    assert main(["verify", str(folder)]) == 1


@pytest.fixture(scope="module")
def tiny_folder(made_project: Path, one_core: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one drawing of each class."""
    folder = tmp_path_factory.mktemp("tiny") / "folder"
    assert main(["generate", str(folder), "--per-class", "1", "--run", str(made_project)]) == 0
    return folder


def test_the_header_that_is_written_is_the_one_that_a_source_reads() -> None:
    for rows in (0, 1, 2**31 - 1):
        for shape in ((8, 8, 1), (28, 28, 3), (64, 9, 1)):
            content = npy_header.render(rows, shape)
            header = npy_header.parse(content, len(content) + rows * math.prod(shape))
            assert header == (npy_header.RENDERED_BYTES, rows, shape)
