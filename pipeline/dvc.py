"""DVC, called the way a person calls it. Nothing else in the project starts DVC or reads what it keeps.

What DVC does, it does as a child process whose lines are read as they come; what it knows (the graph, what would run,
the files of an experiment) is read through its Python API. Every child ends with all that it started: DVC alone would
leave the stage that it runs, and that stage's GPU, behind when it is stopped.
"""

import contextlib
import copy
import enum
import fcntl
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.processes import Line, Processes, TimedOut

EXPERIMENTS = "refs/exps"
STORE = "store"  # what the remote is called that `use_store` makes
UNASKED = {"GIT_TERMINAL_PROMPT": "0"}  # Git fails where it would ask for a password: nobody may be there to answer


class DvcError(Exception):
    """What DVC, or Git below it, could not do: one line for a person.

    Attributes:
      exit_code: that of the stage's command, where it is the stage that failed.
    """

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class OutOfTime(DvcError):
    """What took longer than it may."""


class Outcome(str, enum.Enum):
    """What DVC did for a stage."""

    RAN = "Ran"
    RESTORED = "Restored"  # it had run before, here or elsewhere: its outputs came from a cache
    UNCHANGED = "Unchanged"  # its outputs were at hand


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


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml.

    Attributes:
      after: the names of the stages whose outputs it reads.
      outs: the files and folders that it writes, relative to the root.
      meta: what dvc.yaml says of it under `meta`, of which DVC itself makes no use.
    """

    name: str
    desc: str
    after: tuple[str, ...]
    outs: tuple[str, ...]
    meta: Mapping[str, Any]


# --- What is read ---


def find_root(start: Path) -> Path:
    """The root of the repository that `start` lies in: the nearest folder upwards with a dvc.yaml, in a Git repository.

    DVC keeps a run as a Git reference beside a commit, so there must be one.
    """
    for root in (start, *start.parents):
        if (root / "dvc.yaml").is_file():
            break
    else:
        raise DvcError(f"{start} is in no copy of the project: no dvc.yaml here or above")
    found = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if found.returncode:
        reason = found.stderr.partition("\n")[0] or "no commit yet"
        raise DvcError(
            f"{root} is not a Git repository with a commit ({reason}), and DVC keeps its runs in one: "
            "clone the project with Git, or here: git init && git add . && git commit -m start"
        )
    return root


def committed(root: Path, path: str) -> str:
    """The text of a file of the repository as last committed."""
    shown = _git(root, "show", f"HEAD:./{path}")
    if shown.returncode:
        raise DvcError(f"{path} is not in the last commit of {root}; a profile changes the committed one")
    return shown.stdout


def stages(root: Path) -> list[Stage]:
    """The stages of the graph, each after those that it reads from."""
    with _repository(root) as repository:
        return _stages(repository)


def unchanged(root: Path) -> set[str]:
    """The names of the stages that `dvc repro` would skip: neither they nor any that they read from have changed."""
    with _repository(root) as repository:
        graph = _stages(repository)
        names = {stage.addressing: _name(stage) for stage in repository.index.stages}
        changed = {names[address] for address in repository.status()}
    for stage in graph:
        if changed.intersection(stage.after):
            changed.add(stage.name)
    return {stage.name for stage in graph} - changed


def _stages(repository: Any) -> list[Stage]:
    import networkx

    graph = repository.index.graph
    places = {stage: place for place, stage in enumerate(repository.index.stages)}
    return [
        Stage(
            name=_name(stage),
            desc=getattr(stage, "desc", None) or "",
            after=tuple(sorted(map(_name, graph.successors(stage)))),
            outs=tuple(out.def_path for out in stage.outs),
            meta=dict(getattr(stage, "meta", None) or {}),
        )
        for stage in networkx.lexicographical_topological_sort(graph.reverse(), key=places.__getitem__)
    ]


def _name(stage: Any) -> str:
    """What `dvc repro` calls a stage at the root: its name alone, where it is one of the dvc.yaml there."""
    name = getattr(stage, "name", None)
    file = str(stage.path_in_repo)
    return str(name) if name and file == "dvc.yaml" else f"{file}:{name}" if name else file


def outputs(root: Path) -> list[str]:
    """The files and folders that the stages write, relative to the root, in the order of dvc.yaml."""
    pipeline = _pipeline(root)
    return [path for stage in pipeline["stages"].values() for path in stage.get("outs", [])]


def metrics(root: Path, revision: str | None = None) -> dict[str, Any]:
    """The figures of every metrics file in dvc.yaml, together: those at hand, or those of a revision or experiment.

    A file that is not there (of a revision whose outputs no cache at hand holds, say) adds none.
    """
    snapshot = Snapshot(root, revision)
    found: dict[str, Any] = {}
    for path in _pipeline(root).get("metrics", []):
        with contextlib.suppress(DvcError):
            found |= json.loads(snapshot.read(path))
    return found


class Snapshot:
    """The files of a revision or an experiment, whether Git or DVC keeps them; of None, those at hand.

    Reading raises `DvcError` where there is no such revision or file, and where no cache at hand holds it.
    """

    def __init__(self, root: Path, revision: str | None) -> None:
        from dvc.api import DVCFileSystem

        self._name = revision or "the workspace"
        self._files = DVCFileSystem(str(root), rev=revision)

    def list(self, folder: str) -> list[str]:
        """The paths of the files in a folder."""
        with self._told(folder):
            return sorted(str(path) for path in self._files.ls(folder, detail=False))

    def read(self, path: str) -> bytes:
        """A file's bytes."""
        with self._told(path):
            return bytes(self._files.read_bytes(path))

    @contextlib.contextmanager
    def _told(self, path: str) -> Iterator[None]:
        from dvc.exceptions import DvcException
        from dvc.scm import RevError

        try:
            with _quiet():
                yield
        except RevError as error:
            raise DvcError(str(error)) from None
        except (DvcException, OSError):
            raise DvcError(
                f"{self._name} has no {path}, or no cache here holds it: apply and run it, or fetch it with "
                "dvc fetch or dvc exp pull"
            ) from None


