"""dvc.yaml says the same as the code: modules, settings, paths; and each setting runs again what it must, no more."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.params import Params
from tests import fake_project
from tests.settings import FULL, ROOT

GRAPH: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
STAGES: dict[str, dict[str, Any]] = GRAPH["stages"]
ORDER = ["extract", "filter", "train", "sample", "judge", "evaluate", "report"]

# --- Each stage is what the house says a stage is ---


def test_the_stages_are_the_seven_in_their_order() -> None:
    assert list(STAGES) == ORDER


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_its_module(name: str) -> None:
    assert STAGES[name]["cmd"] == f"python -m stages.{name}"
    assert (ROOT / "stages" / f"{name}.py").is_file()
    assert STAGES[name].keys() - {"meta"} == {"desc", "cmd", "deps", "params", "outs"}, (
        "nothing that keeps a stage from the cache"
    )
    assert all(isinstance(out, str) for out in STAGES[name]["outs"]), "every output is cached"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_uses_the_network_names_the_setting_that_says_from_where(name: str) -> None:
    reads = any(file.startswith("stages/quickdraw/remote") for file in sources(name))
    assert STAGES[name].get("meta", {}) == ({"network": "mirror"} if reads else {})


@pytest.mark.parametrize("name", STAGES)
def test_lists_are_in_order_and_without_repeats(name: str) -> None:
    assert STAGES[name]["deps"] == sorted(set(STAGES[name]["deps"]))
    assert STAGES[name]["params"] == [key for key in Params.model_fields if key in STAGES[name]["params"]]
    assert len(set(STAGES[name]["params"])) == len(STAGES[name]["params"])


# --- deps: every module that a stage imports, wherever it imports it ---


def modules_imported(path: Path) -> Iterator[str]:
    """The names that a module imports when it runs: at its top and in its functions, but not for type checking."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    yield from walk(other)
            elif isinstance(child, ast.FunctionDef) and child.name == "__getattr__":
                continue  # what a package brings when it is asked: see below
            else:
                yield child
                yield from walk(child)

    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: this project imports by full names"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(module: str) -> list[Path]:
    """The project's files that importing a module runs: its own and those of the packages around it."""
    found = []
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        path = ROOT.joinpath(*parts[:length])
        if (path / "__init__.py").is_file():
            found.append(path / "__init__.py")
        elif path.with_suffix(".py").is_file():
            found.append(path.with_suffix(".py"))
    return found


@cache
def sources(name: str) -> frozenset[str]:
    """Every file of the project that a stage runs or reads as its own, relative to the root."""
    seen: set[Path] = set()
    waiting = files_of(f"stages.{name}")
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if path.suffix == ".py":
            waiting += [file for module in modules_imported(path) for file in files_of(module)]
        if path.suffix in (".py", ".html"):
            text = path.read_text(encoding="utf-8")
            others = (file for file in path.parent.iterdir() if file.is_file() and file.suffix not in (".py", ".pyc"))
            waiting += [file for file in others if f'"{file.name}"' in text]  # a template, a style sheet
    return frozenset(str(path.relative_to(ROOT)) for path in seen)


def listed(name: str) -> frozenset[str]:
    """The files of the project among a stage's deps, those of a listed folder one by one."""
    found = set()
    for dep in STAGES[name]["deps"]:
        path = ROOT / dep
        if not dep.startswith("stages/"):
            continue
        assert path.exists(), f"{name}: {dep} is not there"
        files = path.rglob("*") if path.is_dir() else [path]
        found |= {str(file.relative_to(ROOT)) for file in files if file.is_file() and "__pycache__" not in file.parts}
    return frozenset(found)


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_the_modules_that_the_stage_imports(name: str) -> None:
    assert sources(name) - listed(name) == set(), "imported and not in deps: a change to it would not run the stage"
    assert listed(name) - sources(name) == set(), "in deps and not imported: a change to it would run the stage in vain"


@pytest.mark.parametrize("name", STAGES)
def test_no_stage_takes_what_a_package_brings_when_asked(name: str) -> None:
    for file in sources(name):
        if file.endswith(".py"):
            assert "stages.pixelcnn.PixelCNN" not in modules_imported(ROOT / file), "take it from its own module"


# --- params: the settings that a stage reads ---


def settings_read(name: str) -> frozenset[str]:
    """The settings that a stage's modules read: attributes of what is annotated `Params`, or all of them."""
    read: set[str] = set()
    for file in sources(name) - {"stages/params.py"}:
        if not file.endswith(".py"):
            continue
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        settings = {
            ast.unparse(node.target) if isinstance(node, ast.AnnAssign) else node.arg
            for node in ast.walk(tree)
            if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation
            if ast.unparse(node.annotation) in ("Params", "params.Params")
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).rpartition(".")[2] in settings:
                read.add(node.attr)
            if isinstance(node, ast.Attribute) and node.attr == "model_fields":
                return frozenset(Params.model_fields)
    return frozenset(read & Params.model_fields.keys())


