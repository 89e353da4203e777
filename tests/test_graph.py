"""dvc.yaml and the code agree on modules, settings and paths; a changed setting reruns only the stages it affects."""

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

# --- Stages ---


def test_the_seven_stages_are_in_order() -> None:
    assert list(STAGES) == ORDER


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_runs_the_module_of_its_name(name: str) -> None:
    assert STAGES[name]["cmd"] == f"python -m stages.{name}"
    assert (ROOT / "stages" / f"{name}.py").is_file()
    assert STAGES[name].keys() - {"meta"} == {"desc", "cmd", "deps", "params", "outs"}, (
        "no option that disables the cache"
    )
    assert all(isinstance(out, str) for out in STAGES[name]["outs"]), "every output is cached"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_uses_the_network_names_the_setting_of_its_source(name: str) -> None:
    uses_network = any(file.startswith("stages/quickdraw/remote") for file in sources(name))
    assert STAGES[name].get("meta", {}) == ({"network": "source"} if uses_network else {})


@pytest.mark.parametrize("name", STAGES)
def test_deps_and_params_are_sorted_without_duplicates(name: str) -> None:
    assert STAGES[name]["deps"] == sorted(set(STAGES[name]["deps"]))
    assert STAGES[name]["params"] == [key for key in Params.model_fields if key in STAGES[name]["params"]]
    assert len(set(STAGES[name]["params"])) == len(STAGES[name]["params"])


# --- deps: every module that a stage imports, also inside functions ---


def modules_imported(path: Path) -> Iterator[str]:
    """Yield the names that a module imports, at the top and in functions, except those for type checking only."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for statement in child.orelse:
                    yield from walk(statement)
            elif isinstance(child, ast.FunctionDef) and child.name == "__getattr__":
                continue  # lazy imports of a package: see below
            else:
                yield child
                yield from walk(child)

    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports must be absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(module: str) -> list[Path]:
    """Return the project's files that importing a module runs: the module's and its packages'."""
    files = []
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        path = ROOT.joinpath(*parts[:length])
        if (path / "__init__.py").is_file():
            files.append(path / "__init__.py")
        elif path.with_suffix(".py").is_file():
            files.append(path.with_suffix(".py"))
    return files


@cache
def sources(name: str) -> frozenset[str]:
    """Return every file of the project that a stage runs or reads (a template, for example), relative to the root."""
    seen: set[Path] = set()
    queue = files_of(f"stages.{name}")
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen.add(path)
        if path.suffix == ".py":
            queue += [file for module in modules_imported(path) for file in files_of(module)]
        if path.suffix in (".py", ".html"):
            text = path.read_text(encoding="utf-8")
            resources = (
                file for file in path.parent.iterdir() if file.is_file() and file.suffix not in (".py", ".pyc")
            )
            queue += [file for file in resources if f'"{file.name}"' in text]  # a template, a style sheet
    return frozenset(str(path.relative_to(ROOT)) for path in seen)


def listed(name: str) -> frozenset[str]:
    """Return the project's files in a stage's deps, including the files in listed folders."""
    listed_files = set()
    for dep in STAGES[name]["deps"]:
        path = ROOT / dep
        if not dep.startswith("stages/"):
            continue
        assert path.exists(), f"{name}: {dep} does not exist"
        files = list(path.rglob("*")) if path.is_dir() else [path]
        files = [file for file in files if file.is_file() and "__pycache__" not in file.parts]
        listed_files |= {str(file.relative_to(ROOT)) for file in files}
    return frozenset(listed_files)


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_the_modules_that_the_stage_imports(name: str) -> None:
    assert sources(name) - listed(name) == set(), "imported, but not in deps: a change would not rerun the stage"
    assert listed(name) - sources(name) == set(), "in deps, but not imported: a change would rerun the stage needlessly"


@pytest.mark.parametrize("name", STAGES)
def test_no_stage_uses_lazy_imports_of_a_package(name: str) -> None:
    for file in sources(name):
        if file.endswith(".py"):
            assert "stages.pixelcnn.PixelCNN" not in modules_imported(ROOT / file), "import it from its module"


