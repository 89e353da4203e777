"""What a workspace says of the graph, what it does for a stage, and what it shares, in a repository of a few lines."""

import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline import dvc
from pipeline.dvc import Outcome, Workspace
from pipeline.processes import Stopped
from tests import stand_in
from tests.settings import ROOT

# Two that can run side by side, between a first and a last.
GRAPH: dict[str, Any] = {
    "stages": {
        "last": {"cmd": "cat left right > last", "deps": ["left", "right"], "outs": ["last"]},
        "right": {"cmd": "cat first > right; echo right >> right", "deps": ["first"], "outs": ["right"]},
        "left": {"cmd": "cat first > left", "deps": ["first"], "outs": ["left"]},
        "first": {
            "cmd": 'cat source > first; echo first >> "$DVC_ROOT/ran"',
            "desc": "The first",
            "deps": ["source"],
            "params": ["seed"],
            "outs": ["first"],
            "meta": {"network": "mirror"},
        },
    }
}


def make(root: Path, graph: Mapping[str, Any] = GRAPH) -> Path:
    root.mkdir(parents=True)
    (root / "dvc.yaml").write_text(json.dumps(graph), encoding="utf-8")
    (root / "params.yaml").write_text("seed: 0\n")
    (root / "source").write_text("source\n")
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    (root / ".gitignore").write_text("/first\n/left\n/right\n/last\n/ran\n")
    stand_in.git(root, "init", "--quiet")
    stand_in.git(root, "add", "--all")
    stand_in.git(root, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "--message", "start")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "my project")


def clone(root: Path, other: Path) -> Path:
    stand_in.git(root, "clone", "--quiet", str(root), str(other))
    return other


def with_graph(root: Path, **changes: Mapping[str, Any]) -> None:
    stages = {name: {**stage, **changes.get(name, {})} for name, stage in GRAPH["stages"].items()}
    (root / "dvc.yaml").write_text(json.dumps({"stages": stages}), encoding="utf-8")


def test_the_stages_come_after_those_they_read_from(root: Path) -> None:
    stages = dvc.stages(root)
    assert [(stage.name, stage.after) for stage in stages] == [
        ("first", ()),
        ("right", ("first",)),
        ("left", ("first",)),
        ("last", ("left", "right")),
    ]
    assert (stages[0].desc, stages[0].meta, stages[0].outs) == ("The first", {"network": "mirror"}, ("first",))


def test_the_projects_own_stages_come_in_the_order_of_dvc_yaml() -> None:
    assert [stage.name for stage in dvc.stages(ROOT)] == list(dvc._pipeline(ROOT)["stages"])


@pytest.mark.slow
def test_ran_unchanged_and_restored_are_told_apart(root: Path) -> None:
    workspace = Workspace(root)
    lines: list[str] = []
    assert dvc.unchanged(root) == set()
    assert workspace.reproduce("first", line=lines.append) == {"first": Outcome.RAN}
    assert any(line.startswith("Running stage 'first'") for line in lines)
    assert dvc.unchanged(root) == {"first"}
    assert workspace.reproduce() == {
        "first": Outcome.UNCHANGED,
        "right": Outcome.RAN,
        "left": Outcome.RAN,
        "last": Outcome.RAN,
    }
    assert dvc.unchanged(root) == {"first", "right", "left", "last"}

    (root / "first").unlink()
    assert dvc.unchanged(root) == set(), "a stage that reads from a changed one may have to run"
    assert workspace.reproduce("first") == {"first": Outcome.RESTORED}

    (root / "params.yaml").write_text("seed: 1\n")
    assert workspace.reproduce("first") == {"first": Outcome.RAN}
    (root / "params.yaml").write_text("seed: 0\n")
    assert workspace.reproduce("first") == {"first": Outcome.RESTORED}, "from the runs before the last"
    assert (
        dvc.hash_of(root, "first") == "3c9f1ee1ba1eca6be3d73e2ba70ddeff" or len(dvc.hash_of(root, "first") or "") == 32
    )
    assert dvc.hash_of(root, "nothing") is None


@pytest.mark.slow
def test_two_stages_run_side_by_side(root: Path) -> None:
    """Each waits for the other's sign of life."""
    meet = "touch {0}.here; for i in $(seq 600); do test -e {1}.here && break; sleep 0.1; done; test -e {1}.here"
    with_graph(
        root,
        left={"cmd": f"{meet.format('left', 'right')} && echo left > left"},
        right={"cmd": f"{meet.format('right', 'left')} && echo right > right"},
    )
    workspace = Workspace(root)
    workspace.reproduce("first")
    found: dict[str, Outcome] = {}
    threads = [
        threading.Thread(target=lambda name=name: found.update(workspace.reproduce(name))) for name in ("left", "right")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"left": Outcome.RAN, "right": Outcome.RAN}
    assert dvc.unchanged(root) == {"first", "left", "right"}


