"""DVC, called the way a person calls it. Nothing else in the project starts DVC or reads what it keeps.

What DVC does, it does as a child process whose lines are read as they come; what it knows (the graph, what would run,
the files of an experiment) is read through its Python API. Every child ends with all that it started: DVC alone would
leave the stage that it runs, and that stage's GPU, behind when it is stopped.
"""

import contextlib
import enum
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.dvc.cache import repair_cache, repairing, share_cache
from pipeline.dvc.errors import DvcError, OutOfTime
from pipeline.dvc.experiments import EXPERIMENT_REFS, experiment_commits
from pipeline.dvc.git import NO_PROMPT, git, run_git
from pipeline.dvc.repository import remote
from pipeline.subprocesses.supervisor import LineCallback, Supervisor, TimedOut
from stages.common import files


class Outcome(str, enum.Enum):
    """What DVC did for a stage."""

    RAN = "Ran"
    RESTORED = "Restored"  # it had run before, here or elsewhere: its outputs came from a cache
    UNCHANGED = "Unchanged"  # its outputs were at hand


def environment(root: Path) -> dict[str, str]:
    """The environment of DVC: the `python` of a stage is this one, and a run can be kept without a Git identity."""
    variables = dict(os.environ)
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)])
    variables["PYTHONUNBUFFERED"] = "1"  # a line of a stage is seen when it is written
    variables |= NO_PROMPT
    if git(root, "config", "user.name").returncode or git(root, "config", "user.email").returncode:
        for role in ("AUTHOR", "COMMITTER"):
            variables.setdefault(f"GIT_{role}_NAME", "quickdraw-pixelcnn")
            variables.setdefault(f"GIT_{role}_EMAIL", "quickdraw-pixelcnn@localhost")
    return variables


class Workspace:
    """A checkout in which DVC runs stages; one run at a time.

    Args:
      root: the root of the repository.
      variables: environment variables for the stages, beside those of this process.
      cache_of: the checkout whose cache this one uses, and which knows what of it was read before; else its own.
    """

    def __init__(self, root: Path, variables: Mapping[str, str] | None = None, cache_of: Path | None = None) -> None:
        self.root = root
        self._variables = variables or {}
        self._cache_of = cache_of or root
        self._processes = Supervisor()
        self._checked = False

    def stop(self) -> None:
        """End what runs here with all that it started, for good. May be called from any thread; does not wait."""
        self._processes.stop()

    def wait(self) -> None:
        """Wait until nothing runs here."""
        self._processes.wait()

    def pause(self, seconds: float) -> None:
        """Do nothing for a while. Raises `processes.Stopped` after `stop`."""
        self._processes.pause(seconds)

    def reproduce(
        self,
        stage: str | None = None,
        *,
        line: LineCallback = lambda _: None,
        echo: bool = False,
        seconds: float | None = None,
    ) -> dict[str, Outcome]:
        """Bring one stage up to date, or all in their order, and return what DVC did for each.

        Where a remote is configured, what has run elsewhere is taken from there. What is damaged in the cache is taken
        from nowhere.

        Args:
          line: called with each line that DVC and the stages print.
          echo: whether to pass them on to this process's own output and errors as well.
          seconds: how long it may take.

        Raises:
          DvcError: where a stage fails; the message is DVC's own line, and the stage's last error.
          OutOfTime: after `seconds`.
          processes.Stopped: after `stop`.
        """
        words = ["repro"]
        if remote(self.root):
            words.append("--pull")
        if stage is not None:
            words += ["--single-item", stage]
        report = OutputParser()

        def both(text: str) -> None:
            report.add(text)
            line(text)

        with repairing:
            for text in [] if self._checked else repair_cache(self._cache_of):
                line(text)
                if echo:
                    print(text, file=sys.stderr, flush=True)
            self._checked = True
        self._dvc(words, report, line=both, echo=echo, seconds=seconds)
        return report.outcomes

    def save(self, name: str) -> None:
        """Keep the settings and outputs at hand as the experiment `name`, in place of one of that name."""
        self._dvc(["exp", "save", "--force", "--name", name])

    def push(self, stage: str | None = None) -> None:
        """Send the outputs of a stage, or of all, to the remote, with what another machine needs to restore them."""
        self._dvc(["push", "--run-cache", *([stage] if stage else [])])

    def push_experiment(self, name: str, repository: str) -> None:
        """Send an experiment to a Git remote, and its outputs and runs to the DVC remote, where there is one."""
        if remote(self.root):
            self._dvc(["exp", "push", "--force", "--run-cache", repository, name])
        else:
            kept = f"{EXPERIMENT_REFS}/*/*/{name}"
            for reference in run_git(self.root, "for-each-ref", "--format=%(refname)", kept).split():
                run_git(self.root, "push", "--quiet", "--force", repository, f"{reference}:{reference}")

    def _dvc(
        self,
        words: Sequence[str],
        report: "OutputParser | None" = None,
        line: LineCallback | None = None,
        echo: bool = False,
        seconds: float | None = None,
    ) -> None:
        report = report or OutputParser()
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", *words]
        variables = {**environment(self.root), **self._variables}
        try:
            code = self._processes.run(
                command, cwd=self.root, env=variables, line=line or report.add, echo=echo, seconds=seconds
            )
        except TimedOut as error:
            raise OutOfTime(f"dvc {' '.join(words)}: {error}") from None
        if code:
            raise DvcError(report.error or f"dvc {' '.join(words)} ended with exit code {code}", report.exit_code)


