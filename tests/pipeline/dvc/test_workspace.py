"""What a workspace says of the graph, what it does for a stage, and what it shares, in a repository of a few lines."""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline import dvc
from pipeline.dvc import Outcome, Workspace, locks, repository
from pipeline.dvc.workspace import OutputParser
from pipeline.subprocesses.supervisor import Stopped
from tests import fake_project
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
    fake_project.git(root, "init", "--quiet")
    fake_project.git(root, "add", "--all")
    fake_project.git(
        root, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "--message", "start"
    )
    return root


AUTHOR = ("--author", "a <a@localhost>")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "my project")


def clone(root: Path, other: Path) -> Path:
    fake_project.git(root, "clone", "--quiet", str(root), str(other))
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
    assert [stage.name for stage in dvc.stages(ROOT)] == list(repository.read_dvc_yaml(ROOT)["stages"])


@pytest.mark.slow
def test_ran_unchanged_and_restored_are_told_apart(root: Path) -> None:
    workspace = Workspace(root)
    lines: list[str] = []
    assert dvc.up_to_date(root) == set()
    assert workspace.reproduce("first", line=lines.append) == {"first": Outcome.RAN}
    assert any(line.startswith("Running stage 'first'") for line in lines)
    assert dvc.up_to_date(root) == {"first"}
    assert workspace.reproduce() == {
        "first": Outcome.UNCHANGED,
        "right": Outcome.RAN,
        "left": Outcome.RAN,
        "last": Outcome.RAN,
    }
    assert dvc.up_to_date(root) == {"first", "right", "left", "last"}

    (root / "first").unlink()
    assert dvc.up_to_date(root) == set(), "a stage that reads from a changed one may have to run"
    assert workspace.reproduce("first") == {"first": Outcome.RESTORED}

    (root / "params.yaml").write_text("seed: 1\n")
    assert workspace.reproduce("first") == {"first": Outcome.RAN}
    (root / "params.yaml").write_text("seed: 0\n")
    assert workspace.reproduce("first") == {"first": Outcome.RESTORED}, "from the runs before the last"
    assert dvc.output_md5(root, "first") == hashlib.md5((root / "first").read_bytes()).hexdigest()
    assert dvc.output_md5(root, "nothing") is None


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
    assert dvc.up_to_date(root) == {"first", "left", "right"}


@pytest.mark.slow
def test_a_failure_is_dvcs_line_and_the_stages(root: Path) -> None:
    with_graph(root, first={"cmd": "echo 'error: no source' >&2; echo; exit 2"})
    with pytest.raises(dvc.DvcError) as caught:
        Workspace(root).reproduce("first")
    assert str(caught.value).startswith("failed to reproduce 'first': failed to run: ")
    assert str(caught.value).endswith("exited with 2: no source")
    assert caught.value.stage_exit_code == 2
    with pytest.raises(dvc.DvcError, match="Stage 'nothing' not found"):
        Workspace(root).reproduce("nothing")
    (root / "dvc.yaml").write_text("stages:\n  first: [")
    with pytest.raises(dvc.DvcError, match=r"dvc\.yaml"):
        dvc.stages(root)


@pytest.mark.slow
def test_a_stop_and_a_timeout_end_the_stage_and_the_next_run_goes_on(root: Path) -> None:
    with_graph(root, first={"cmd": "echo $$ > ran; sleep 100"})
    with pytest.raises(dvc.OutOfTime, match="ended after 5 seconds"):
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
    dvc.configure_store(root, store)
    assert dvc.remote(root) == ("store" if kind == "remote" else None)
    workspace = Workspace(root)
    workspace.reproduce()
    if kind == "remote":
        for stage in dvc.stages(root):
            workspace.push(stage.name)
    assert (root / "ran").read_text() == "first\n"

    other = clone(root, tmp_path / "other")
    dvc.configure_store(other, store)
    assert set(Workspace(other).reproduce().values()) == {Outcome.RESTORED}
    assert (other / "last").read_text() == (root / "last").read_text()
    assert not (other / "ran").exists()
    assert "config.local" not in fake_project.git(other, "status", "--porcelain")

    with pytest.raises(dvc.DvcError, match="neither a URL nor an absolute folder"):
        dvc.configure_store(other, "somewhere")


def test_a_store_is_set_beside_what_a_person_has_set(root: Path) -> None:
    local = root / ".dvc" / "config.local"
    local.write_text("['remote \"store\"']\n    url = s3://old\n    endpointurl = http://127.0.0.1:9000\n")
    dvc.configure_store(root, "s3://bucket/a")
    text, written = local.read_text(), local.stat().st_mtime_ns
    assert "s3://bucket/a" in text and "s3://old" not in text and "endpointurl = http://127.0.0.1:9000" in text
    assert dvc.remote(root) == "store"
    dvc.configure_store(root, "s3://bucket/a")
    assert (local.read_text(), local.stat().st_mtime_ns) == (text, written), "nothing is written where nothing differs"


def test_a_store_that_several_set_at_once(root: Path) -> None:
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda place: dvc.configure_store(root, f"file:///{place % 2}"), range(64)))
    (root / ".dvc" / "tmp" / "change.lock").unlink()
    assert dvc.remote(root) == "store"