@pytest.mark.slow
def test_a_failure_is_dvcs_line_and_the_stages(root: Path) -> None:
    with_graph(root, first={"cmd": "echo 'error: no source' >&2; echo; exit 2"})
    with pytest.raises(dvc.DvcError) as caught:
        Workspace(root).reproduce("first")
    assert str(caught.value).startswith("failed to reproduce 'first': failed to run: ")
    assert str(caught.value).endswith("exited with 2: no source")
    assert caught.value.exit_code == 2
    with pytest.raises(dvc.DvcError, match="Stage 'nothing' not found"):
        Workspace(root).reproduce("nothing")
    (root / "dvc.yaml").write_text("stages:\n  first: [")
    with pytest.raises(dvc.DvcError, match=r"dvc\.yaml"):
        dvc.stages(root)


@pytest.mark.slow
def test_a_stop_and_a_timeout_end_the_stage_and_the_next_run_goes_on(root: Path) -> None:
    with_graph(root, first={"cmd": "echo $$ > ran; sleep 100"})
    with pytest.raises(dvc.DvcError, match="ended after 5 seconds"):
        Workspace(root).reproduce("first", seconds=5)
    workspace = Workspace(root)

    def stop() -> None:
        (root / "ran").unlink(missing_ok=True)
        while not (root / "ran").exists():
            time.sleep(0.05)
        workspace.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Stopped):
        workspace.reproduce("first")
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int((root / "ran").read_text()), 0)
    with_graph(root)
    assert Workspace(root).reproduce("first") == {"first": Outcome.RAN}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["remote", "cache"])
def test_a_fresh_clone_restores_what_another_has_run(root: Path, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "shared store"
    store = f"file://{place}" if kind == "remote" else str(place)
    dvc.use_store(root, store)
    assert dvc.remote(root) == ("store" if kind == "remote" else None)
    workspace = Workspace(root)
    workspace.reproduce()
    if kind == "remote":
        for stage in dvc.stages(root):
            workspace.push(stage.name)
    assert (root / "ran").read_text() == "first\n"

    other = clone(root, tmp_path / "other")
    dvc.use_store(other, store)
    assert set(Workspace(other).reproduce().values()) == {Outcome.RESTORED}
    assert (other / "last").read_text() == (root / "last").read_text()
    assert not (other / "ran").exists()
    assert "config.local" not in stand_in.git(other, "status", "--porcelain")

    with pytest.raises(dvc.DvcError, match="neither a URL nor an absolute folder"):
        dvc.use_store(other, "somewhere")


@pytest.mark.slow
def test_a_temporary_workspace_is_apart_and_its_experiment_stays(root: Path) -> None:
    Workspace(root).reproduce("first")
    assert (root / "ran").read_text() == "first\n"
    with dvc.temporary(root, "trial") as workspace:
        place = workspace.root
        assert workspace.reproduce("first") == {"first": Outcome.RESTORED}
        (place / "params.yaml").write_text("seed: 5\n")
        workspace.reproduce()
        workspace.save("trial")
    assert not place.exists()
    assert (root / "ran").read_text() == "first\nfirst\n", "DVC_ROOT is the root that a person knows"
    assert (root / "params.yaml").read_text() == "seed: 0\n"
    assert list(dvc.experiments(root)) == ["trial"]
    assert dvc.Snapshot(root, "trial").read("params.yaml") == b"seed: 5\n"
    assert dvc.Snapshot(root, "trial").read("last") == b"source\nsource\nright\n"
    with pytest.raises(dvc.DvcError, match="HEAD has no last"):
        dvc.Snapshot(root, "HEAD").read("last")
    assert dvc.is_committed(root, "dvc.lock")
    assert not dvc.is_committed(root), "DVC has staged the lock of its first run"

    bare = root.parent / "bare.git"
    stand_in.git(root, "init", "--quiet", "--bare", str(bare))
    dvc.use_store(root, f"file://{root.parent / 'remote'}")
    workspace = Workspace(root)
    workspace.push_experiment("trial", str(bare))
    other = clone(root, root.parent / "other")
    dvc.use_store(other, f"file://{root.parent / 'remote'}")
    (other / "params.yaml").write_text("seed: 5\n")
    assert set(Workspace(other).reproduce().values()) == {Outcome.RESTORED}, "its runs came with it"
    assert list(dvc.experiments(bare)) == ["trial"]