def hash_of(root: Path, path: str) -> str | None:
    """The hash by which DVC knows an output at hand; None for what is none."""
    for stage in _lock(root).values():
        for out in stage.get("outs", []):
            if out["path"] == path:
                return str(out["md5"])
    return None


def locked(root: Path) -> set[str]:
    """The names of the stages that dvc.lock says have run."""
    return set(_lock(root))


def cache(root: Path) -> Path:
    """The folder in which DVC keeps what has run."""
    with _repository(root) as repository:
        return Path(repository.cache.local_cache_dir)


def experiments(root: Path, baseline: str | None = None) -> dict[str, str]:
    """The commits of the kept experiments, or of those made from a revision, by name; of two with one name, the last.

    The first made comes first.
    """
    made_from = None if baseline is None else commit(root, baseline)
    return {one.name: one.commit for one in kept(root) if made_from in (None, one.baseline)}


def kept(root: Path) -> list[Experiment]:
    """The kept experiments, the first made first. Those made from different commits may share a name."""
    form = "%(refname:lstrip=2) %(objectname)"
    listed = _git(root, "for-each-ref", "--sort=creatordate", f"--format={form}", f"{EXPERIMENTS}/*/*/*").stdout
    found = []
    for line in listed.splitlines():
        reference, _, there = line.rpartition(" ")
        two, rest, name = reference.split("/", 2)
        found.append(Experiment(name, baseline=two + rest, commit=there))
    return found


def commit(root: Path, revision: str) -> str:
    """The commit that a revision is."""
    found = _git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if found.returncode:
        raise DvcError(f"{revision} is no experiment and no revision here; `dvc exp show` lists what there is")
    return found.stdout.strip()


