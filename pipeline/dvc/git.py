"""Git commands: the project's root, committed files and revisions."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pipeline.dvc.errors import DvcError

NO_PROMPT = {"GIT_TERMINAL_PROMPT": "0"}  # fail instead of asking for a password: a run may be unattended


def project_root(start: Path) -> Path:
    """The nearest folder with a dvc.yaml: `start` or one of its parents. Raises `DvcError` if there is none."""
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise DvcError(f"{start} is not in a copy of the project: no dvc.yaml here or above")


def find_root(start: Path) -> Path:
    """The project's root.

    Raises:
      DvcError: it is not in a Git repository with a commit, in which DVC saves runs, or the repository is refused.
    """
    root = project_root(start)
    result = git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if result.returncode:
        reason = result.stderr.partition("\n")[0] or "no commit yet"
        raise DvcError(
            f"{root} is not a Git repository with a commit ({reason}), and DVC saves runs in one: "
            "clone the project with Git, or run: git init && git add . && git commit -m start"
        )
    _check_owner(root)
    return root


def _check_owner(root: Path) -> None:
    """Raise `DvcError` if the library with which DVC saves runs refuses the repository of another user.

    It does not read the environment variables in which Git may have been told to trust it, and DVC calls it at the end
    of a run.
    """
    import pygit2

    try:
        pygit2.Repository(str(root))
    except pygit2.GitError as error:
        if message := describe_refusal(str(error)):
            raise DvcError(message) from None


def describe_refusal(text: str) -> str | None:
    """What to do if `text` says that a repository is refused because another user owns it; None if it does not.

    Args:
      text: what Git, or the library that DVC uses, has printed.
    """
    if match := re.search(r"git config --global --add safe\.directory .+", text):  # in any language
        command = match[0]
    elif match := re.search(r"repository path '(.+)' is not owned by current user", text):
        command = f"git config --global --add safe.directory {shlex.quote(match[1].rstrip('/'))}"
    else:
        return None
    return f"Git refuses this repository, because another user owns it. If you trust its files, run: {command}"


def folder_in_git(root: Path) -> str:
    """The path of the project's root below Git's top: empty if they are the same folder, or with a slash at its end."""
    return run_git(root, "rev-parse", "--show-prefix").removesuffix("\n")


def read_committed(root: Path, path: str, commit: str = "HEAD") -> str:
    """The text of a file in a commit: by default, in the last one. Raises `DvcError` if it is not there."""
    result = git(root, "show", f"{commit}:./{path}")
    if result.returncode:
        raise DvcError(
            f"{path} is not committed in {root}: commit it, because a profile is applied to the committed version"
        )
    return result.stdout


def resolve_commit(root: Path, revision: str) -> str:
    """The hash of the commit that a revision or an experiment names. Raises `DvcError` if there is none."""
    result = git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if result.returncode:
        raise DvcError(f"{revision} is not an experiment or a revision here; `dvc exp show` lists the experiments")
    return result.stdout.strip()


def check_out(root: Path, commit: str, target: Path) -> None:
    """Make a repository at `target` that reads the objects of the one at `root`, and check a commit out in it.

    `git clone` would not do: it refuses the repository of another user even if Git trusts its folder.
    """
    run_git(root, "init", "--quiet", str(target))
    source = root / run_git(root, "rev-parse", "--git-common-dir").removesuffix("\n")
    (target / ".git" / "objects" / "info" / "alternates").write_bytes(os.fsencode(source.resolve() / "objects") + b"\n")
    if (source / "shallow").exists():  # the commits whose parents are missing
        shutil.copy(source / "shallow", target / ".git" / "shallow")
    run_git(target, "checkout", "--quiet", "--detach", commit)


def has_origin(root: Path) -> bool:
    """Whether the repository has a Git remote `origin`, to which experiments can be pushed."""
    return git(root, "remote", "get-url", "origin").returncode == 0


def changed_files(root: Path) -> set[str]:
    """The files of the project that differ from the last commit or are not in it, except for those that Git ignores."""
    added = run_git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")
    changed = run_git(root, "diff", "--name-only", "--relative", "-z", "HEAD", "--", ".")
    return {path for path in (added + changed).split("\0") if path}


def git(root: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a Git command in `root`, whatever its exit code, with additional environment variables.

    Raises:
      DvcError: Git is not installed, or it refuses a repository because another user owns it.
    """
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments],
            env={**os.environ, **NO_PROMPT, **(variables or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise DvcError("git is not installed, and DVC saves runs in a Git repository") from None
    if result.returncode and (refusal := describe_refusal(result.stderr)):
        raise DvcError(refusal)
    return result


def run_git(root: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> str:
    """Run a Git command as `git` does, and return its output. Raises `DvcError` if it fails."""
    result = git(root, *arguments, variables=variables)
    if result.returncode:
        raise DvcError(f"git {arguments[0]}: {_reason(result.stderr)}")
    return result.stdout


def _reason(stderr: str) -> str:
    """Why a Git command failed, in one line. Git often says so above its last line, which is about the consequences."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    reasons = [line for line in lines if re.match(r"fatal: |remote: |! \[", line)]
    return "; ".join(" ".join(line.split()) for line in reasons or lines[-1:]) or "failed"
