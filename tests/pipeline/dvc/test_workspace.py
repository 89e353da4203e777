"""The graph, the workspaces, the store and the experiments, in a repository with a graph of four short stages."""

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
from pipeline.dvc.workspace import ATTEMPTS, OutputParser
from pipeline.subprocesses.supervisor import Stopped
from tests import fake_project
from tests.settings import ROOT

# A first stage, two that can run in parallel, and a last one.
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
            "meta": {"network": "source"},
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


def clone(root: Path, target: Path) -> Path:
    fake_project.git(root, "clone", "--quiet", str(root), str(target))
    return target


def change_graph(root: Path, **changes: Mapping[str, Any]) -> None:
    stages = {name: {**stage, **changes.get(name, {})} for name, stage in GRAPH["stages"].items()}
    (root / "dvc.yaml").write_text(json.dumps({"stages": stages}), encoding="utf-8")


def test_stages_come_after_those_whose_outputs_they_read(root: Path) -> None:
    stages = dvc.stages(root)
    assert [(stage.name, stage.after) for stage in stages] == [
        ("first", ()),
        ("right", ("first",)),
        ("left", ("first",)),
        ("last", ("left", "right")),
    ]
    assert (stages[0].desc, stages[0].meta, stages[0].outs) == ("The first", {"network": "source"}, ("first",))


def test_the_stages_of_the_project_come_in_the_order_of_dvc_yaml() -> None:
    assert [stage.name for stage in dvc.stages(ROOT)] == list(repository.read_dvc_yaml(ROOT)["stages"])


@pytest.mark.slow
def test_the_outcome_of_a_stage_is_ran_unchanged_or_restored(root: Path) -> None:
    workspace = Workspace(root)
    lines: list[str] = []
    assert dvc.up_to_date(root) == set()
    assert workspace.reproduce("first", line=lines.append) == {"first": Outcome.RAN}
    assert any(line.startswith("Running stage 'first'") for line in lines)
    assert not any("dvc push" in line or "git add" in line for line in lines), "no hints of DVC"
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
    assert workspace.reproduce("first") == {"first": Outcome.RESTORED}, "from an earlier run than the last"
    assert dvc.output_md5(root, "first") == hashlib.md5((root / "first").read_bytes()).hexdigest()
    assert dvc.output_md5(root, "nothing") is None


@pytest.mark.slow
def test_two_stages_run_in_parallel(root: Path) -> None:
    """Each waits for a file that the other creates."""
    meet = "touch {0}.here; for i in $(seq 600); do test -e {1}.here && break; sleep 0.1; done; test -e {1}.here"
    change_graph(
        root,
        left={"cmd": f"{meet.format('left', 'right')} && echo left > left"},
        right={"cmd": f"{meet.format('right', 'left')} && echo right > right"},
    )
    workspace = Workspace(root)
    workspace.reproduce("first")
    outcomes: dict[str, Outcome] = {}
    threads = [
        threading.Thread(target=lambda name=name: outcomes.update(workspace.reproduce(name)))
        for name in ("left", "right")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {"left": Outcome.RAN, "right": Outcome.RAN}
    assert dvc.up_to_date(root) == {"first", "left", "right"}


@pytest.mark.slow
def test_the_error_of_a_stage_is_its_name_and_what_it_printed(root: Path) -> None:
    change_graph(root, first={"cmd": "echo 'error: no source' >&2; echo; exit 2"})
    with pytest.raises(dvc.DvcError) as caught:
        Workspace(root).reproduce("first")
    assert str(caught.value) == "first: no source"
    assert caught.value.stage_exit_code == 2
    change_graph(root, first={"cmd": "echo 'Traceback: no source' >&2; exit 3"})
    with pytest.raises(dvc.DvcError, match=r"failed to reproduce 'first': failed to run: .* exited with 3$"):
        Workspace(root).reproduce("first")
    with pytest.raises(dvc.DvcError, match="Stage 'nothing' not found"):
        Workspace(root).reproduce("nothing")
    (root / "dvc.yaml").write_text("stages:\n  first: [")
    with pytest.raises(dvc.DvcError, match=r"dvc\.yaml"):
        dvc.stages(root)


# In a process of DVC: another one deletes an unfinished entry of the run cache, as often as the file DELETIONS says.
DELETE_ENTRIES = """
import os, pathlib
rename, deletions = os.rename, pathlib.Path(os.environ["DELETIONS"])
def delete_and_rename(source, *arguments, **keywords):
    if "/runs/" in str(source) and (left := int(deletions.read_text())):
        deletions.write_text(str(left - 1))
        os.unlink(source)
    return rename(source, *arguments, **keywords)
os.rename = delete_and_rename
"""


@pytest.mark.slow
def test_a_run_goes_on_when_another_deletes_its_entry_of_the_run_cache(root: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(DELETE_ENTRIES)
    (deletions := tmp_path / "deletions").write_text("1")
    variables = {"PYTHONPATH": str(site), "DELETIONS": str(deletions), "DVC_ROOT": str(root)}
    assert Workspace(root, variables).reproduce("first") == {"first": Outcome.RAN}
    assert deletions.read_text() == "0"

    deletions.write_text("100")  # a folder in which nothing can be kept is an error, not an endless loop
    (root / "source").write_text("another\n")
    with pytest.raises(dvc.DvcError, match=r"failed to reproduce 'first': .*No such file or directory: .*/runs/"):
        Workspace(root, variables).reproduce("first")
    assert int(deletions.read_text()) == 100 - ATTEMPTS


@pytest.mark.slow
def test_a_stop_and_a_timeout_end_the_stage_and_the_next_run_succeeds(root: Path) -> None:
    change_graph(root, first={"cmd": "echo $$ > ran; sleep 100"})
    with pytest.raises(dvc.OutOfTime, match="timed out after 5 seconds"):
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
    change_graph(root)
    assert Workspace(root).reproduce("first") == {"first": Outcome.RAN}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["remote", "cache"])
def test_a_fresh_clone_restores_the_outputs_of_another(root: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "shared store"
    store = f"file://{folder}" if kind == "remote" else str(folder)
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


def test_configuring_a_store_preserves_the_other_local_settings(root: Path) -> None:
    local = root / ".dvc" / "config.local"
    local.write_text("['remote \"store\"']\n    url = s3://old\n    endpointurl = http://127.0.0.1:9000\n")
    dvc.configure_store(root, "s3://bucket/a")
    text, written = local.read_text(), local.stat().st_mtime_ns
    assert "s3://bucket/a" in text and "s3://old" not in text and "endpointurl = http://127.0.0.1:9000" in text
    assert dvc.remote(root) == "store"
    dvc.configure_store(root, "s3://bucket/a")
    assert (local.read_text(), local.stat().st_mtime_ns) == (text, written), "not written if nothing differs"


def test_a_store_can_be_configured_concurrently(root: Path) -> None:
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda index: dvc.configure_store(root, f"file:///{index % 2}"), range(64)))
    (root / ".dvc" / "tmp" / "change.lock").unlink()
    assert dvc.remote(root) == "store"


