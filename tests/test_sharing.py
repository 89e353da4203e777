"""A run is kept in Git and shared between two clones by the commands of README.md, on stages that take no time."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import fake_project
from tests.settings import ROOT
from tests.test_readme import README, commands


def how_to(title: str) -> list[str]:
    """The commands of a section of the README."""
    [section] = re.findall(rf"^### … {title}$(.+?)(?=^##)", README, re.MULTILINE | re.DOTALL)
    return commands(section)


def execute(folder: Path, *typed: str, experiment: str = "") -> str:
    """Run commands in a shell, with the name of a real experiment; return what they print."""
    variables = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    printed = ""
    for command in typed:
        done = subprocess.run(
            command.replace("quick-1a2b3c4d", experiment),
            shell=True,
            cwd=folder,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        printed += done.stdout
    return printed


@pytest.fixture
def clones(tmp_path: Path) -> tuple[Path, Path]:
    """Two clones of one repository, side by side, with a Git identity."""
    first, second = tmp_path / "first", tmp_path / "second"
    (tmp_path / "project").mkdir()
    fake_project.write(tmp_path / "project")
    fake_project.git(tmp_path, "clone", "--quiet", "--bare", "project", "origin")
    for folder in (first, second):
        fake_project.git(tmp_path, "clone", "--quiet", "origin", folder.name)
        for key in ("name", "email"):
            fake_project.git(folder, "config", f"user.{key}", "a@localhost")
        with (folder / ".git" / "info" / "exclude").open("a") as file:
            file.write("/ran\n")
    return first, second


def saved_experiment(printed: str) -> str:
    [name] = re.findall(r"^saved as the experiment (\S+)$", printed, re.MULTILINE)
    return str(name)


def contents(folder: Path) -> dict[str, str]:
    files = (path for name in ("data", "reports") for path in (folder / name).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.mark.slow
def test_a_run_is_kept_and_shared(clones: tuple[Path, Path]) -> None:
    first, second = clones
    main = fake_project.git(first, "branch", "--show-current").strip()
    printed = execute(first, "python -m pipeline run --profile quick --source doodles")
    quick, outputs = saved_experiment(printed), contents(first)
    assert "`git commit params.yaml dvc.lock` keeps the run" in printed
    assert fake_project.git(first, "status", "--porcelain").split() == ["M", "dvc.lock", "M", "params.yaml"]

    # Shared as an experiment, while it is nowhere committed.
    share = how_to("share a run with a colleague")
    execute(first, *share[:3])
    fake_project.stages_run(first)
    assert saved_experiment(execute(first, "python -m pipeline run")) != quick
    assert fake_project.stages_run(first) == []
    execute(first, "python -m pipeline run --profile quick --source doodles", *share[3:4], experiment=quick)
    assert fake_project.stages_run(first) == []
    execute(second, *share[4:], experiment=quick)
    assert contents(second) == outputs
    assert "skipping" in execute(second, "dvc repro")
    assert fake_project.stages_run(second) == []

    # Kept on a branch, and left for one without a run.
    keep = how_to("keep a run")
    execute(first, *keep[:2])
    assert fake_project.git(first, "status", "--porcelain") == ""
    assert "Checkout failed" in execute(first, f"git switch {main}", "dvc checkout || true")
    assert contents(first) == {}
    execute(first, "git switch first-run", "dvc checkout")
    assert contents(first) == outputs

    # An earlier experiment, after another run whose files are discarded.
    execute(first, f"git switch {main}", "python -m pipeline run -S num_resnet=3", *keep[2:], experiment=quick)
    assert fake_project.git(first, "branch", "--show-current").strip() == "second-run"
    assert contents(first) == outputs
    assert fake_project.git(first, "status", "--porcelain") == ""

    # A branch with a run travels as any branch does.
    execute(first, "git push --set-upstream origin second-run", "dvc push")
    execute(second, "git restore params.yaml dvc.lock", "git fetch", "git switch second-run", "dvc pull")
    assert contents(second) == outputs
    assert fake_project.git(second, "status", "--porcelain") == ""
