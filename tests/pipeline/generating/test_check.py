"""`python -m pipeline verify` of a generated folder: it detects each difference."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.__main__ import main
from stages.common.files import sha256
from tests.pipeline.generating import project

pytestmark = pytest.mark.usefixtures("small_shards", "one_core")


@pytest.fixture
def folder(generated: Path, tmp_path: Path) -> Path:
    """20 drawings of each class."""
    shutil.copytree(generated, tmp_path / "folder")
    return tmp_path / "folder"


@pytest.fixture(scope="module")
def generated(made_project: Path, one_core: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.generating.manifest.SHARD", 8)
        assert main(["generate", str(folder), "--per-class", "20", "--run", str(made_project)]) == 0
    return folder


def test_an_unchanged_folder_matches(root: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{folder} matches its manifest: 40 drawings"
    assert re.fullmatch(r"(8|12|16) drawings drawn again: each byte is the same", second)  # a block has 8 or 4


def reported(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Run the command, which must fail. Returns the differences and the error."""
    assert main(["verify", *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    return [*out.splitlines(), err.splitlines()[-1].removeprefix("error: ")]


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one pixel": (
        lambda folder: flip(folder / "bee.npy", 128 + 9 * 64),
        "bee.npy: the drawings from number 8 to 15 differ from their hash",
    ),
    "the header": (
        lambda folder: flip(folder / "bee.npy", 100),
        "bee.npy: has another header than that of 20 drawings",
    ),
    "deleted": (lambda folder: (folder / "bee.npy").unlink(), "bee.npy: does not exist"),
    "cut short": (
        lambda folder: (folder / "bee.npy").write_bytes((folder / "bee.npy").read_bytes()[:-1]),
        "bee.npy: has 1,407 bytes; expected: 1,408",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_difference_is_reported(change: str, root: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, line = CHANGES[change]
    make(folder)
    lines = reported(capsys, folder)
    assert lines[0] == line
    assert lines[-1] == f"{folder} does not match its manifest or its model; the differences are listed above"


def forge(folder: Path, processor: str | None = None) -> None:
    """Change a pixel of each first and last drawing of a shard, and the hashes of the manifest with it."""
    import hashlib

    records = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["records"]
    for name, shards in records.items():
        for key, record in shards.items():
            start, stop = map(int, key.split("-"))
            flip(folder / f"{name}.npy", 128 + start * 64)
            content = (folder / f"{name}.npy").read_bytes()[128 + start * 64 : 128 + stop * 64]
            record["sha256"] = hashlib.sha256(content).hexdigest()
            record["processor"] = processor or record["processor"]
    project.edit_manifest(folder, records=records)


def test_drawings_that_the_model_did_not_draw_are_reported(
    root: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(folder)
    lines = reported(capsys, folder)
    assert len(lines) == 3, "one block of each class"
    for line, name in zip(lines, ("bee", "The Eiffel Tower"), strict=False):
        found = re.fullmatch(rf"{name}\.npy: 1 drawing from number (\d+) to \1 differ from what the model draws", line)
        assert found and int(found[1]) % 8 == 0


def test_on_another_kind_of_processor_the_share_that_agrees_is_said(
    root: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(folder, "abacus")
    assert main(["verify", str(folder)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    found = re.fullmatch(
        r"(\d+) drawings of another kind of processor drawn again: (99\.[0-9]{2}|98\.[0-9]{2})% of the values are the "
        "same",
        last,
    )
    assert found and float(found[2]) == round(100 - 200 / (int(found[1]) * 64), 2), "one of each block differs"


def test_what_cannot_be_checked_is_refused(
    root: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    project.make(other, project.untrained(seed=1))
    [line] = reported(capsys, folder, "--run", other)
    assert re.fullmatch(
        rf"{folder} was drawn by another model than this one: model \w{{12}} there, \w{{12}} here; name its run with "
        "--run",
        line,
    )
    (folder / "(unfinished).npy").write_text("")
    [line] = reported(capsys, folder)
    assert line == f"{folder} is unfinished: run the `generate` that began it again"
    [line] = reported(capsys, "memory://nothing-there")
    assert line == "memory://nothing-there has no manifest.json: `generate` has not written it"
    [line] = reported(capsys, "reports/index.html", "--run", other)
    assert line == "--run is for a folder that `generate` has written, and reports/index.html is none"


def test_a_generated_folder_at_a_url(root: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sha256(folder / "bee.npy")
    assert main(["verify", folder.as_uri()]) == 0
    assert capsys.readouterr().out.startswith(f"{folder.as_uri()} matches its manifest: 40 drawings\n")
