"""Run DVC commands in a checkout as child processes, and read their output line by line.

Each command runs under a `Supervisor`, which ends it with all its descendants. When DVC itself is stopped, the stage
that it runs would otherwise go on and keep its GPU.
"""

import contextlib
import enum
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.dvc.cache import remove_empty_entries, repair_cache, repair_lock, share_cache
from pipeline.dvc.errors import DvcError, OutOfTime
from pipeline.dvc.experiments import EXPERIMENT_REFS, experiment_commits, save_experiment
from pipeline.dvc.git import NO_PROMPT, check_out, describe_refusal, folder_in_git, git, run_git
from pipeline.dvc.repository import remote
from pipeline.dvc.store import StoreError, check_store
from pipeline.subprocesses.supervisor import EchoFilter, LineCallback, Supervisor, TimedOut
from stages.common import files

READ_RETRY_SECONDS = (5.0, 20.0)  # before each further question to a store that cannot be read
# When two DVC commands that share a cache finish the same stage, one may take the other's unfinished entry of the run
# cache for a damaged one and delete it, or find a folder without an entry. Then one of them fails with such an error.
LOST_ENTRY = re.compile(r"\[Errno 2\] .*[/\\]runs[/\\].*\.tmp'|join\(\) argument must be .* not 'NoneType'")
ATTEMPTS = 3  # of a command that fails in this way


class Outcome(str, enum.Enum):
    """What DVC did for a stage."""

    RAN = "Ran"
    RESTORED = "Restored"  # it had run before, here or elsewhere: its outputs came from the cache or the store
    UNCHANGED = "Unchanged"  # its outputs were up to date


