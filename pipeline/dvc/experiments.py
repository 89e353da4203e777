"""The experiments in a repository: the runs that DVC has saved as Git references under `refs/exps`."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.dvc.git import git, resolve_commit, run_git
from pipeline.dvc.locks import config_lock

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


def fetch_experiments(root: Path, name: str) -> None:
    """Fetch from `origin` the experiments with this name that are missing here; `*` in the name matches any text."""
    with config_lock(root):
        remote_refs = run_git(root, "ls-remote", "origin", f"{EXPERIMENT_REFS}/*/*/{name}").split()[1::2]
        local_refs = run_git(root, "for-each-ref", "--format=%(refname)", EXPERIMENT_REFS).split()
        if missing := sorted(set(remote_refs).difference(local_refs)):
            refspecs = [f"{reference}:{reference}" for reference in missing]
            run_git(root, "fetch", "--quiet", "--no-tags", "origin", *refspecs)
