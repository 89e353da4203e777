"""The model registry that DVC brings, as README.md uses it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import fake_project
from tests.settings import ROOT
from tests.test_readme import README, commands


def test_the_model_gets_a_version_and_a_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    fake_project.git(tmp_path, "init", "--quiet")
    for key in ("name", "email"):
        fake_project.git(tmp_path, "config", f"user.{key}", "a@localhost")
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())  # it names the model
    fake_project.git(tmp_path, "add", "--all")
    fake_project.git(tmp_path, "commit", "--quiet", "--message", "Run")
    printed = [
        subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for command in commands(README)
        if command.startswith("gto ")
    ]
    assert fake_project.git(tmp_path, "tag").split() == ["pixelcnn#prod#1", "pixelcnn@v1.0.0"]
    assert "pixelcnn" in printed[-1] and printed[-1].count("v1.0.0") == 2
