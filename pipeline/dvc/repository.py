"""Read a repository through DVC: its stages, outputs, metrics and remotes, and the files of a revision."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dvc.errors import DvcError
from pipeline.dvc.git import git
from stages.common import files

LOCK_FILE = "dvc.lock"  # DVC's record of what each stage has read and written
RUN_FILES = frozenset({"params.yaml", LOCK_FILE})  # the files in Git that a run changes


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml.

    Attributes:
      name: the name in dvc.yaml.
      desc: the description in dvc.yaml.
      after: the names of the stages whose outputs it reads.
      outs: the files and folders that it writes, relative to the root.
      meta: the entries under `meta` in dvc.yaml, which DVC itself does not use.
    """

    name: str
    desc: str
    after: tuple[str, ...]
    outs: tuple[str, ...]
    meta: Mapping[str, Any]


def stages(root: Path) -> list[Stage]:
    """The stages of the graph in topological order: each after the stages whose outputs it reads."""
    with open_repository(root) as repository:
        return _stages(repository)


def up_to_date(root: Path) -> set[str]:
    """The names of the stages that `dvc repro` would skip: neither they nor any stage before them has changed."""
    with open_repository(root) as repository:
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
    positions = {stage: position for position, stage in enumerate(repository.index.stages)}
    return [
        Stage(
            name=_name(stage),
            desc=getattr(stage, "desc", None) or "",
            after=tuple(sorted(map(_name, graph.successors(stage)))),
            outs=tuple(out.def_path for out in stage.outs),
            meta=dict(getattr(stage, "meta", None) or {}),
        )
        for stage in networkx.lexicographical_topological_sort(graph.reverse(), key=positions.__getitem__)
    ]


def _name(stage: Any) -> str:
    """The name of a stage for `dvc repro` at the root; only stages of another dvc.yaml are prefixed with its path."""
    name = getattr(stage, "name", None)
    file = str(stage.path_in_repo)
    return str(name) if name and file == "dvc.yaml" else f"{file}:{name}" if name else file


def outputs(root: Path) -> list[str]:
    """The files and folders that the stages write, relative to the root, in the order of dvc.yaml."""
    pipeline = read_dvc_yaml(root)
    return [path for stage in pipeline["stages"].values() for path in stage.get("outs", [])]


def output_md5(root: Path, path: str) -> str | None:
    """The MD5 of an output as recorded in dvc.lock, or None if `path` is not in it."""
    for stage in read_dvc_lock(root).values():
        for out in stage.get("outs", []):
            if out["path"] == path:
                return str(out["md5"])
    return None


def stages_in_lockfile(root: Path) -> set[str]:
    """The names of the stages in dvc.lock: those that have run."""
    return set(read_dvc_lock(root))


def remote(root: Path) -> str | None:
    """The name of the default DVC remote, or None if none is configured."""
    from dvc.config import Config

    name: str | None = Config(str(root / ".dvc"))["core"].get("remote")
    return name


@contextlib.contextmanager
def open_repository(root: Path, config: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """DVC's `Repo` at `root`, without progress bars; its exceptions are raised as `DvcError`.

    Args:
      root: the root of the repository.
      config: changes to DVC's configuration, as long as the block runs.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with without_progress_bars(), Repo(str(root), config=config or None, _wait_for_lock=True) as repository:
            yield repository
    except DvcException as error:
        raise DvcError(" ".join(str(error).split())) from None


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide the progress bars and the messages of DVC's Python API in the block, by its log level."""
    import logging

    logger = logging.getLogger("dvc")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def read_dvc_yaml(root: Path) -> dict[str, Any]:
    """The contents of dvc.yaml."""
    return _read_yaml(root / "dvc.yaml")


def read_dvc_lock(root: Path) -> dict[str, Any]:
    """The stages of dvc.lock by name; empty if no stage has run."""
    lock = root / LOCK_FILE
    entries: dict[str, Any] = _read_yaml(lock).get("stages", {}) if lock.exists() else {}
    return entries


def repair_dvc_lock(root: Path) -> list[str]:
    """Replace a dvc.lock that is empty or torn by the committed one, and return a line that says so.

    DVC writes the file in place, so a kill or a full disk at that moment leaves a part of it, and each DVC command then
    fails. What has run since the last commit is restored from DVC's cache of runs. A file with the conflict markers of
    a merge stays: it is for a person to decide.
    """
    path = root / LOCK_FILE
    if not path.exists() or not is_torn(path.read_bytes()):
        return []
    committed = git(root, "show", f"HEAD:./{LOCK_FILE}").stdout.encode()
    if is_torn(committed):
        path.unlink()
    else:
        with files.atomic_file(path) as temporary:
            temporary.write_bytes(committed)
    return [
        f"WARNING: {LOCK_FILE} was damaged, probably by an interrupt while DVC wrote it. The committed one replaces "
        "it, and what has run since is restored from DVC's cache"
    ]


def is_torn(content: bytes) -> bool:
    """Whether these are the bytes of a dvc.lock that DVC cannot read, and not because of the conflicts of a merge."""
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import parse_yaml

    if b"<<<<<<<" in content:
        return False
    try:
        Lockfile.validate(parse_yaml(content.decode(), LOCK_FILE), LOCK_FILE)
    except (UnicodeDecodeError, DvcException):
        return True
    return False


def _read_yaml(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(path)
    except (UnicodeDecodeError, YAMLError):
        content = None
    if not isinstance(content, dict):
        raise DvcError(
            f"{path} cannot be read (a merge may have left conflict markers in it): run `git restore {path.name}`"
        )
    return content
