"""What README.md and CONTRIBUTING.md tell a person to type works, and what they point at is there."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import prefect.settings
import pytest
from prefect.cli._app import _app as prefect_app  # the command itself, which only runs what it is given
from ruamel.yaml import YAML

from pipeline import __main__, run_settings
from stages import params
from tests import fake_project
from tests.settings import FULL, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PREFECT = (ROOT / "docs" / "prefect.md").read_text(encoding="utf-8")


def commands(*texts: str) -> list[str]:
    return [
        line.partition(" # ")[0].strip()
        for text in texts
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]


# Executed in tests/test_sharing.py.
SHARED = commands(*re.findall(r"^### … (?:keep|share) .+?(?=^##)", README, re.MULTILINE | re.DOTALL))
COMMANDS = [command for command in commands(README, CONTRIBUTING) if command not in SHARED]


def test_there_are_commands() -> None:
    assert {"make run", "make test", "dvc repro"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_works(command: str) -> None:
    match shlex.split(command):
        case ["make", *words]:
            assert (
                subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, check=False).returncode
                == 0
            )
            ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
            assert re.search(rf"\b{words[0]}\b", ci), "executed by .ci/run"
        case ["python", "-m", "pipeline", "serve", *words]:
            __main__.parser().parse_args(["serve", *words])
        case ["python", "-m", "pipeline", *words]:
            arguments = __main__.parser().parse_args(words)
            if words[0] != "run":
                return
            changes = run_settings.profiles()[arguments.profile] if arguments.profile else {}
            changes |= dict(map(run_settings.parse_override, arguments.set))
            params.check(FULL | changes | {"mirror": arguments.mirror or params.DOODLES}, command)
        case ["dvc", *_]:
            pass  # executed below
        case ["pip", "install", "-c", "constraints.txt", "-e", extra]:
            name = extra.strip(".[]")  # a line of pyproject.toml's table of extras
            assert re.search(rf"^{name} = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
        case _:
            assert command == ". .venv/bin/activate"


@pytest.mark.slow
def test_the_commands_work_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stages that take no time, with a Git identity, as a person would type them."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    fake_project.write(tmp_path)
    for key in ("name", "email"):
        fake_project.git(tmp_path, "config", f"user.{key}", "a@localhost")
    for command in COMMANDS:
        if any(f"pipeline {word}" in command for word in ("verify", "compare", "serve", "doctor")):
            continue  # executed in tests/pipeline
        if command.startswith(("python", "dvc", "git")):
            done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    names = fake_project.git(tmp_path, "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").split()
    assert any(re.fullmatch(r"quick-[0-9a-f]{8}", name) for name in names), "as `dvc exp apply` is told"


@pytest.mark.parametrize("text", [README, CONTRIBUTING])
def test_what_is_linked_or_named_is_there(text: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:stages|pipeline|tests|docs)/[\w./]*|\w+\.(?:yaml|txt|toml))`", text)
    for path in [*links, *named]:
        assert (ROOT / path).exists(), path


def test_a_stage_has_one_description() -> None:
    """In dvc.yaml, in the first line of its docstring, and in the README."""
    rows = dict(re.findall(r"^\| (\w+) \| (.+?) \| `(?:data|reports)/", README, re.MULTILINE))
    for name, stage in YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"].items():
        first_line = (ROOT / "stages" / f"{name}.py").read_text(encoding="utf-8").partition("\n")[0]
        assert first_line == f'"""{stage["desc"]}.'
        assert rows[name] == stage["desc"]


def test_the_profiles_are_all_described() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == run_settings.profiles().keys()


def test_what_the_page_on_prefect_links_or_names_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PREFECT) if "://" not in link]
    for path in links:
        assert (ROOT / "docs" / path).exists(), path
    for path in re.findall(r"`((?:deploy|pipeline|docs)/[\w./]*)`", PREFECT):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("command", commands(PREFECT))
def test_a_command_of_the_page_on_prefect_is_one_that_works(command: str) -> None:
    match shlex.split(command):
        case ["export", setting]:
            name = setting.partition("=")[0]
            ours = [(ROOT / path).read_text(encoding="utf-8") for path in ("prefect.yaml", "pipeline/flows/flows.py")]
            assert hasattr(prefect.settings, name) or any(name in text for text in ours)
        case ["prefect", *words]:
            asked, given, _ = prefect_app.parse_args(words, exit_on_error=False, print_error=False)
            assert asked.__name__ in words
            template = given.arguments.get("base_job_template")
            assert template is None or (ROOT / template).is_file()
        case ["docker", "build", "-f", file, "-t", image, "."]:
            text = (ROOT / file).read_text(encoding="utf-8")
            copied = [path for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for path in line.split()]
            assert copied and all((ROOT / path).exists() for path in copied)
            pool = json.loads((ROOT / "deploy" / "docker.json").read_text(encoding="utf-8"))
            assert pool["variables"]["properties"]["image"]["default"] == image
        case _:
            test_a_command_is_one_that_works(command)


def test_the_page_on_prefect_names_every_deployment_and_every_artifact() -> None:
    deployments = YAML(typ="safe", pure=True).load(ROOT / "prefect.yaml")["deployments"]
    flows = (ROOT / "pipeline" / "flows" / "flows.py").read_text(encoding="utf-8")
    names = [deployment["name"] for deployment in deployments] + re.findall(r'key="(\w+)"', flows)
    assert all(f"`{name}`" in PREFECT for name in names)


@pytest.mark.parametrize("name", ["report.png", "run.png"])
def test_the_pictures_are_small(name: str) -> None:
    assert (ROOT / "docs" / name).stat().st_size < 150_000