def fetch_experiments(root: Path, name: str) -> None:
    """Bring the experiments of one name, in which `*` is any part, that `origin` has and this repository has not."""
    with _in_turn(root):
        listed = _run_git(root, "ls-remote", "origin", f"{EXPERIMENTS}/*/*/{name}").split()[1::2]
        here = _run_git(root, "for-each-ref", "--format=%(refname)", EXPERIMENTS).split()
        if missing := sorted(set(listed).difference(here)):
            references = [f"{reference}:{reference}" for reference in missing]
            _run_git(root, "fetch", "--quiet", "--no-tags", "origin", *references)


def has_origin(root: Path) -> bool:
    """Whether the repository was cloned from one that experiments can be sent to."""
    return _git(root, "remote", "get-url", "origin").returncode == 0


def is_committed(root: Path, *except_for: str) -> bool:
    """Whether the files that Git keeps are as last committed, those named left aside."""
    apart = [f":(exclude){path}" for path in except_for]
    return not _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *apart).stdout.strip()


def remote(root: Path) -> str | None:
    """The name of the remote that outputs are pushed to and pulled from, where one is configured."""
    from dvc.config import Config

    name: str | None = Config(str(root / ".dvc"))["core"].get("remote")
    return name


def try_remote(root: Path, name: str) -> None:
    """Write an empty file to a remote and delete it. Raises whatever the kind of remote raises where that fails."""
    with _repository(root) as repository:
        there = repository.cloud.get_remote(name)
        path = there.fs.join(there.path, f".trying-{uuid.uuid4().hex}")
        there.fs.makedirs(there.path, exist_ok=True)
        there.fs.pipe_file(path, b"")
        there.fs.rm_file(path)


def environment(root: Path) -> dict[str, str]:
    """The environment of DVC: the `python` of a stage is this one, and a run can be kept without a Git identity."""
    variables = dict(os.environ)
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)])
    variables["PYTHONUNBUFFERED"] = "1"  # a line of a stage is seen when it is written
    variables |= UNASKED
    if _git(root, "config", "user.name").returncode or _git(root, "config", "user.email").returncode:
        for role in ("AUTHOR", "COMMITTER"):
            variables.setdefault(f"GIT_{role}_NAME", "quickdraw-pixelcnn")
            variables.setdefault(f"GIT_{role}_EMAIL", "quickdraw-pixelcnn@localhost")
    return variables


# --- What is done ---


@contextlib.contextmanager
def alone(root: Path, say: Callable[[str], object] = print) -> Iterator[None]:
    """Hold the checkout at `root` for one run, from its settings on: its stages read params.yaml one after another.

    Another run of this project's waits here for the one before; so does this one for a `dvc repro` that a person has
    started, whose next stages would take the new settings. (A `dvc repro` that comes later takes the settings of this
    run, and DVC itself keeps the two from the same stage.) A run that is within one of its own process is part of it.

    Args:
      say: called with a line that says what is waited for.
    """
    path = root.resolve() / ".dvc" / "tmp" / "run.lock"
    if path in _held:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another run in this checkout has not ended; this one waits for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        said = ""
        while running := _running(root):
            if running != said:
                say(f"DVC is at work in this checkout ({running}); this run waits for it")
            said = running
            time.sleep(0.5)
        _held.add(path)
        try:
            yield
        finally:
            _held.discard(path)


_held: set[Path] = set()


