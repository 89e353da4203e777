"""What README.md and CONTRIBUTING.md tell a person to type works, and what they point at is there."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import prefect.settings
import pytest
from dvc.cli import main as dvc_main
from dvc.cli import parse_args as parse_dvc_args
from PIL import Image
from prefect.cli._app import _app as prefect_app  # the command itself, which only runs what it is given
from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline import __main__, run_settings
from pipeline.flows.forms import Grid, Search
from stages import extract, params
from stages import filter as filter_stage
from stages.common import hosts
from stages.metrics.catalogue import METRICS
from stages.outputs import events
from tests import fake_project
from tests.settings import FULL, ROOT, write

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PREFECT = (ROOT / "docs" / "prefect.md").read_text(encoding="utf-8")
HOSTS = (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8")
SCALE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
DEPLOYMENTS = [
    deployment["name"] for deployment in YAML(typ="safe", pure=True).load(ROOT / "prefect.yaml")["deployments"]
]


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
EXAMPLES = ("quick-1a2b3c4d", "quick-5e6f7a8b")  # names of experiments in the README
WIDTH = 120  # characters of a terminal


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
            params.check(FULL | changes | {"source": arguments.source or params.DOODLES}, command)
        case ["dvc", *_]:
            pass  # executed below
        case ["gto", *_]:
            pass  # executed in tests/pipeline/exporting
        case ["pip", "install", "-c", "constraints.txt", "-e", extra]:
            name = extra.strip(".[]")  # a line of pyproject.toml's table of extras
            assert re.search(rf"^{name} = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
        case ["export", assignment]:
            assert assignment.startswith(f"{events.VARIABLE}=")
        case ["tensorboard", "--logdir", _]:
            pass  # of the extra watch; tests/stages/test_train.py reads the files
        case _:
            assert command == ". .venv/bin/activate"


@pytest.mark.slow
def test_the_commands_work_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stages that take no time, with a Git identity, as a person would type them."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    root = tmp_path / "project"
    root.mkdir()
    fake_project.write(root)
    for name in ("cat", "my dog"):  # what `import` is told to read
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.fromarray(np.full((40, 30), 255, np.uint8)).save(tmp_path / "pictures" / name / "a.png")
    for key in ("name", "email"):
        fake_project.git(root, "config", f"user.{key}", "a@localhost")
    for command in COMMANDS:
        if any(
            f"pipeline {word}" in command
            for word in ("verify", "compare", "serve", "draw", "doctor", "export", "generate")
        ):
            continue  # executed in tests/pipeline
        if command.startswith(("python", "dvc", "git")):
            saved = fake_project.git(root, "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").split()
            for example, name in zip(EXAMPLES, saved, strict=False):
                command = command.replace(example, name)
            done = subprocess.run(command, shell=True, cwd=root, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    names = fake_project.git(root, "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").split()
    assert any(re.fullmatch(r"quick-[0-9a-f]{8}", name) for name in names), "as `dvc exp apply` is told"


def test_own_pictures_are_learned_from_as_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands of the section up to the training, and the two pictures that it tells a person to look at."""
    section = re.findall(r"^### … learn from your own.+?(?=^###)", README, re.MULTILINE | re.DOTALL)
    imports, run, *_ = [shlex.split(command)[3:] for command in commands(*section)]
    random = np.random.default_rng(0)
    for name in ("cat", "my dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            picture = np.full((40, 30, 3), 255, np.uint8)
            picture[8:32, 8:22] = random.integers(0, 100, (24, 14, 3))  # dark on white paper
            Image.fromarray(picture).save(tmp_path / "pictures" / name / f"{number}.png")
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert __main__.main(imports) == 0
    assert "WARNING" not in capsys.readouterr().out
    arguments = __main__.parser().parse_args(run)
    changes = run_settings.profiles()[arguments.profile] | dict(map(run_settings.parse_override, arguments.set))
    changes["source"] = run_settings.resolve_source(arguments.source, root, root)
    settings = params.check(FULL | changes, "params.yaml")
    extract.main(settings)
    filter_stage.main(settings)
    assert np.load("data/filter/images.npy").shape == (24, 28, 28, 1)
    for sheet in (tmp_path / "drawings" / "sheet.png", root / "reports" / "drawings.png"):
        pixels = np.asarray(Image.open(sheet))
        assert pixels.shape == (2 * 2 * 30, 8 * 2 * 30) and np.median(pixels) < 50, "most is paper, which is black"
        assert any(name in section[0] for name in (f"../drawings/{sheet.name}", f"reports/{sheet.name}"))


def save_experiments(root: Path, *runs: tuple[dict[str, Any], dict[str, Any]]) -> list[str]:
    """Save experiments of HEAD as DVC does, without running stages, and return their names.

    Args:
      root: a repository of the fake project.
      runs: for each experiment the settings that differ from the profile quick, and the metrics.
    """
    base = FULL | run_settings.profiles()["quick"]
    head = fake_project.git(root, "rev-parse", "HEAD").strip()
    names = []
    for number, (changes, metrics) in enumerate(runs):
        settings = base | changes
        lock: dict[str, Any] = {"schema": "2.0", "stages": {}}
        for name, stage in json.loads((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
            digest = hashlib.md5(f"{name} {number}".encode()).hexdigest()
            deps = [{"path": path, "hash": "md5", "md5": digest, "size": 1} for path in stage["deps"]]
            lock["stages"][name] = {"cmd": stage["cmd"], "deps": deps}
        write(root, settings)
        (root / "dvc.lock").write_text(json.dumps(lock), encoding="utf-8")
        (root / "reports").mkdir(exist_ok=True)
        (root / "reports/metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
        fake_project.git(root, "add", "--force", "params.yaml", "dvc.lock", "reports/metrics.json")
        tree = fake_project.git(root, "write-tree").strip()
        commit = fake_project.git(root, "commit-tree", tree, "-p", head, "-m", "experiment").strip()
        names.append(run_settings.experiment_name("quick", settings))
        fake_project.git(root, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{names[-1]}", commit)
    fake_project.git(root, "reset", "--quiet", "--hard")
    return names


MEASURED = {
    "heldout_bits_per_dim": 1.604321, "class_accuracy": 0.845833, "mmd": 0.321988,
    "heldout": "0a1b2c3d", "judge": "5e6f7a8b", "generated": 480,
}  # fmt: skip
WORSE = {"heldout_bits_per_dim": 1.753219, "class_accuracy": 0.479167, "mmd": 1.234567}


@pytest.mark.parametrize(
    ("second", "third", "measured_with"),
    [
        ({"num_filters": 32}, {"num_filters": 32, "learning_rate": 0.01}, {}),
        ({"seed": 1}, {"muon_learning_rate": 0.04}, {}),
        ({"judge_steps": 200}, {"learning_rate": 0.01}, {"judge": "00c0ffee"}),
        ({"num_drawings": 20_000}, {"learning_rate": 0.01}, {"judge": "00c0ffee", "heldout": "deadbeef"}),
        ({"eval_samples_per_class": 100}, {"guidance": 4.0}, {"generated": 2000}),
    ],
)
def test_the_tables_of_dvc_fit_into_a_terminal(
    second: dict[str, Any],
    third: dict[str, Any],
    measured_with: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each as the README has it, with experiments that differ in one or two settings."""
    fake_project.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = save_experiments(
        tmp_path, ({}, MEASURED), (second, MEASURED | WORSE | measured_with), (third, MEASURED | WORSE)
    )
    tables = {}
    for command in commands(README):
        if command.startswith(("dvc exp show", "dvc exp diff", "dvc metrics diff", "dvc params diff")):
            for example, name in zip(EXAMPLES, names, strict=False):
                command = command.replace(example, name)
            arguments = shlex.split(command)[1:]
            if "show" in arguments:
                arguments += ["--rev", names[2]]
            assert dvc_main(arguments) == 0
            tables[" ".join(arguments[:2])] = capsys.readouterr().out
    assert tables.keys() == {"exp show", "exp diff", "metrics diff", "params diff"}
    for name, table in tables.items():
        assert max(map(len, table.splitlines())) <= WIDTH, f"{name}:\n{table}"
        assert "…" not in table, "nothing is cut off"

    [header] = [line.split() for line in tables["exp show"].splitlines() if "Experiment" in line]
    assert sorted(header) == sorted({"Experiment", *WORSE, *measured_with, *second, *third})
    for key in (*WORSE, *measured_with):
        row = rf"^reports/metrics.json +{key} +{str(MEASURED[key])[:5]}"
        assert re.search(row, tables["metrics diff"], re.MULTILINE)
        assert re.search(row, tables["exp diff"], re.MULTILINE)
    for key, value in second.items():
        row = rf"^params.yaml +{key} +\S+ +{value}\b"
        assert re.search(row, tables["params diff"], re.MULTILINE)
        assert re.search(row, tables["exp diff"], re.MULTILINE)


def test_no_metric_has_the_name_of_a_setting_or_a_column_of_dvc() -> None:
    """DVC would show both with the paths of their files, and `--drop` in the README would drop the metric."""
    assert not METRICS.keys() & params.Params.model_fields.keys()
    assert not MEASURED.keys() & (params.Params.model_fields.keys() | {"Experiment", "Created", "State", "Executor"})


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


@pytest.mark.parametrize("page", [PREFECT, HOSTS, SCALE])
def test_what_a_page_links_or_names_is_there(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page) if "://" not in link]
    for path in links:
        assert (ROOT / "docs" / path).exists(), path
    for path in re.findall(r"`((?:deploy|pipeline|docs)/[\w./]*)`", page):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("command", commands(PREFECT))
def test_a_command_of_the_page_on_prefect_is_one_that_works(command: str) -> None:
    match shlex.split(command):
        case ["export", setting]:
            name = setting.partition("=")[0]
            files = ("prefect.yaml", "pipeline/dvc/store.py", "tests/pipeline/s3.py")
            ours = [(ROOT / path).read_text(encoding="utf-8") for path in files]
            assert hasattr(prefect.settings, name) or any(name in text for text in ours)
        case ["prefect", "deployment", "run", "sweep/sweep", *words]:
            assert prefect_app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)
            forms: dict[str, type[BaseModel]] = {"grid": Grid, "search": Search}
            for key, text in (word.partition("=")[::2] for word in words if word != "--param"):
                if key not in ("pool", "trials"):
                    forms[key].model_validate_json(text)
        case ["prefect", *words]:
            asked, given, _ = prefect_app.parse_args(words, exit_on_error=False, print_error=False)
            assert asked.__name__ in words
            assert "--name" not in words or words[words.index("--name") + 1] in DEPLOYMENTS
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


@pytest.mark.parametrize("command", commands(HOSTS))
def test_a_command_of_the_page_on_hosts_is_one_that_works(command: str) -> None:
    match shlex.split(command):
        case ["export", setting]:
            name, _, value = setting.partition("=")
            addresses, _ = hosts.read(value)
            assert name == hosts.VARIABLE and addresses == ["a.example:2222", "b.example:2222"]
        case ["python", "-m", module]:
            assert module == "stages.train"
        case ["dvc", *words]:
            stages = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
            targets = {*stages, *(out for stage in stages.values() for out in stage["outs"])}
            assert set(parse_dvc_args(words).targets) <= targets
        case ["git", "commit", *words]:
            assert all((ROOT / word).exists() for word in words[: words.index("-m")])
        case ["git", word]:
            assert word in ("push", "pull")
        case ["kubectl", "apply", "-f", file]:
            job = YAML(typ="safe", pure=True).load(ROOT / file)
            assert f"kubectl logs --follow {job['metadata']['name']}-chief-0" in HOSTS
        case ["kubectl", *_]:
            pass
        case _:
            test_a_command_of_the_page_on_prefect_is_one_that_works(command)


def test_the_page_on_hosts_gives_each_host_its_index() -> None:
    values = re.findall(r"^export TF_CONFIG='(.+)'$", HOSTS, re.MULTILINE)
    assert [hosts.read(value)[1] for value in values] == [0, 1]
    lost = hosts.Hosts(hosts.read(values[0])[0]).describe(1)
    assert f"error: {lost}, is gone: run the same command on all hosts again, which goes on from step " in HOSTS


def test_the_page_on_prefect_names_every_deployment_and_every_artifact() -> None:
    flows = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "pipeline" / "flows").glob("*.py"))
    artifacts = re.findall(r'(?:key=|METRICS_KEY = )"(\w+)"', flows)
    assert {"stages", "metrics", "summary", "sweep", "report"} == set(artifacts)
    assert all(f"`{name}`" in PREFECT for name in [*DEPLOYMENTS, *artifacts])


@pytest.mark.parametrize("name", ["report.png", "completions.png", "run.png"])
def test_the_pictures_are_small(name: str) -> None:
    assert (ROOT / "docs" / name).stat().st_size < 150_000
