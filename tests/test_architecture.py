"""Rules for imports: no cycles, no stage imports another, and one package each uses DVC and Prefect."""

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
    """Return all names that a module imports, also inside functions, except those for type checking only."""
    return frozenset(modules_imported(MODULES[module]))


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def imported_from(module: str, *packages: str) -> set[str]:
    return {name for name in imports(module) if within(name, *packages)}


def test_there_is_no_import_cycle() -> None:
    TopologicalSorter({module: imports(module) & MODULES.keys() - {module} for module in MODULES}).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_a_stage(module: str) -> None:
    """What two stages share is in a separate module, so that a change to one stage reruns no other."""
    assert not imports(module) & STAGES


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, "stages")])
def test_stages_do_not_import_dvc_or_prefect(module: str) -> None:
    assert not imported_from(module, "dvc", "prefect", "pipeline", "tests")


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, "pipeline")])
def test_the_pipeline_uses_dvc_and_prefect_through_their_packages(module: str) -> None:
    if not within(module, "pipeline.dvc"):
        assert not imported_from(module, "dvc", "dvc_data", "dvc_objects")
        inside = imported_from(module, "pipeline.dvc") - {f"pipeline.dvc.{name}" for name in public_names()}
        assert inside <= {"pipeline.dvc"}, "import from the package, not from a module inside it"
    if not within(module, "pipeline.flows", "pipeline.run", "pipeline.server"):
        assert not imported_from(module, "prefect")
    if not within(module, "pipeline.drawing"):
        assert not imported_from(module, "starlette", "uvicorn")
    allowed = ["stages.common", "stages.params", "stages.reporting", "stages.inference", "stages.quickdraw"]
    if within(module, "pipeline.drawing"):
        allowed.append("stages.outputs")
    if within(module, "pipeline.exporting"):
        allowed.append("stages.metrics.catalogue")  # a model card names the metrics
    assert imported_from(module, "stages") <= {"stages", *imported_from(module, *allowed)}


def public_names() -> Iterator[str]:
    tree = ast.parse((ROOT / "pipeline" / "dvc" / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            yield from ast.literal_eval(node.value)


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, "stages.pixelcnn")])
def test_pixelcnn_imports_only_itself_and_cores(module: str) -> None:
    allowed = imported_from(module, "stages.pixelcnn", "stages.common.cores")
    assert imported_from(module, "stages") <= {"stages", "stages.common", *allowed}


@pytest.mark.parametrize("module", [name for name in MODULES if within(name, "stages.quickdraw", "stages.metrics")])
def test_quickdraw_and_metrics_do_not_import_tensorflow(module: str) -> None:
    if module != "stages.quickdraw.tfds_sets":  # reads datasets of any kind
        assert not imported_from(module, "tensorflow", "tensorflow_datasets", "tf_keras")
    assert not imported_from(module, "stages.params", "stages.command")


def test_the_top_level_of_stages_has_only_the_stages_and_their_start() -> None:
    files = {path.stem for path in (ROOT / "stages").glob("*.py")}
    assert files == {"__init__", "command", "params", *ORDER}