def _running(root: Path) -> str:
    """The commands of DVC that run a stage in a checkout, by what DVC notes of them; waits for those between two.

    A note may outlive its process, at a power cut, say, and name one that came later. DVC would believe it for ever, or
    give up where it cannot read it: it is taken out.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    try:
        with _repository(root) as repository, repository.lock:
            text, noted_at = path.read_bytes(), path.stat().st_mtime
            noted: dict[str, Any] = {"write": {}, "read": {}}
            with contextlib.suppress(ValueError):
                noted |= json.loads(text)
            writing = {name: info for name, info in noted["write"].items() if _is_at_work(info, noted_at)}
            reading = {
                name: [info for info in infos if _is_at_work(info, noted_at)] for name, infos in noted["read"].items()
            }
            left = json.dumps({"write": writing, "read": {name: infos for name, infos in reading.items() if infos}})
            if left.encode() != text:
                path.write_text(left, encoding="utf-8")
    except FileNotFoundError:
        return ""
    infos = [*itertools.chain.from_iterable(reading.values()), *writing.values()]
    return ", ".join({info["pid"]: f"process {info['pid']}: {info['cmd']}" for info in infos}.values())


def _is_at_work(info: Mapping[str, Any], noted_at: float) -> bool:
    """Whether the process of a note is there, and was when the note was made."""
    import psutil

    try:
        started = float(psutil.Process(int(info["pid"])).create_time())
    except psutil.NoSuchProcess:
        return False
    return started < noted_at + 2  # the system counts its own start in whole seconds


def mend(root: Path) -> list[str]:
    """Delete what is damaged in the cache of `root`, where DVC would take it for good, and say what that was.

    DVC believes of a file in its cache that it holds what it held when it came, and would hand damaged weights on. Its
    own check of that kind reads a file again only where its time or size have changed, and so does this. What is lost
    is put back from the outputs at hand, or computed again by the stages that made it.
    """
    from dvc_data.hashfile.db import HashFileDB
    from dvc_data.hashfile.hash import hash_file
    from dvc_objects.errors import ObjectFormatError

    said = []
    with _repository(root) as repository:
        cache = repository.cache.local
        for identifier in list(cache.all()):
            try:
                HashFileDB.check(cache, identifier)  # the cache's own believes what is read-only
            except ObjectFormatError:
                said.append(f"{cache.oid_to_path(identifier)} was damaged, and is deleted from DVC's cache")
            except OSError:  # gone meanwhile, or another's
                continue
            else:
                continue
            for path in (path for out in repository.index.outs for path in _files(Path(out.fs_path))):
                _, found = hash_file(str(path), cache.fs, cache.hash_name)
                if found.value == identifier:
                    cache.add(str(path), cache.fs, identifier)
                    said[-1] += f"; {path} at hand takes its place"
                    break
    return said


_mending = threading.Lock()  # what one has read, the next need not


def _files(path: Path) -> Iterator[Path]:
    yield from (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else filter(Path.is_file, [path])


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
        self._processes = Processes()
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
        self, stage: str | None = None, *, line: Line = lambda _: None, echo: bool = False, seconds: float | None = None
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
        report = _Report()

        def both(text: str) -> None:
            report.add(text)
            line(text)

        with _mending:
            for text in [] if self._checked else mend(self._cache_of):
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
            kept = f"{EXPERIMENTS}/*/*/{name}"
            for reference in _run_git(self.root, "for-each-ref", "--format=%(refname)", kept).split():
                _run_git(self.root, "push", "--quiet", "--force", repository, f"{reference}:{reference}")

    def _dvc(
        self,
        words: Sequence[str],
        report: "_Report | None" = None,
        line: Line | None = None,
        echo: bool = False,
        seconds: float | None = None,
    ) -> None:
        report = report or _Report()
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


class _Report:
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
def temporary(root: Path, name: str, variables: Mapping[str, str] | None = None) -> Iterator[Workspace]:
    """A workspace of its own beside the one at `root`, of the commit there and with the same cache; removed at the end.

    Its stages find a relative folder where those of `root` do. An experiment that is kept in it is kept at `root`.
    """
    folder = root / ".dvc" / "tmp" / "workspaces"
    folder.mkdir(parents=True, exist_ok=True)
    for left in filter(_is_left, folder.iterdir()):
        shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder, ignore_cleanup_errors=True) as place,
        _claimed(Path(place)),
    ):
        checkout = Path(place) / "checkout"
        top = Path(_run_git(root, "rev-parse", "--show-toplevel").strip())
        _run_git(root, "clone", "--quiet", "--shared", "--no-checkout", str(top), str(checkout))
        baseline = _run_git(root, "rev-parse", "HEAD").strip()
        _run_git(checkout, "checkout", "--quiet", "--detach", baseline)
        for key in ("user.name", "user.email"):
            if (value := _git(root, "config", key).stdout.strip()) and value:
                _run_git(checkout, "config", key, value)
        inside = checkout / root.relative_to(top)
        _share_cache(root, inside)
        workspace = Workspace(inside, {"DVC_ROOT": str(root), **(variables or {})}, cache_of=root)
        try:
            yield workspace
        finally:
            workspace.stop()
            workspace.wait()
            if experiments(inside):
                kept = f"{EXPERIMENTS}/{baseline[:2]}/{baseline[2:]}/*"
                _run_git(root, "fetch", "--quiet", "--no-tags", str(checkout), f"+{kept}:{kept}")


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold a folder for as long as this process lives."""
    with (folder / "claiming").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (folder / "claiming").rename(folder / "claimed")
        yield


