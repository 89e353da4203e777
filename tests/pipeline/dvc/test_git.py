"""The Git repository of a project: one of another user, and the checkouts of temporary workspaces."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import dvc
from pipeline.__main__ import main
from pipeline.dvc.git import check_out, describe_refusal, run_git
from tests import fake_project
from tests.settings import ROOT

NOBODY = 65534
AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@localhost")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, on a machine without Git settings."""
    root = tmp_path / "my  project"
    root.mkdir()
    fake_project.write(root)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.chdir(root)
    return root


def refusal(folder: Path) -> str:
    return (
        "Git refuses this repository, because another user owns it. If you trust its files, run: "
        f"git config --global --add safe.directory '{folder}'"
    )


@pytest.mark.parametrize("command", ["run", "verify", "compare", "serve"])
def test_git_s_remedy_for_a_repository_of_another_user_is_passed_on(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert main([command]) == 1
    assert capfd.readouterr() == ("", f"error: {refusal(root)}\n")


def test_doctor_passes_on_git_s_remedy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.doctor import check_git

    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(dvc.DvcError) as caught:
        check_git(root)
    assert str(caught.value) == refusal(root)


READS: list[Callable[[Path], object]] = [
    dvc.has_origin,
    dvc.changed_files,
    dvc.list_experiments,
    lambda root: dvc.read_committed(root, "params.yaml"),
    lambda root: dvc.resolve_commit(root, "HEAD"),
]


@pytest.mark.parametrize("read", READS)
def test_no_git_command_takes_a_refusal_for_an_answer(
    root: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(dvc.DvcError) as caught:
        read(root)
    assert str(caught.value) == refusal(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_a_repository_that_only_the_library_of_dvc_refuses_is_refused_before_a_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC calls this library when it saves a run, hours later. It does not read Git's environment variables."""
    give_to_another_user(root)
    for name, value in (("COUNT", "1"), ("KEY_0", "safe.directory"), ("VALUE_0", "*")):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    fake_project.git(root, "status")

    def compare() -> str:
        """The error in a process of its own: the library reads Git's settings and the home folder once."""
        command = [sys.executable, "-m", "pipeline", "compare", "HEAD"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 1
        return result.stderr

    assert compare() == f"error: {refusal(root)}\n"
    subprocess.run(refusal(root).partition("run: ")[2], shell=True, check=True)
    assert compare().startswith("error: HEAD has no reports/")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_a_trusted_repository_of_another_user_has_temporary_workspaces(root: Path) -> None:
    give_to_another_user(root)
    fake_project.git(root, "config", "--global", "--add", "safe.directory", str(root))
    with dvc.temporary_workspace(root, "trial") as workspace:
        save_experiment(workspace.root)
    assert list(dvc.experiment_commits(root)) == ["trial"]


def give_to_another_user(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def save_experiment(checkout: Path) -> None:
    """Save an experiment of the last commit, as DVC would."""
    head = fake_project.git(checkout, "rev-parse", "HEAD").strip()
    commit = fake_project.git(checkout, *AUTHOR, "commit-tree", f"{head}^{{tree}}", "-p", head, "-m", "trial").strip()
    fake_project.git(checkout, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/trial", commit)


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("\tgit config --global --add safe.directory /srv/project\n", "/srv/project"),
        ("zu\n\n\tgit config --global --add safe.directory '/srv/my project'\n", "'/srv/my project'"),
        ("unexpected error - /a/.git/: repository path '/a' is not owned by current user", "/a"),
        ("/a b/.git/: repository path '/a b/' is not owned by current user", "'/a b'"),
        ("fatal: not a git repository (or any of the parent directories): .git", None),
        ("", None),
    ],
)
def test_a_refusal_is_recognised_in_any_language_and_from_both_programs(text: str, folder: str | None) -> None:
    message = describe_refusal(text)
    if folder is None:
        assert message is None
    else:
        assert message is not None and message.endswith(f"run: git config --global --add safe.directory {folder}")


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        ("exit 0", None),
        ("exit 1", r"git push: ! \[remote rejected\] main -> main \(pre-receive hook declined\)"),
        (
            "echo 'main is protected' >&2; exit 1",
            r"git push: remote: main is protected; ! \[remote rejected\] main -> main \(pre-receive hook declined\)",
        ),
    ],
)
def test_the_error_of_a_push_is_git_s_reason(root: Path, tmp_path: Path, hook: str, reason: str | None) -> None:
    bare = tmp_path / "bare.git"
    fake_project.git(root, "init", "--quiet", "--bare", str(bare))
    (bare / "hooks").mkdir(exist_ok=True)
    (bare / "hooks" / "pre-receive").write_text(f"#!/bin/sh\n{hook}\n")
    (bare / "hooks" / "pre-receive").chmod(0o755)
    fake_project.git(root, "branch", "--move", "main")
    if reason is None:
        run_git(root, "push", str(bare), "main")
        return
    with pytest.raises(dvc.DvcError, match=f"^{reason}$"):
        run_git(root, "push", str(bare), "main")
    with pytest.raises(
        dvc.DvcError, match=r"^git push: fatal: '/nowhere' does not appear to be a git repository; fatal: "
    ):
        run_git(root, "push", "/nowhere", "main")


@pytest.mark.parametrize("kind", ["shallow", "worktree", "borrowing"])
def test_a_checkout_is_made_from_every_kind_of_clone(root: Path, tmp_path: Path, kind: str) -> None:
    """A worker's clone is shallow. A clone made with --shared reads the objects of another one."""
    fake_project.git(root, *AUTHOR, "commit", "--quiet", "--allow-empty", "--message", "next")
    clone = tmp_path / "a clone"
    match kind:
        case "shallow":
            fake_project.git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{root}", str(clone))
        case "worktree":
            fake_project.git(root, "worktree", "add", "--quiet", "--detach", str(clone))
        case "borrowing":
            fake_project.git(tmp_path, "clone", "--quiet", "--shared", str(root), str(clone))
    with dvc.temporary_workspace(clone, "trial") as workspace:
        assert fake_project.git(workspace.root, "status", "--porcelain", "--untracked-files=all") == ""
        history = fake_project.git(workspace.root, "log", "--format=%s").split()
        assert history == (["next"] if kind == "shallow" else ["next", "start"])
        save_experiment(workspace.root)
    assert list(dvc.experiment_commits(clone)) == ["trial"]
    fake_project.git(clone, "fsck", "--no-dangling")


def test_a_checkout_has_the_files_of_its_commit(root: Path, tmp_path: Path) -> None:
    first = fake_project.git(root, "rev-parse", "HEAD").strip()
    (root / "params.yaml").write_text("seed: 1\n")
    fake_project.git(root, *AUTHOR, "commit", "--quiet", "--all", "--message", "next")
    check_out(root, first, tmp_path / "first")
    assert (tmp_path / "first" / "params.yaml").read_text() != "seed: 1\n"
    assert fake_project.git(tmp_path / "first", "rev-parse", "HEAD").strip() == first