def environment(root: Path) -> dict[str, str]:
    """The environment variables for DVC: stages run on this Python, and runs can be saved without a Git identity."""
    variables = dict(os.environ)
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)])
    variables["PYTHONUNBUFFERED"] = "1"  # show each line of a stage as soon as it is written
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
      variables: additional environment variables for the stages.
      cache_of: the checkout whose cache this one uses. The cache is checked from there, because that checkout records
        which files it has read. None for `root`.

    Attributes:
      reads_store: whether stages are restored from the store, if one is configured: until it cannot be read.
    """

    def __init__(self, root: Path, variables: Mapping[str, str] | None = None, cache_of: Path | None = None) -> None:
        self.root = root
        self._variables = variables or {}
        self._cache_of = cache_of or root
        self._supervisor = Supervisor()
        self._cache_checked = False
        self.reads_store = True

    def stop(self) -> None:
        """End the running command and its descendants, and start no more. Any thread may call it; it does not wait."""
        self._supervisor.stop()

    def wait(self) -> None:
        """Wait until no command runs in this workspace."""
        self._supervisor.wait()

    def pause(self, seconds: float) -> None:
        """Sleep for `seconds`. Raises `Stopped` as soon as `stop` is called."""
        self._supervisor.pause(seconds)

    def reproduce(
        self,
        stage: str | None = None,
        *,
        line: LineCallback = lambda _: None,
        echo: bool = False,
        seconds: float | None = None,
    ) -> dict[str, Outcome]:
        """Bring one stage up to date, or all in order, and return what DVC did for each.

        Outputs that another machine has pushed are restored from the store, if one is configured. If it cannot be read,
        it is asked again for a while; then this workspace goes on without it. The first call also deletes damaged files
        from the cache.

        Args:
          stage: the name of the stage; None for all.
          line: called with each line that DVC and the stages print, except for DVC's hints.
          echo: whether to print these lines as well, except for those of the error that is raised.
          seconds: the time limit; None for none.

        Raises:
          DvcError: a stage failed; the message is the name and the error of the stage, or DVC's error if it has none.
          OutOfTime: the time limit has passed.
          Stopped: `stop` was called.
        """
        parser = OutputParser()

        def report(text: str) -> None:
            line(text)
            if echo:
                print(text, file=sys.stderr, flush=True)

        def parse_and_report(text: str) -> None:
            parser.add(text)
            if not parser.in_hint:
                line(text)

        with repair_lock:
            for text in [] if self._cache_checked else repair_cache(self._cache_of):
                report(text)
            self._cache_checked = True
        target = [] if stage is None else ["--single-item", stage]
        echo_filter = (lambda _: not (parser.in_error or parser.in_hint)) if echo else None

        def repro(pull: bool) -> None:
            nonlocal parser
            arguments = ["repro", *(["--pull"] if pull else []), *target]
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    self._dvc(arguments, parser, line=parse_and_report, echo=echo_filter, seconds=seconds)
                    return
                except DvcError as error:
                    if attempt == ATTEMPTS or not LOST_ENTRY.search(str(error)):
                        raise
                remove_empty_entries(self._cache_of)
                parser = OutputParser(parser.outcomes)

        if not remote(self.root) or not self.reads_store:
            repro(pull=False)
            return parser.outcomes
        try:
            repro(pull=True)
        except DvcError as error:
            if isinstance(error, OutOfTime) or parser.in_stage:  # the store is read before a stage starts
                raise
            self.reads_store = self._wait_for_store(report)
            parser = OutputParser(parser.outcomes)
            repro(pull=self.reads_store)
        return parser.outcomes

    def _wait_for_store(self, report: LineCallback) -> bool:
        """Whether the store can be read, if necessary after a while. Reports why not, and what follows."""
        waits = iter(READ_RETRY_SECONDS)
        while True:
            try:
                check_store(self.root, write=False)
                return True
            except StoreError as error:
                seconds = None if error.is_refusal else next(waits, None)
                if seconds is None:
                    report(f"{error}; this run goes on without it")
                    return False
                report(f"{error}; asking again in {seconds:g} seconds")
            self.pause(seconds)

    def save(self, name: str) -> None:
        """Save the current settings and outputs as the experiment `name`, replacing one of that name."""
        save_experiment(self.root, name, environment(self.root))

    def push(self, stage: str | None = None) -> None:
        """Push the outputs of a stage, or of all, to the DVC remote, with the run cache needed to restore them.

        Raises:
          StoreError: the store does not answer, or it refuses.
          DvcError: the push failed for another reason.
        """
        try:
            self._dvc(["push", "--run-cache", *([stage] if stage else [])])
        except DvcError:
            check_store(self.root, write=True)  # its error says more than that of DVC
            raise

    def push_reference(self, name: str, repository: str) -> None:
        """Push the Git reference of an experiment. Push its outputs first: the reference alone helps nobody.

        Args:
          name: the experiment.
          repository: the name, path or URL of the Git remote.
        """
        pattern = f"{EXPERIMENT_REFS}/*/*/{name}"
        for reference in run_git(self.root, "for-each-ref", "--format=%(refname)", pattern).split():
            run_git(self.root, "push", "--quiet", "--force", repository, f"{reference}:{reference}")

    def _dvc(
        self,
        arguments: Sequence[str],
        parser: "OutputParser | None" = None,
        line: LineCallback | None = None,
        echo: EchoFilter | None = None,
        seconds: float | None = None,
    ) -> None:
        parser = parser or OutputParser()
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
        variables = {**environment(self.root), **self._variables}
        try:
            code = self._supervisor.run(
                command, cwd=self.root, env=variables, line=line or parser.add, echo=echo, seconds=seconds
            )
        except TimedOut as error:
            raise OutOfTime(f"dvc {' '.join(arguments)}: {error}") from None
        if code:
            message = parser.error or f"dvc {' '.join(arguments)} ended with exit code {code}"
            raise DvcError(describe_refusal(message) or message, parser.exit_code)


class OutputParser:
    """Reads the output of DVC, line by line.

    Args:
      outcomes: of an earlier command, which failed and is continued.

    Attributes:
      outcomes: what DVC did, by stage.
      in_stage: whether a stage has started whose outputs DVC has not recorded yet.
      in_error: whether the last line belongs to an error.
      in_hint: whether the last line is a hint of DVC about what to do next.
    """

    RUNNING = re.compile(r"Running stage '(.+)':")
    CACHED = re.compile(r"Stage '(.+)' is cached - skipping run, checking out outputs")
    PULLING = re.compile(r"Pulling data for stage: '(.+)'")
    SKIPPED = re.compile(r"Stage '(.+)' didn't change, skipping")
    FAILED = re.compile(r"ERROR: (.+)")
    FAILED_STAGE = re.compile(r"failed to reproduce '(.+?)'")
    RECORDED = re.compile(r"(Generating|Updating) lock file '.+'")
    HINT = re.compile(
        r"To track the changes with git, run:|git add .*|To enable auto staging, run:|dvc config core\.autostage true"
        r"|Use `dvc push` to send your updates to remote storage\."
    )
    EXITED = re.compile(r"exited with (-?\d+)$")
    COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

    def __init__(self, outcomes: Mapping[str, Outcome] | None = None) -> None:
        self.outcomes = dict(outcomes or {})
        self._dvc_error: str | None = None
        self._stage_error: str | None = None
        self.in_error = False
        self.in_hint = False
        self.in_stage = False

    def add(self, text: str) -> None:
        """Read one line."""
        text = self.COLOURS.sub("", text)
        if self._dvc_error and self.in_error and text[:1].isspace():  # such as the processes that hold DVC's lock
            self._dvc_error = f"{self._dvc_error} {text.strip()}"
            return
        text, self.in_error = text.strip(), True
        self.in_hint = self.HINT.fullmatch(text) is not None
        for pattern, outcome in (
            (self.SKIPPED, Outcome.UNCHANGED),
            (self.PULLING, Outcome.RESTORED),
            (self.CACHED, Outcome.RESTORED),
            (self.RUNNING, Outcome.RAN),
        ):
            if match := pattern.fullmatch(text):
                if outcome is not Outcome.UNCHANGED or match[1] not in self.outcomes:
                    self.outcomes[match[1]] = outcome
                self._stage_error = None
                self.in_stage = outcome is Outcome.RAN
        if self.RECORDED.fullmatch(text):
            self.in_stage = False
        if text.startswith("error: "):
            self._stage_error = text.removeprefix("error: ")
        elif match := self.FAILED.match(text):
            self._dvc_error = match[1]
        else:
            self.in_error = False

    @property
    def error(self) -> str | None:
        """The name and the last error of the stage that failed, or else DVC's error; None if DVC has reported none."""
        if self._dvc_error and self._stage_error:
            match = self.FAILED_STAGE.match(self._dvc_error)
            return f"{match[1] if match else self._dvc_error}: {self._stage_error}"
        return self._dvc_error

    @property
    def exit_code(self) -> int | None:
        """The exit code of the stage that failed, if DVC has reported one."""
        match = self.EXITED.search(self._dvc_error or "")
        return int(match[1]) if match else None


