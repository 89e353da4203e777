"""The Makefile passes MIRROR, PROFILE and SET on unchanged, and lists its targets. .ci/run executes the targets."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.settings import ROOT

DEFAULTS = ["--profile", "quick", "--mirror", "auto"]


def make(*arguments: str, venv: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    # Variables that `make test` passes to a make that it starts.
    inherited = ("MIRROR", "PROFILE", "SET", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    environment = {key: value for key, value in os.environ.items() if key not in inherited} | variables
    command = ["make", *arguments, f"VENV={venv}"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An up-to-date virtual environment, whose Python prints its arguments, one per line."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    for stamp in (".for-run", ".for-dev"):
        (tmp_path / stamp).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "variables", "passed_on"),
    [
        ([], {}, DEFAULTS),
        (["PROFILE=laptop"], {}, ["--profile", "laptop", "--mirror", "auto"]),
        (["MIRROR=../my drawings, 'all'"], {}, ["--profile", "quick", "--mirror", "../my drawings, 'all'"]),
        (["MIRROR="], {}, DEFAULTS),
        (["SET=max_steps=150 seed=1"], {}, [*DEFAULTS, "-S", "max_steps=150", "-S", "seed=1"]),
        (["SET=classes=[bee, sea turtle] seed=1"], {}, [*DEFAULTS, "-S", "classes=[bee, sea turtle]", "-S", "seed=1"]),
        (['SET=classes=["1", "don\'t"]'], {}, [*DEFAULTS, "-S", 'classes=["1", "don\'t"]']),
        ([], {"SET": "seed=1"}, [*DEFAULTS, "-S", "seed=1"]),
        ([], {"MIRROR": "/srv/a b"}, ["--profile", "quick", "--mirror", "/srv/a b"]),
    ],
)
def test_run_passes_on_the_mirror_the_profile_and_the_settings(
    venv: Path, arguments: list[str], variables: dict[str, str], passed_on: list[str]
) -> None:
    process = make("run", *arguments, venv=venv, **variables)
    assert process.stdout.splitlines() == ["-m", "pipeline", "run", *passed_on], process.stderr


def test_error_without_a_supported_python(tmp_path: Path) -> None:
    process = make("run", "PYTHON=", venv=tmp_path / "new")
    assert process.returncode != 0
    assert "error: Python 3.10 to 3.13 is needed; name one: make run PYTHON=" in process.stderr
    assert not (tmp_path / "new").exists()


def test_help_lists_every_target(venv: Path) -> None:
    targets = {line.split()[1] for line in make("help", venv=venv).stdout.splitlines()}
    assert targets == {
        *("help", "run", "test", "slow", "robustness", "flows", "graph", "coverage"),
        *("lint", "format", "types", "constraints", "clean"),
    }