# --- params: the settings that a stage reads ---


def settings_read(name: str) -> frozenset[str]:
    """Return the settings that a stage's modules read as attributes of `Params`; all if they read `model_fields`."""
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


def test_every_setting_affects_more_than_the_report() -> None:
    used = {key for name, stage in STAGES.items() if name != "report" for key in stage["params"]}
    assert used == Params.model_fields.keys()


def test_every_setting_affects_a_stage() -> None:
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
    listed_paths = STAGES[name]["deps"] + STAGES[name]["outs"]
    for path in paths:
        assert any(path == listed or path.startswith(f"{listed}/") for listed in listed_paths), path
    for out in STAGES[name]["outs"]:
        assert any(path == out or path.startswith(f"{out}/") for path in paths), f"{out} is not written"


def test_metrics_plots_and_artifacts_are_outputs() -> None:
    outs = [out for stage in STAGES.values() for out in stage["outs"]]
    paths = [*GRAPH["metrics"], GRAPH["artifacts"]["pixelcnn"]["path"]]
    for plot in GRAPH["plots"]:
        paths += [plot] if isinstance(plot, str) else next(iter(plot.values()))["y"].keys()
    for path in paths:
        assert any(path == out or path.startswith(f"{out}/") for out in outs), path


# --- Stages that a changed setting reruns ---

EVERYTHING = ORDER
FROM_FILTER = ORDER[1:]
FROM_TRAIN = ["train", "sample", "evaluate", "report"]
FROM_SAMPLE = ["sample", "evaluate", "report"]
FROM_JUDGE = ["judge", "evaluate", "report"]
RERUN_STAGES = {
    "source": EVERYTHING,
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
    "optimizer": FROM_TRAIN,
    "learning_rate": FROM_TRAIN,
    "muon_learning_rate": FROM_TRAIN,
    "learning_rate_decay": FROM_TRAIN,
    "ema_decay": FROM_TRAIN,
    "clip_norm": FROM_TRAIN,
    "input_noise": FROM_TRAIN,
    "dtype": FROM_TRAIN,
    "device": FROM_FILTER[1:],
    "deterministic": FROM_FILTER[1:],
    "seed": FROM_TRAIN,
    "samples_per_class": FROM_SAMPLE,
    "temperature": FROM_SAMPLE,
    "guidance": FROM_SAMPLE,
    "completions_per_class": FROM_SAMPLE,
    "completion_rows": FROM_SAMPLE,
    "judge_steps": FROM_JUDGE,
    "judge_seed": FROM_JUDGE,
    "eval_samples_per_class": FROM_SAMPLE,
    "classes": FROM_FILTER,
}


def with_dependents(names: set[str]) -> list[str]:
    """Return these stages and all that depend on their outputs, in order."""
    for name, stage in STAGES.items():
        for upstream in names & STAGES.keys():
            outs = STAGES[upstream]["outs"]
            if any(dep == out or dep.startswith(f"{out}/") for dep in stage["deps"] for out in outs):
                names = names | {name}
    return [name for name in STAGES if name in names]


def test_the_table_has_every_setting() -> None:
    assert list(RERUN_STAGES) == list(Params.model_fields)


@pytest.mark.parametrize(("key", "expected"), RERUN_STAGES.items())
def test_a_changed_setting_reruns_its_stages_by_the_graph(key: str, expected: list[str]) -> None:
    assert with_dependents({name for name, stage in STAGES.items() if key in stage["params"]}) == expected


@pytest.mark.slow
def test_a_changed_setting_reruns_its_stages_in_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same table, checked with DVC on stages that write a digest of their inputs."""
    monkeypatch.chdir(tmp_path)
    fake_project.write(tmp_path)
    for settings, expected in [
        (FULL, set(ORDER)),
        (FULL, set()),
        *((FULL | {key: other_value(FULL[key])}, set(names)) for key, names in RERUN_STAGES.items()),
        (FULL, set()),  # restored from the cache
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
