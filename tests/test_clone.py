"""A fresh clone holds what it should, on every machine."""

import subprocess
from pathlib import Path

import pytest

from tests.settings import ROOT


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone made as on a machine whose Git converts line endings to CRLF."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    command = ["git", "clone", "--quiet", "--config", "core.autocrlf=true", str(ROOT), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_no_line_ending_is_converted(clone: Path) -> None:
    """DVC hashes the files of stages/: a converted one would run its stages again."""
    endings = [line.split()[1] for line in git(clone, "ls-files", "--eol").splitlines()]
    assert set(endings) <= {"w/lf", "w/none", "w/-text"}
    assert git(clone, "status", "--porcelain") == ""


def test_reports_holds_its_readme_alone(clone: Path) -> None:
    assert [path.name for path in (clone / "reports").iterdir()] == ["README.md"]
    (clone / "reports" / "index.html").touch()
    assert git(clone, "status", "--porcelain", "--untracked-files=all") == ""


def test_the_readme_of_reports_names_every_output() -> None:
    from tests.test_graph import STAGES

    readme = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
    for stage in STAGES.values():
        for out in stage["outs"]:
            if out.startswith("reports/"):
                assert out.removeprefix("reports/") in readme
