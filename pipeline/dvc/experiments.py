"""TODO"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.dvc.git import git, resolve_commit, run_git
from pipeline.dvc.locks import config_lock

EXPERIMENT_REFS = "refs/exps"


@dataclass(frozen=True)
class Experiment:
    """A run that is kept.

    Attributes:
      baseline: the commit that it was made from.
      commit: the commit that it is.
    """

    name: str
    baseline: str
    commit: str


def experiment_commits(root: Path, baseline: str | None = None) -> dict[str, str]:
    """The commits of the kept experiments, or of those made from a revision, by name; of two with one name, the last.

    The first made comes first.
    """
    made_from = None if baseline is None else resolve_commit(root, baseline)
    return {one.name: one.commit for one in list_experiments(root) if made_from in (None, one.baseline)}


def list_experiments(root: Path) -> list[Experiment]:
    """The kept experiments, the first made first. Those made from different commits may share a name."""
    form = "%(refname:lstrip=2) %(objectname)"
    listed = git(root, "for-each-ref", "--sort=creatordate", f"--format={form}", f"{EXPERIMENT_REFS}/*/*/*").stdout
    found = []
    for line in listed.splitlines():
        reference, _, there = line.rpartition(" ")
        two, rest, name = reference.split("/", 2)
        found.append(Experiment(name, baseline=two + rest, commit=there))
    return found


def fetch_experiments(root: Path, name: str) -> None:
    """Bring the experiments of one name, in which `*` is any part, that `origin` has and this repository has not."""
    with config_lock(root):
        listed = run_git(root, "ls-remote", "origin", f"{EXPERIMENT_REFS}/*/*/{name}").split()[1::2]
        here = run_git(root, "for-each-ref", "--format=%(refname)", EXPERIMENT_REFS).split()
        if missing := sorted(set(listed).difference(here)):
            references = [f"{reference}:{reference}" for reference in missing]
            run_git(root, "fetch", "--quiet", "--no-tags", "origin", *references)