def _is_left(folder: Path) -> bool:
    """Whether a folder was held by a process that is gone."""
    try:
        with (folder / "claimed").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _share_cache(root: Path, other: Path) -> None:
    """Have the checkout `other` use the cache of `root`, and what else its machine has configured."""
    from dvc.config import Config

    with _repository(root) as repository:
        cache = repository.cache.local_cache_dir
    configured = Config(str(root / ".dvc"))
    local = configured.load_one("local")
    with Config(str(other / ".dvc")).edit("local") as settings:
        settings.update(local)
        settings["remote"] = configured["remote"]  # with paths that mean the same from there
        settings["cache"]["dir"] = cache


def use_store(root: Path, store: str) -> None:
    """Have the checkout at `root` share what runs with others: a URL is a remote, an absolute folder the cache itself.

    Written into DVC's local configuration, which Git does not keep, where that does not say so already. What a person
    has set there, an endpoint or a password, stays.
    """
    from dvc.config import Config, merge

    if "://" not in store and not os.path.isabs(store):
        raise DvcError(f"the store {store!r} is neither a URL nor an absolute folder")
    wanted: dict[str, Any] = {"cache": {"dir": store, "shared": "group"}}
    if "://" in store:
        wanted = {"core": {"remote": STORE}, "remote": {STORE: {"url": store.removeprefix("file://")}}}
    with _in_turn(root):
        config = Config(str(root / ".dvc"))
        before = config.load_one("local")
        after = copy.deepcopy(before)
        merge(after, wanted)
        if after != before:
            with config.edit("local") as settings:
                merge(settings, wanted)


@contextlib.contextmanager
def _in_turn(root: Path) -> Iterator[None]:
    """Hold what the runs of a checkout share for the moment of a change."""
    path = root / ".dvc" / "tmp" / "change.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _repository(root: Path) -> Iterator[Any]:
    """DVC's own reading of the repository at `root`."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with _quiet(), Repo(str(root), _wait_for_lock=True) as repository:
            yield repository
    except DvcException as error:
        raise DvcError(" ".join(str(error).split())) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without DVC's bars, which are for its own commands."""
    import logging

    logger = logging.getLogger("dvc")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _pipeline(root: Path) -> dict[str, Any]:
    return _yaml(root / "dvc.yaml")


def _lock(root: Path) -> dict[str, Any]:
    """The stages of dvc.lock, by name; none where nothing has run."""
    lock = root / "dvc.lock"
    found: dict[str, Any] = _yaml(lock).get("stages", {}) if lock.exists() else {}
    return found


def _yaml(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        found = YAML(typ="safe", pure=True).load(path)
    except (UnicodeDecodeError, YAMLError):
        found = None
    if not isinstance(found, dict):
        raise DvcError(f"{path} cannot be read (a merge may have left its marks in it); `git restore {path.name}`")
    return found


def _git(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments],
            env=os.environ | UNASKED,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise DvcError("git is not installed, and DVC keeps its runs in a Git repository") from None


def _run_git(root: Path, *arguments: str) -> str:
    done = _git(root, *arguments)
    if done.returncode:
        raise DvcError(f"git {arguments[0]}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return done.stdout
