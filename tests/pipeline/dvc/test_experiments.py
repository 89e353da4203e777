"""The files and metrics of revisions, in a project that is Git's top folder or one of its subfolders."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from pipeline import dvc
from tests import fake_project
from tests.settings import ROOT

METRICS = {"bits": 1.5, "group": {"ink": 0.25}}


@pytest.fixture(params=["", "my  project ", "work/é/project"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A project with a committed run: metrics.json and the folder `sheets` are outputs, and only in DVC's cache."""
    root = tmp_path / "repository" / str(request.param)
    root.mkdir(parents=True)
    fake_project.git(tmp_path / "repository", "init", "--quiet")
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    stage = {"cmd": "true", "outs": ["metrics.json", "sheets"]}
    (root / "dvc.yaml").write_text(json.dumps({"stages": {"all": stage}, "metrics": ["metrics.json"]}))
    (root / "params.yaml").write_text("seed: 0\n")
    save_run(root, json.dumps(METRICS))
    return root


def save_run(root: Path, metrics: str) -> None:
    """Commit a run with these metrics, as DVC would record it."""
    sheets = json.dumps([{"md5": cache(root, "a bee"), "relpath": "bee.png"}])
    outs = [
        {"path": "metrics.json", "hash": "md5", "md5": cache(root, metrics)},
        {"path": "sheets", "hash": "md5", "md5": cache(root, sheets, ".dir"), "nfiles": 1},
    ]
    lock = {"schema": "2.0", "stages": {"all": {"cmd": "true", "outs": outs}}}
    (root / "dvc.lock").write_text(json.dumps(lock))
    commit(root)


def cache(root: Path, text: str, suffix: str = "") -> str:
    """Add a file to DVC's cache, and return its name in dvc.lock."""
    digest = hashlib.md5(text.encode()).hexdigest() + suffix
    path = root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return digest


def commit(root: Path) -> None:
    fake_project.git(root, "add", "--all")
    fake_project.git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "a run")


def test_the_files_of_a_revision_are_those_of_git_and_of_dvc(root: Path) -> None:
    (root / "params.yaml").write_text("seed: 1\n")
    save_run(root, json.dumps({"bits": 2.5}))
    assert dvc.metrics(root, "HEAD^") == METRICS
    assert dvc.metrics(root, "HEAD") == {"bits": 2.5}
    snapshot = dvc.Snapshot(root, "HEAD^")
    assert snapshot.read("params.yaml") == b"seed: 0\n"
    assert snapshot.list("sheets") == ["sheets/bee.png"]
    assert snapshot.read("sheets/bee.png") == b"a bee"


def test_a_file_that_a_revision_or_the_cache_lacks_is_missing(root: Path) -> None:
    snapshot = dvc.Snapshot(root, "HEAD")
    for missing in ("nothing", "sheets/cat.png", "params.yaml/nothing"):
        with pytest.raises(dvc.NoSuchFile, match=f"^HEAD has no {missing}, or it is not in DVC's cache: "):
            snapshot.read(missing)
    with pytest.raises(dvc.NoSuchFile, match="HEAD has no nothing"):
        snapshot.list("nothing")
    shutil.rmtree(root / ".dvc" / "cache")
    assert dvc.metrics(root, "HEAD") == {}
    with pytest.raises(dvc.NoSuchFile, match="exp pull"):
        dvc.Snapshot(root, "HEAD").read("metrics.json")


def test_a_revision_from_before_the_project_has_no_metrics(root: Path) -> None:
    fake_project.git(root, "checkout", "--quiet", "--orphan", "empty")
    fake_project.git(root, "rm", "-r", "--quiet", "--cached", ".")
    fake_project.git(
        root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "--message", "empty"
    )
    assert dvc.metrics(root, "HEAD") == {}
    with pytest.raises(dvc.NoSuchFile, match=r"HEAD has no params\.yaml"):
        dvc.Snapshot(root, "HEAD").read("params.yaml")


@pytest.mark.parametrize("name", ["dvc.lock", "dvc.yaml"])
def test_a_revision_that_dvc_cannot_read_is_an_error_and_not_one_without_metrics(root: Path, name: str) -> None:
    original = (root / name).read_text()
    (root / name).write_text(f"<<<<<<< ours\n{original}\n=======\n")
    commit(root)
    (root / name).write_text(original)
    with pytest.raises(dvc.DvcError, match=rf"metrics\.json of HEAD cannot be read: .*{name}") as caught:
        dvc.metrics(root, "HEAD")
    assert not isinstance(caught.value, dvc.NoSuchFile)
    assert dvc.metrics(root, "HEAD^") == METRICS


def test_an_unknown_revision_is_an_error_and_not_one_without_metrics(root: Path) -> None:
    with pytest.raises(dvc.DvcError, match=r"^unknown Git revision 'none'$"):
        dvc.metrics(root, "none")


@pytest.mark.parametrize("text", ['{"bits": 1', "[1, 2]", "\0"])
def test_metrics_that_are_no_json_object_are_an_error(root: Path, text: str) -> None:
    save_run(root, text)
    with pytest.raises(dvc.DvcError, match=r"^metrics\.json of HEAD does not hold metrics$"):
        dvc.metrics(root, "HEAD")


def test_a_damaged_list_of_a_folder_in_the_cache_is_an_error(root: Path) -> None:
    [listed] = (root / ".dvc" / "cache").rglob("*.dir")
    listed.write_text("[{")
    with pytest.raises(dvc.DvcError, match=r"^sheets/bee\.png of HEAD cannot be read: ") as caught:
        dvc.Snapshot(root, "HEAD").read("sheets/bee.png")
    assert not isinstance(caught.value, dvc.NoSuchFile)


def test_a_file_that_is_no_text_is_an_error(root: Path) -> None:
    (root / "params.yaml").write_bytes(b"seed: \xff\n")
    with pytest.raises(dvc.DvcError, match=r"^params\.yaml of the workspace is not a text in UTF-8$"):
        dvc.Snapshot(root, None).read_text("params.yaml")


def test_a_temporary_workspace_is_the_project_in_its_clone(root: Path) -> None:
    with dvc.temporary_workspace(root, "trial") as workspace:
        assert workspace.root != root
        assert (workspace.root / "params.yaml").read_text() == "seed: 0\n"
        assert dvc.cache_folder(workspace.root) == dvc.cache_folder(root)
        assert dvc.metrics(workspace.root, "HEAD") == METRICS
    assert not workspace.root.exists()


def test_a_store_may_have_any_name(root: Path, tmp_path: Path) -> None:
    dvc.configure_store(root, str(tmp_path / "café"))
    assert dvc.cache_folder(root) == tmp_path / "café"
    with dvc.temporary_workspace(root, "trial") as workspace:
        assert dvc.cache_folder(workspace.root) == dvc.cache_folder(root)