@contextlib.contextmanager
def temporary_workspace(root: Path, name: str, variables: Mapping[str, str] | None = None) -> Iterator[Workspace]:
    """A workspace in a temporary clone of the last commit at `root`, with the same cache; removed when the block ends.

    Relative paths in the settings still start at `root` (`DVC_ROOT`). Experiments saved in the workspace are fetched
    into `root`.

    Args:
      root: the root of the repository.
      name: the first part of the temporary folder's name.
      variables: additional environment variables for the stages.
    """
    folder = root / ".dvc" / "tmp" / "workspaces"
    with files.temporary_folder(folder, prefix=f"{name}-", stale="*") as temporary:
        checkout = temporary / "checkout"
        baseline = run_git(root, "rev-parse", "HEAD").strip()
        check_out(root, baseline, checkout)
        for key in ("user.name", "user.email"):
            if (value := git(root, "config", key).stdout.strip()) and value:
                run_git(checkout, "config", key, value)
        inside = checkout / folder_in_git(root)
        share_cache(root, inside)
        workspace = Workspace(inside, {"DVC_ROOT": str(root), **(variables or {})}, cache_of=root)
        try:
            yield workspace
        finally:
            workspace.stop()
            workspace.wait()
            if experiment_commits(inside):
                references = f"{EXPERIMENT_REFS}/{baseline[:2]}/{baseline[2:]}/*"
                run_git(root, "fetch", "--quiet", "--no-tags", str(checkout), f"+{references}:{references}")
