"""The Makefile makes an environment, passes SOURCE, PROFILE and SET on, and lists its targets. .ci/run runs them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.settings import ROOT

ECHO = '#!/bin/sh\nprintf "%s\\n" "$@"\n'  # prints its arguments, one per line
DEFAULTS = ["--profile", "quick", "--source", "auto"]


def make(*arguments: str, venv: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    # Variables that `make test` passes to a make that it starts.
    inherited = ("SOURCE", "MIRROR", "PROFILE", "SET", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    environment = {key: value for key, value in os.environ.items() if key not in inherited} | variables
    command = ["make", *arguments, f"VENV={venv}"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An up-to-date virtual environment, whose Python prints its arguments, one per line."""
    venv = tmp_path / "healthy"
    python = venv / "bin" / "python"
    python.parent.mkdir(parents=True)
    write_script(python, ECHO)
    for stamp in (".for-run", ".for-dev"):
        (venv / stamp).touch()
    return venv


@pytest.mark.parametrize(
    ("arguments", "variables", "passed_on"),
    [
        ([], {}, DEFAULTS),
        (["PROFILE=laptop"], {}, ["--profile", "laptop", "--source", "auto"]),
        (["SOURCE=../my drawings, 'all'"], {}, [*DEFAULTS, "--source", "../my drawings, 'all'"]),
        (["SOURCE="], {}, DEFAULTS),
        (["MIRROR=../my drawings, 'all'"], {}, [*DEFAULTS, "--mirror", "../my drawings, 'all'"]),
        (["MIRROR=", "SOURCE=b"], {}, [*DEFAULTS, "--source", "b"]),
        (["SOURCE=b"], {"MIRROR": "a"}, [*DEFAULTS, "--mirror", "a", "--source", "b"]),
        (["SET=max_steps=150 seed=1"], {}, [*DEFAULTS, "-S", "max_steps=150", "-S", "seed=1"]),
        (["SET=classes=[bee, sea turtle] seed=1"], {}, [*DEFAULTS, "-S", "classes=[bee, sea turtle]", "-S", "seed=1"]),
        (['SET=classes=["1", "don\'t"]'], {}, [*DEFAULTS, "-S", 'classes=["1", "don\'t"]']),
        ([], {"SET": "seed=1"}, [*DEFAULTS, "-S", "seed=1"]),
        ([], {"SOURCE": "/srv/a b"}, [*DEFAULTS, "--source", "/srv/a b"]),
    ],
)
def test_run_passes_on_the_source_the_profile_and_the_settings(
    venv: Path, arguments: list[str], variables: dict[str, str], passed_on: list[str]
) -> None:
    process = make("run", *arguments, venv=venv, **variables)
    assert process.stdout.splitlines() == ["-m", "pipeline", "run", *passed_on], process.stderr


# A Python of some version. The Python of an environment that it makes is ECHO.
PYTHON = """#!/bin/sh
case "$1 $2" in
    "-c "*) exec {executable} -c 'import sys; sys.version_info = {version}; exec(sys.argv[1])' "$2" ;;
    "-m venv") test "$3" = --clear && rm -rf "$4" && mkdir -p "$4/bin" && touch "$4/pyvenv.cfg" && {make} ;;
    *) echo "Python {version}" ;;
esac
"""
COPY = 'cp "$0.echo" "$4/bin/python"'


def write_python(path: Path, version: tuple[int, int] = (3, 12), make: str = COPY) -> Path:
    write_script(path.with_name(f"{path.name}.echo"), ECHO)
    return write_script(path, PYTHON.format(executable=sys.executable, version=version, make=make))


def write_script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("python", ["", "no-such-python", "dead", "old", "new"])
def test_error_without_a_supported_python(tmp_path: Path, python: str) -> None:
    write_script(tmp_path / "dead", "#!/bin/sh\necho 'pyenv: python3.9: command not found' >&2\nexit 127\n")
    write_python(tmp_path / "old", (3, 9))
    write_python(tmp_path / "new", (3, 14))
    path = tmp_path / python if (tmp_path / python).is_file() else python
    process = make("run", f"PYTHON={path}", venv=tmp_path / "venv")
    assert process.returncode != 0
    assert process.stdout == ""
    message, *rest = process.stderr.splitlines()
    assert message == "error: Python 3.10 to 3.13 is needed; name one: make run PYTHON=/path/to/python3.12"
    assert all(line.startswith("make: ***") for line in rest)
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("version", [(3, 10), (3, 13)])
def test_the_disk_space_of_a_new_environment_is_announced(tmp_path: Path, version: tuple[int, int]) -> None:
    process = make("run", f"PYTHON={write_python(tmp_path / 'python', version)}", venv=tmp_path / "venv")
    first, *rest = process.stdout.splitlines()
    assert first.startswith("Making an environment for Python")
    assert first.endswith(f"in {tmp_path / 'venv'}; with the packages, it takes about 3.1 GB of disk")
    end = ["--editable", ".", "-m", "pipeline", "run", *DEFAULTS]
    assert rest[-len(end) :] == end


@pytest.mark.parametrize("step", ["exit 1", f"{COPY} && echo 'exit 1' >> \"$4/bin/python\""])
def test_an_environment_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path, step: str) -> None:
    """Either `venv` fails, as without the package python3-venv of Debian, or pip does, as without a network."""
    process = make("run", f"PYTHON={write_python(tmp_path / 'python', make=step)}", venv=tmp_path / "venv")
    assert process.returncode != 0
    assert "pipeline" not in process.stdout
    assert not (tmp_path / "venv").exists()


def remove_python(venv: Path) -> None:
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/usr/local/bin/python3.99")


def remove_pip(venv: Path) -> None:
    (venv / "bin" / "python").write_text("#!/bin/sh\necho 'No module named pip' >&2; exit 1\n")


def delete_python(venv: Path) -> None:
    (venv / "bin" / "python").unlink()


@pytest.mark.parametrize("damage", [remove_python, remove_pip, delete_python])
def test_a_broken_environment_is_made_anew(venv: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    (venv / "pyvenv.cfg").touch()
    (venv / "old").touch()
    damage(venv)
    process = make("run", f"PYTHON={write_python(tmp_path / 'python')}", venv=venv)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("Making an environment")
    assert "--editable\n.\n" in process.stdout, "the packages are installed again"
    assert not (venv / "old").exists()


def test_a_folder_that_is_not_an_environment_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    process = make("run", f"PYTHON={write_python(tmp_path / 'python')}", venv=folder)
    assert process.returncode != 0
    assert f"error: {folder} is not an environment of Python; name another folder" in process.stderr
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_help_lists_every_target(venv: Path) -> None:
    targets = {line.split()[1] for line in make("help", venv=venv).stdout.splitlines()}
    assert targets == {
        *("help", "run", "test", "slow", "robustness", "flows", "graph", "coverage", "pictures"),
        *("lint", "format", "types", "constraints", "clean"),
    }