def test_the_cache_is_checked_once_and_from_the_original_checkout(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That checkout records which files it has read; a temporary workspace would read all of them again."""
    checked: list[Path] = []

    def repair_cache(root: Path) -> list[str]:
        checked.append(root)
        return []

    monkeypatch.setattr("pipeline.dvc.workspace.repair_cache", repair_cache)
    monkeypatch.setattr(Workspace, "_dvc", lambda *_, **__: None)
    with dvc.temporary_workspace(root, "trial") as workspace:
        for _ in range(2):
            workspace.reproduce("first")
    assert checked == [root]


def test_fetching_experiments_from_origin_preserves_the_local_ones(root: Path, tmp_path: Path) -> None:
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
    assert dvc.experiment_commits(other) == {"quick-1": head, "quick-2": mine}, "a local experiment is not replaced"
    assert dvc.list_experiments(other)[0].baseline == head


@pytest.mark.parametrize("text", ["", "<<<<<<< HEAD\nschema: '2.0'\n=======\nstages: {}\n>>>>>>> other\n", "[]"])
def test_a_lock_file_damaged_by_a_merge_is_an_error(root: Path, text: str) -> None:
    (root / "dvc.lock").write_text(text)
    for read in (dvc.stages_in_lockfile, lambda root: dvc.output_md5(root, "first")):
        with pytest.raises(dvc.DvcError, match=r"dvc\.lock cannot be read .*`git restore dvc\.lock`"):
            read(root)


def test_a_lock_entry_of_dvc_that_outlived_its_process_is_removed(root: Path) -> None:
    """After a power cut, its process ID may belong to another process: here this test's."""
    lock_file = root / ".dvc" / "tmp" / "rwlock"
    lock_file.parent.mkdir(exist_ok=True)
    info = {"pid": os.getpid(), "cmd": "dvc repro"}
    lock_file.write_text(json.dumps({"write": {"/a": info}, "read": {"/b": [info], "/c": [info]}}))
    assert locks.running_commands(root) == f"process {os.getpid()}: dvc repro"
    before = lock_file.stat().st_mtime_ns
    assert locks.running_commands(root) and lock_file.stat().st_mtime_ns == before

    os.utime(lock_file, (1e9, 1e9))
    assert locks.running_commands(root) == ""
    assert json.loads(lock_file.read_text()) == {"write": {}, "read": {}}, "otherwise DVC would wait forever"

    lock_file.write_text('{"write": {"/a": {"pi')
    assert locks.running_commands(root) == ""
    assert json.loads(lock_file.read_text()) == {"write": {}, "read": {}}, "otherwise DVC would fail"


def test_the_error_of_a_busy_repository_names_the_processes() -> None:
    parser = OutputParser()
    for line in (
        "\x1b[31mERROR\x1b[39m: '/a/first' is busy, it is being blocked by:",
        "  (PID 12): dvc repro",
        "  (PID 34): dvc exp run",
        "If there are no processes with such PIDs, you can manually remove '/a/rwlock' and try again.",
    ):
        parser.add(line)
    assert parser.error == "'/a/first' is busy, it is being blocked by: (PID 12): dvc repro (PID 34): dvc exp run"


@pytest.mark.slow
def test_the_error_of_a_failed_push_gives_the_reason(root: Path) -> None:
    dvc.configure_store(root, f"file://{root / 'source' / 'store'}")
    workspace = Workspace(root)
    workspace.reproduce()
    workspace.save("trial")
    with pytest.raises(dvc.StoreError, match=r"^the store .*source/store cannot be written to: .*Not a directory"):
        workspace.push("first")
    with pytest.raises(dvc.DvcError, match=r"^git push: fatal: '.*nowhere' does not appear to be a git repository"):
        workspace.push_reference("trial", str(root / "nowhere"))


@pytest.mark.slow
def test_a_temporary_workspace_is_separate_and_its_experiments_are_saved(root: Path) -> None:
    Workspace(root).reproduce("first")
    assert (root / "ran").read_text() == "first\n"
    with dvc.temporary_workspace(root, "trial") as workspace:
        temporary_root = workspace.root
        assert workspace.reproduce("first") == {"first": Outcome.RESTORED}
        (temporary_root / "params.yaml").write_text("seed: 5\n")
        workspace.reproduce()
        workspace.save("trial")
        dvc.configure_store(temporary_root, f"file://{root.parent / 'remote'}")
        workspace.push()
    assert not temporary_root.exists()
    assert (root / "ran").read_text() == "first\nfirst\n", "DVC_ROOT is the original root"
    assert (root / "params.yaml").read_text() == "seed: 0\n"
    assert list(dvc.experiment_commits(root)) == ["trial"]
    assert dvc.Snapshot(root, "trial").read("params.yaml") == b"seed: 5\n"
    assert dvc.Snapshot(root, "trial").read("last") == b"source\nsource\nright\n"
    with pytest.raises(dvc.DvcError, match="HEAD has no last"):
        dvc.Snapshot(root, "HEAD").read("last")
    assert dvc.changed_files(root) == {"dvc.lock"}

    bare = root.parent / "bare.git"
    fake_project.git(root, "init", "--quiet", "--bare", str(bare))
    Workspace(root).push_reference("trial", str(bare))
    other = clone(root, root.parent / "other")
    dvc.configure_store(other, f"file://{root.parent / 'remote'}")
    (other / "params.yaml").write_text("seed: 5\n")
    assert set(Workspace(other).reproduce().values()) == {Outcome.RESTORED}, "its run cache was pushed too"
    assert list(dvc.experiment_commits(bare)) == ["trial"]


@pytest.mark.slow
def test_a_project_in_a_subfolder_of_a_repository_runs_and_its_experiments_are_read(tmp_path: Path) -> None:
    top = tmp_path / "repository"
    root = make(top / "my  project ")
    (root / ".git").rename(top / ".git")
    (top / "other").write_text("of another project\n")
    fake_project.git(top, "add", "--all")
    fake_project.git(top, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "moved")
    workspace = Workspace(root)
    assert set(workspace.reproduce().values()) == {Outcome.RAN}
    workspace.save("here")
    with dvc.temporary_workspace(root, "trial") as temporary:
        assert set(temporary.reproduce().values()) == {Outcome.RESTORED}
        (temporary.root / "params.yaml").write_text("seed: 5\n")
        assert temporary.reproduce()["first"] == Outcome.RAN
        temporary.save("there")
        dvc.configure_store(temporary.root, f"file://{tmp_path / 'remote'}")
        temporary.push()
    assert (root / "ran").read_text() == "first\nfirst\n", "DVC_ROOT is the project's root and not Git's top"
    for name, seed in (("here", b"seed: 0\n"), ("there", b"seed: 5\n")):
        assert dvc.Snapshot(root, name).read("params.yaml") == seed
        assert dvc.Snapshot(root, name).read("last") == b"source\nsource\nright\n"

    bare = tmp_path / "bare.git"
    fake_project.git(root, "init", "--quiet", "--bare", str(bare))
    workspace.push_reference("there", str(bare))
    other = clone(top, tmp_path / "other") / "my  project "
    dvc.configure_store(other, f"file://{tmp_path / 'remote'}")
    fake_project.git(other, "remote", "set-url", "origin", str(bare))
    dvc.fetch_experiments(other, "there")
    assert dvc.Snapshot(other, "there").read("last") == b"source\nsource\nright\n", "read from the store"
    assert set(Workspace(other).reproduce().values()) == {Outcome.RESTORED}
