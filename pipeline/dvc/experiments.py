"""The experiments in a repository: the runs that DVC has saved as Git references under `refs/exps`."""

import contextlib
import functools
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dvc.errors import DvcError, NoSuchFile
from pipeline.dvc.git import describe_refusal, folder_in_git, git, resolve_commit, run_git
from pipeline.dvc.locks import config_lock
from pipeline.dvc.repository import LOCK_FILE, read_dvc_yaml, without_progress_bars
from stages.common import files
from stages.common.errors import describe_os_error, one_line

EXPERIMENT_REFS = "refs/exps"


@dataclass(frozen=True)
class Experiment:
    """A run saved by DVC.

    Attributes:
      name: the name it was saved under; experiments of different baselines may share one.
      baseline: the commit it was made from.
      commit: the commit that holds its files.
    """

    name: str
    baseline: str
    commit: str


def experiment_commits(root: Path, baseline: str | None = None) -> dict[str, str]:
    """The commit of each experiment by name, oldest first. If several share a name, the newest is returned.

    Args:
      root: the root of the repository.
      baseline: a revision; only experiments made from it are returned. None for all.
    """
    made_from = None if baseline is None else resolve_commit(root, baseline)
    return {
        experiment.name: experiment.commit
        for experiment in list_experiments(root)
        if made_from in (None, experiment.baseline)
    }


def list_experiments(root: Path) -> list[Experiment]:
    """All experiments, oldest first. Those made from different commits may share a name."""
    fields = "%(refname:lstrip=2) %(objectname)"
    listed = git(root, "for-each-ref", "--sort=creatordate", f"--format={fields}", f"{EXPERIMENT_REFS}/*/*/*").stdout
    experiments = []
    for line in listed.splitlines():
        reference, _, commit = line.rpartition(" ")
        first_two_digits, other_digits, name = reference.split("/", 2)
        experiments.append(Experiment(name, baseline=first_two_digits + other_digits, commit=commit))
    return experiments


def save_experiment(root: Path, name: str, variables: Mapping[str, str]) -> None:
    """Save the files that Git tracks, as they are, as the experiment `name` of the current commit.

    `dvc exp save` would do the same, but it stashes the changes and detaches HEAD meanwhile: a kill at that moment
    leaves the checkout so. This function writes the commit through an index of its own, and the last thing it does is
    to set the reference. An experiment of this name is replaced.

    Args:
      root: the root of the repository. No other run may be active in it.
      name: the experiment.
      variables: additional environment variables, such as the author of the commit.
    """
    baseline = run_git(root, "rev-parse", "HEAD").strip()
    reference = f"{EXPERIMENT_REFS}/{baseline[:2]}/{baseline[2:]}/{name}"
    with files.temporary_folder(root / ".dvc" / "tmp", prefix="save-", stale="save-*") as folder:
        index = folder / "index"
        shutil.copy(root / run_git(root, "rev-parse", "--git-path", "index").strip(), index)
        variables = {**variables, "GIT_INDEX_FILE": str(index)}
        run_git(root, "add", "--update", "--", ":/", variables=variables)
        run_git(root, "add", "--force", "--", LOCK_FILE, variables=variables)
        tree = run_git(root, "write-tree", variables=variables).strip()
        message = f"Save the run {name}"
        commit = run_git(root, "commit-tree", tree, "-p", baseline, "-m", message, variables=variables).strip()
    lock = root / run_git(root, "rev-parse", "--git-path", f"{reference}.lock").strip()
    lock.unlink(missing_ok=True)  # left by a Git that was killed; only runs set this reference, and no other is active
    run_git(root, "update-ref", reference, commit)


def fetch_experiments(root: Path, name: str) -> None:
    """Fetch from `origin` the experiments with this name that are missing here; `*` in the name matches any text."""
    with config_lock(root):
        remote_refs = run_git(root, "ls-remote", "origin", f"{EXPERIMENT_REFS}/*/*/{name}").split()[1::2]
        local_refs = run_git(root, "for-each-ref", "--format=%(refname)", EXPERIMENT_REFS).split()
        if missing := sorted(set(remote_refs).difference(local_refs)):
            refspecs = [f"{reference}:{reference}" for reference in missing]
            run_git(root, "fetch", "--quiet", "--no-tags", "origin", *refspecs)


def metrics(root: Path, revision: str | None = None) -> dict[str, Any]:
    """The contents of all metrics files in dvc.yaml, merged; files that are missing or not in the cache are skipped.

    Args:
      root: the root of the repository.
      revision: a revision or an experiment; None for the workspace.

    Raises:
      DvcError: the revision does not exist, or a file in it cannot be read.
    """
    snapshot = Snapshot(root, revision)
    values: dict[str, Any] = {}
    for path in read_dvc_yaml(root).get("metrics", []):
        with contextlib.suppress(NoSuchFile):
            content = snapshot.read(path)
            try:
                values |= json.loads(content)
            except (TypeError, ValueError):
                raise DvcError(f"{path} of {snapshot.name} does not hold metrics") from None
    return values


class Snapshot:
    """The files of a revision, an experiment or the workspace, whether Git or DVC tracks them.

    Its methods raise `NoSuchFile` if the file does not exist, or DVC tracks it and the cache lacks it, and another
    `DvcError` if the revision does not exist or cannot be read.

    Args:
      root: the root of the project; Git's top may be above it.
      revision: a revision or an experiment; None for the workspace.

    Attributes:
      name: the revision, for people.
    """

    def __init__(self, root: Path, revision: str | None) -> None:
        self.name = revision or "the workspace"
        self._root = root
        self._revision = revision

    @functools.cached_property
    def _files(self) -> Any:
        from dvc.api import DVCFileSystem
        from dvc.fs import GitFileSystem
        from dvc.repo import Repo
        from dvc.scm import SCM

        if self._revision is None:
            return DVCFileSystem(str(self._root))
        # With `rev`, DVCFileSystem would count paths from Git's top, and know no outputs of a project below it.
        scm = SCM(str(self._root))
        folder = f"/{folder_in_git(self._root)}"
        with Repo(folder, fs=GitFileSystem(scm=scm, rev=self._revision), scm=scm, uninitialized=True) as repository:
            return DVCFileSystem(repository)

    def list(self, folder: str) -> list[str]:
        """The sorted paths of the files in a folder."""
        with self._translate_errors(folder):
            return sorted(str(path) for path in self._files.ls(folder, detail=False))

    def read(self, path: str) -> bytes:
        """The bytes of a file."""
        with self._translate_errors(path):
            return bytes(self._files.read_bytes(path))

    def read_text(self, path: str) -> str:
        """The text of a file in UTF-8."""
        try:
            return self.read(path).decode("utf-8")
        except UnicodeDecodeError:
            raise DvcError(f"{path} of {self.name} is not a text in UTF-8") from None

    @contextlib.contextmanager
    def _translate_errors(self, path: str) -> Iterator[None]:
        from dvc.scm import RevError

        try:
            with without_progress_bars():
                yield
        except RevError as error:
            raise DvcError(str(error)) from None
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchFile(
                f"{self.name} has no {path}, or it is not in DVC's cache: apply and run the experiment, or fetch the "
                "file with dvc fetch or dvc exp pull"
            ) from None
        except DvcError:
            raise
        except Exception as error:  # those of DVC, of Git's libraries and of each kind of remote
            reason = describe_os_error(error) if isinstance(error, OSError) else str(error) or type(error).__name__
            message = describe_refusal(reason) or f"{path} of {self.name} cannot be read: {one_line(reason, 500)}"
            raise DvcError(message) from None
