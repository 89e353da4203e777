"""Which module may import which: no cycles, stages apart from each other, DVC and Prefect each behind one package."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter

import pytest

from tests.settings import ROOT
from tests.test_graph import ORDER, modules_imported

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("stages", "pipeline")
    for path in (ROOT / package).rglob("*.py")
}
STAGES = {f"stages.{name}" for name in ORDER}


@cache
def imports(module: str) -> frozenset[str]:
    """Everything that a module imports, wherever in the module it does so, except for type checking only."""
    return frozenset(modules_imported(MODULES[module]))


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def imported_from(module: str, *packages: str) -> set[str]:
    return {name for name in imports(module) if within(name, *packages)}


def test_there_is_no_import_cycle() -> None:
    TopologicalSorter({module: imports(module) & MODULES.keys() - {module} for module in MODULES}).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_a_stage(module: str) -> None:
    """What two stages need has a module of its own, so that a change to one stage runs no other."""
    assert not imports(module) & STAGES


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, "stages")])
def test_stages_know_nothing_of_dvc_and_prefect(module: str) -> None:
    assert not imported_from(module, "dvc", "prefect", "pipeline", "tests")


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, "pipeline")])
def test_the_pipeline_reaches_dvc_and_prefect_through_their_packages(module: str) -> None:
    if not within(module, "pipeline.dvc"):
        assert not imported_from(module, "dvc", "dvc_data", "dvc_objects")
        inside = imported_from(module, "pipeline.dvc") - {f"pipeline.dvc.{name}" for name in public_names()}
        assert inside <= {"pipeline.dvc"}, "import it from the package, not from a module inside it"
    if not within(module, "pipeline.flows", "pipeline.run", "pipeline.server"):
        assert not imported_from(module, "prefect")
    allowed = ("stages.common", "stages.params", "stages.reporting")
    assert imported_from(module, "stages") <= {"stages", *imported_from(module, *allowed)}


def public_names() -> Iterator[str]:
    tree = ast.parse((ROOT / "pipeline" / "dvc" / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            yield from ast.literal_eval(node.value)


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, "stages.pixelcnn")])
def test_the_engine_stands_alone(module: str) -> None:
    own = imported_from(module, "stages.pixelcnn", "stages.common.cores")
    assert imported_from(module, "stages") <= {"stages", "stages.common", *own}


@pytest.mark.parametrize("module", [name for name in MODULES if within(name, "stages.quickdraw", "stages.metrics")])
def test_data_and_metrics_start_without_tensorflow(module: str) -> None:
    assert not imported_from(module, "tensorflow", "tensorflow_datasets", "tf_keras")
    assert not imported_from(module, "stages.params", "stages.command")


def test_the_top_of_stages_holds_the_stages_and_what_starts_them() -> None:
    files = {path.stem for path in (ROOT / "stages").glob("*.py")}
    assert files == {"__init__", "command", "params", *ORDER}