def test_the_cache_is_looked_through_once_for_all_workspaces(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the checkout that knows what it has read before, and not by each that is made for an experiment."""
    looked: list[Path] = []

    def mend(root: Path) -> list[str]:
        looked.append(root)
        return []

    monkeypatch.setattr("pipeline.dvc.workspace.repair_cache", mend)
    monkeypatch.setattr(Workspace, "_dvc", lambda *_, **__: None)
    with dvc.temporary_workspace(root, "trial") as workspace:
        for _ in range(2):
            workspace.reproduce("first")
    assert looked == [root]


def test_experiments_of_origin_are_brought_beside_those_here(root: Path, tmp_path: Path) -> None:
    head = fake_project.git(root, "rev-parse", "HEAD").strip()
    for name in ("quick-1", "quick-2", "other"):
        fake_project.git(root, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", head)
    other = clone(root, tmp_path / "other")
    assert dvc.experiment_commits(other) == {}
    fake_project.git(other, "commit", "--quiet", "--allow-empty", "--message", "mine", *AUTHOR)
    mine = fake_project.git(other, "rev-parse", "HEAD").strip()
    fake_project.git(other, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/quick-2", mine)
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda _: dvc.fetch_experiments(other, "quick-*"), range(4)))
    assert dvc.experiment_commits(other) == {"quick-1": head, "quick-2": mine}, "those here stay as they are"
    assert dvc.list_experiments(other)[0].baseline == head


@pytest.mark.parametrize("text", ["", "<<<<<<< HEAD\nschema: '2.0'\n=======\nstages: {}\n>>>>>>> other\n", "[]"])
def test_a_lock_that_a_merge_has_spoiled_is_said(root: Path, text: str) -> None:
    (root / "dvc.lock").write_text(text)
    for read in (dvc.stages_in_lockfile, lambda root: dvc.output_md5(root, "first")):
        with pytest.raises(dvc.DvcError, match=r"dvc\.lock cannot be read .*`git restore dvc\.lock`"):
            read(root)


def test_a_note_of_dvcs_that_outlived_its_process_is_taken_out(root: Path) -> None:
    """After a power cut: the number is another process's by now, here this test's."""
    noted = root / ".dvc" / "tmp" / "rwlock"
    noted.parent.mkdir(exist_ok=True)
    info = {"pid": os.getpid(), "cmd": "dvc repro"}
    noted.write_text(json.dumps({"write": {"/a": info}, "read": {"/b": [info], "/c": [info]}}))
    assert locks.running_commands(root) == f"process {os.getpid()}: dvc repro"
    before = noted.stat().st_mtime_ns
    assert locks.running_commands(root) and noted.stat().st_mtime_ns == before

    os.utime(noted, (1e9, 1e9))
    assert locks.running_commands(root) == ""
    assert json.loads(noted.read_text()) == {"write": {}, "read": {}}, "DVC would be told to wait for ever"

    noted.write_text('{"write": {"/a": {"pi')
    assert locks.running_commands(root) == ""
    assert json.loads(noted.read_text()) == {"write": {}, "read": {}}, "DVC would give up"


def test_who_is_at_work_where_dvc_must_wait() -> None:
    report = OutputParser()
    for line in (
        "\x1b[31mERROR\x1b[39m: '/a/first' is busy, it is being blocked by:",
        "  (PID 12): dvc repro",
        "  (PID 34): dvc exp run",
        "If there are no processes with such PIDs, you can manually remove '/a/rwlock' and try again.",
    ):
        report.add(line)
    assert report.error == "'/a/first' is busy, it is being blocked by: (PID 12): dvc repro (PID 34): dvc exp run"


@pytest.mark.slow
def test_what_cannot_be_pushed_says_why(root: Path) -> None:
    dvc.configure_store(root, f"file://{root / 'source' / 'store'}")
    workspace = Workspace(root)
    workspace.reproduce()
    workspace.save("trial")
    with pytest.raises(dvc.DvcError, match=r"Not a directory: .*source/store"):
        workspace.push("first")
    with pytest.raises(dvc.DvcError, match=r"No git repository was found at .*nowhere"):
        workspace.push_experiment("trial", str(root / "nowhere"))


@pytest.mark.slow
def test_a_temporary_workspace_is_apart_and_its_experiment_stays(root: Path) -> None:
    Workspace(root).reproduce("first")
    assert (root / "ran").read_text() == "first\n"
    with dvc.temporary_workspace(root, "trial") as workspace:
        place = workspace.root
        assert workspace.reproduce("first") == {"first": Outcome.RESTORED}
        (place / "params.yaml").write_text("seed: 5\n")
        workspace.reproduce()
        workspace.save("trial")
    assert not place.exists()
    assert (root / "ran").read_text() == "first\nfirst\n", "DVC_ROOT is the root that a person knows"
    assert (root / "params.yaml").read_text() == "seed: 0\n"
    assert list(dvc.experiment_commits(root)) == ["trial"]
    assert dvc.Snapshot(root, "trial").read("params.yaml") == b"seed: 5\n"
    assert dvc.Snapshot(root, "trial").read("last") == b"source\nsource\nright\n"
    with pytest.raises(dvc.DvcError, match="HEAD has no last"):
        dvc.Snapshot(root, "HEAD").read("last")
    assert dvc.is_committed(root, "dvc.lock")
    assert not dvc.is_committed(root), "DVC has staged the lock of its first run"

    bare = root.parent / "bare.git"
    fake_project.git(root, "init", "--quiet", "--bare", str(bare))
    dvc.configure_store(root, f"file://{root.parent / 'remote'}")
    workspace = Workspace(root)
    workspace.push_experiment("trial", str(bare))
    other = clone(root, root.parent / "other")
    dvc.configure_store(other, f"file://{root.parent / 'remote'}")
    (other / "params.yaml").write_text("seed: 5\n")
    assert set(Workspace(other).reproduce().values()) == {Outcome.RESTORED}, "its runs came with it"
    assert list(dvc.experiment_commits(bare)) == ["trial"]
