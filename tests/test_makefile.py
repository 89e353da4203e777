"""The Makefile hands a person's words on as they were typed. .ci/run runs its targets."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.settings import ROOT


def make(*words: str, venv: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    # Without what `make test` hands on to a make below it.
    outer = ("MIRROR", "PROFILE", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    environment = {key: value for key, value in os.environ.items() if key not in outer} | variables
    command = ["make", *words, f"VENV={venv}"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment that is up to date, with a Python that prints its arguments, one a line."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    for stamp in (".for-run", ".for-dev"):
        (tmp_path / stamp).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "variables", "arguments"),
    [
        ([], {}, ["--profile", "quick", "--mirror", "auto"]),
        (["PROFILE=laptop"], {}, ["--profile", "laptop", "--mirror", "auto"]),
        (["MIRROR=../my drawings, 'all'"], {}, ["--profile", "quick", "--mirror", "../my drawings, 'all'"]),
        (["MIRROR="], {}, ["--profile", "quick", "--mirror", "auto"]),
        ([], {"MIRROR": "/srv/a b"}, ["--profile", "quick", "--mirror", "/srv/a b"]),
    ],
)
def test_run_hands_on_the_mirror_and_the_profile(
    venv: Path, words: list[str], variables: dict[str, str], arguments: list[str]
) -> None:
    done = make("run", *words, venv=venv, **variables)
    assert done.stdout.splitlines() == ["-m", "pipeline", "run", *arguments], done.stderr


def test_without_a_python_that_fits_the_error_says_what_to_do(tmp_path: Path) -> None:
    done = make("run", "PYTHON=", venv=tmp_path / "new")
    assert done.returncode != 0
    assert "error: Python 3.10 to 3.13 is needed; name one: make run PYTHON=" in done.stderr
    assert not (tmp_path / "new").exists()


def test_help_lists_every_target(venv: Path) -> None:
    listed = {line.split()[1] for line in make("help", venv=venv).stdout.splitlines()}
    assert listed == {
        *("help", "run", "test", "slow", "robustness", "flows", "graph", "coverage"),
        *("lint", "format", "types", "constraints", "clean"),
    }