class OutputParser:
    """What DVC's lines say."""

    RUNNING = re.compile(r"Running stage '(.+)':")
    CACHED = re.compile(r"Stage '(.+)' is cached - skipping run, checking out outputs")
    PULLING = re.compile(r"Pulling data for stage: '(.+)'")
    SKIPPED = re.compile(r"Stage '(.+)' didn't change, skipping")
    FAILED = re.compile(r"ERROR: (.+)")
    EXITED = re.compile(r"exited with (\d+)$")
    COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._error: str | None = None
        self._reason: str | None = None
        self._goes_on = False

    def add(self, text: str) -> None:
        text = self.COLOURS.sub("", text)
        if self._goes_on and text[:1].isspace():  # who is at work where DVC must wait
            self._error = f"{self._error} {text.strip()}"
            return
        text, self._goes_on = text.strip(), False
        for pattern, outcome in (
            (self.SKIPPED, Outcome.UNCHANGED),
            (self.PULLING, Outcome.RESTORED),
            (self.CACHED, Outcome.RESTORED),
            (self.RUNNING, Outcome.RAN),
        ):
            if found := pattern.fullmatch(text):
                self.outcomes[found[1]] = outcome
                self._reason = None
        if text.startswith("error: "):
            self._reason = text.removeprefix("error: ")
        elif found := self.FAILED.match(text):
            self._error, self._goes_on = found[1], True

    @property
    def error(self) -> str | None:
        """DVC's own line, and after it the last error of the stage that failed."""
        return f"{self._error}: {self._reason}" if self._error and self._reason else self._error

    @property
    def exit_code(self) -> int | None:
        found = self.EXITED.search(self._error or "")
        return int(found[1]) if found else None


@contextlib.contextmanager
def temporary_workspace(root: Path, name: str, variables: Mapping[str, str] | None = None) -> Iterator[Workspace]:
    """A workspace of its own beside the one at `root`, of the commit there and with the same cache; removed at the end.

    Its stages find a relative folder where those of `root` do. An experiment that is kept in it is kept at `root`.
    """
    folder = root / ".dvc" / "tmp" / "workspaces"
    with files.temporary_folder(folder, prefix=f"{name}-", stale="*") as temporary:
        checkout = temporary / "checkout"
        top = Path(run_git(root, "rev-parse", "--show-toplevel").strip())
        run_git(root, "clone", "--quiet", "--shared", "--no-checkout", str(top), str(checkout))
        baseline = run_git(root, "rev-parse", "HEAD").strip()
        run_git(checkout, "checkout", "--quiet", "--detach", baseline)
        for key in ("user.name", "user.email"):
            if (value := git(root, "config", key).stdout.strip()) and value:
                run_git(checkout, "config", key, value)
        inside = checkout / root.relative_to(top)
        share_cache(root, inside)
        workspace = Workspace(inside, {"DVC_ROOT": str(root), **(variables or {})}, cache_of=root)
        try:
            yield workspace
        finally:
            workspace.stop()
            workspace.wait()
            if experiment_commits(inside):
                kept = f"{EXPERIMENT_REFS}/{baseline[:2]}/{baseline[2:]}/*"
                run_git(root, "fetch", "--quiet", "--no-tags", str(checkout), f"+{kept}:{kept}")
