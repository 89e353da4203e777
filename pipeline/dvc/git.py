"""TODO"""

import os
import subprocess
from pathlib import Path

from pipeline.dvc.errors import DvcError

NO_PROMPT = {"GIT_TERMINAL_PROMPT": "0"}  # Git fails where it would ask for a password: nobody may be there to answer


def project_root(start: Path) -> Path:
    """The nearest folder with a dvc.yaml, from `start` upwards."""
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise DvcError(f"{start} is in no copy of the project: no dvc.yaml here or above")


def find_root(start: Path) -> Path:
    """The project's root, as `project_root`, which must be in a Git repository with a commit: DVC saves runs in one."""
    root = project_root(start)
    found = git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if found.returncode:
        reason = found.stderr.partition("\n")[0] or "no commit yet"
        raise DvcError(
            f"{root} is not a Git repository with a commit ({reason}), and DVC keeps its runs in one: "
            "clone the project with Git, or here: git init && git add . && git commit -m start"
        )
    return root


def read_committed(root: Path, path: str) -> str:
    """The text of a file of the repository as last committed."""
    shown = git(root, "show", f"HEAD:./{path}")
    if shown.returncode:
        raise DvcError(f"{path} is not in the last commit of {root}; a profile changes the committed one")
    return shown.stdout


def resolve_commit(root: Path, revision: str) -> str:
    """The commit that a revision is."""
    found = git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if found.returncode:
        raise DvcError(f"{revision} is no experiment and no revision here; `dvc exp show` lists what there is")
    return found.stdout.strip()


def has_origin(root: Path) -> bool:
    """Whether the repository was cloned from one that experiments can be sent to."""
    return git(root, "remote", "get-url", "origin").returncode == 0


def is_committed(root: Path, *except_for: str) -> bool:
    """Whether the files that Git keeps are as last committed, those named left aside."""
    apart = [f":(exclude){path}" for path in except_for]
    return not git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *apart).stdout.strip()


def git(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments],
            env=os.environ | NO_PROMPT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise DvcError("git is not installed, and DVC keeps its runs in a Git repository") from None


def run_git(root: Path, *arguments: str) -> str:
    done = git(root, *arguments)
    if done.returncode:
        raise DvcError(f"git {arguments[0]}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return done.stdout