@pytest.mark.parametrize("name", STAGES)
def test_params_are_the_settings_that_the_stage_reads(name: str) -> None:
    assert set(STAGES[name]["params"]) == settings_read(name)


def test_every_setting_has_an_effect_on_more_than_the_report() -> None:
    used = {key for name, stage in STAGES.items() if name != "report" for key in stage["params"]}
    assert used == Params.model_fields.keys()


def test_every_setting_has_an_effect() -> None:
    assert {key for stage in STAGES.values() for key in stage["params"]} == Params.model_fields.keys()


# --- paths ---


@pytest.mark.parametrize("name", STAGES)
def test_paths_in_the_code_are_deps_or_outs(name: str) -> None:
    paths = {
        node.value
        for file in sources(name)
        if file.endswith(".py")
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"(data|reports)/[\w./]+", node.value)
    }
    known = STAGES[name]["deps"] + STAGES[name]["outs"]
    for path in paths:
        assert any(path == other or path.startswith(f"{other}/") for other in known), path
    for out in STAGES[name]["outs"]:
        assert any(path == out or path.startswith(f"{out}/") for path in paths), f"{out} is written nowhere"


def test_what_is_shown_is_an_output() -> None:
    outs = [out for stage in STAGES.values() for out in stage["outs"]]
    shown = [*GRAPH["metrics"], GRAPH["artifacts"]["pixelcnn"]["path"]]
    for plot in GRAPH["plots"]:
        shown += [plot] if isinstance(plot, str) else next(iter(plot.values()))["y"].keys()
    for path in shown:
        assert any(path == out or path.startswith(f"{out}/") for out in outs), path


# --- What runs again when a setting changes ---

EVERYTHING = ORDER
FROM_FILTER = ORDER[1:]
FROM_TRAIN = ["train", "sample", "evaluate", "report"]
FROM_SAMPLE = ["sample", "evaluate", "report"]
FROM_JUDGE = ["judge", "evaluate", "report"]
RUNS_AGAIN = {
    "mirror": EVERYTHING,
    "source": EVERYTHING,
    "data_dir": EVERYTHING,
    "num_drawings": EVERYTHING,
    "prefetch": EVERYTHING,
    "holdout": FROM_FILTER,
    "conditioning": FROM_TRAIN,
    "position": FROM_TRAIN,
    "num_resnet": FROM_TRAIN,
    "num_hierarchies": FROM_TRAIN,
    "num_filters": FROM_TRAIN,
    "num_logistic_mix": FROM_TRAIN,
    "dropout_p": FROM_TRAIN,
    "epochs": FROM_TRAIN,
    "max_steps": FROM_TRAIN,
    "batch_size": FROM_TRAIN,
    "learning_rate": FROM_TRAIN,
    "learning_rate_decay": FROM_TRAIN,
    "ema_decay": FROM_TRAIN,
    "clip_norm": FROM_TRAIN,
    "precision": FROM_TRAIN,
    "device": FROM_FILTER[1:],
    "deterministic": FROM_FILTER[1:],
    "seed": FROM_TRAIN,
    "samples_per_class": FROM_SAMPLE,
    "temperature": FROM_SAMPLE,
    "guidance": FROM_SAMPLE,
    "judge_steps": FROM_JUDGE,
    "judge_seed": FROM_JUDGE,
    "eval_samples_per_class": FROM_SAMPLE,
    "classes": FROM_FILTER,
}


def reached(names: set[str]) -> list[str]:
    """Some stages and all that depend on what they write, in order."""
    for name, stage in STAGES.items():
        for other in names & STAGES.keys():
            outs = STAGES[other]["outs"]
            if any(dep == out or dep.startswith(f"{out}/") for dep in stage["deps"] for out in outs):
                names = names | {name}
    return [name for name in STAGES if name in names]


def test_the_table_has_every_setting() -> None:
    assert list(RUNS_AGAIN) == list(Params.model_fields)


@pytest.mark.parametrize(("key", "expected"), RUNS_AGAIN.items())
def test_what_runs_again_by_the_graph(key: str, expected: list[str]) -> None:
    assert reached({name for name, stage in STAGES.items() if key in stage["params"]}) == expected


@pytest.mark.slow
def test_what_runs_again_by_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same table, from DVC itself, over stages that write a digest of all that they are given."""
    monkeypatch.chdir(tmp_path)
    fake_project.write(tmp_path)
    for settings, expected in [
        (FULL, set(ORDER)),
        (FULL, set()),
        *((FULL | {key: other_value(FULL[key])}, set(names)) for key, names in RUNS_AGAIN.items()),
        (FULL, set()),  # what ran once is restored
    ]:
        (tmp_path / "params.yaml").write_text(json.dumps(settings), encoding="utf-8")
        assert reproduce() == expected, {key for key in FULL if FULL[key] != settings[key]}


def other_value(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value / 2 or 1.0
    return "other"


def reproduce() -> set[str]:
    from dvc.repo import Repo

    with Repo() as repo:
        repo.reproduce(pull=False)
    return set(fake_project.stages_run(Path.cwd()))
