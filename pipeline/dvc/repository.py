"""TODO"""

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dvc.errors import DvcError


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


def stages(root: Path) -> list[Stage]:
    """The stages of the graph, each after those that it reads from."""
    with open_repository(root) as repository:
        return _stages(repository)


def up_to_date(root: Path) -> set[str]:
    """The names of the stages that `dvc repro` would skip: neither they nor any that they read from have changed."""
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
    pipeline = read_dvc_yaml(root)
    return [path for stage in pipeline["stages"].values() for path in stage.get("outs", [])]


def metrics(root: Path, revision: str | None = None) -> dict[str, Any]:
    """The figures of every metrics file in dvc.yaml, together: those at hand, or those of a revision or experiment.

    A file that is not there (of a revision whose outputs no cache at hand holds, say) adds none.
    """
    snapshot = Snapshot(root, revision)
    found: dict[str, Any] = {}
    for path in read_dvc_yaml(root).get("metrics", []):
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
            with without_progress_bars():
                yield
        except RevError as error:
            raise DvcError(str(error)) from None
        except (DvcException, OSError):
            raise DvcError(
                f"{self._name} has no {path}, or no cache here holds it: apply and run it, or fetch it with "
                "dvc fetch or dvc exp pull"
            ) from None


def output_md5(root: Path, path: str) -> str | None:
    """The hash by which DVC knows an output at hand; None for what is none."""
    for stage in read_dvc_lock(root).values():
        for out in stage.get("outs", []):
            if out["path"] == path:
                return str(out["md5"])
    return None


def stages_in_lockfile(root: Path) -> set[str]:
    """The names of the stages that dvc.lock says have run."""
    return set(read_dvc_lock(root))


def remote(root: Path) -> str | None:
    """The name of the remote that outputs are pushed to and pulled from, where one is configured."""
    from dvc.config import Config

    name: str | None = Config(str(root / ".dvc"))["core"].get("remote")
    return name


def try_remote(root: Path, name: str) -> None:
    """Write an empty file to a remote and delete it. Raises whatever the kind of remote raises where that fails."""
    with open_repository(root) as repository:
        there = repository.cloud.get_remote(name)
        path = there.fs.join(there.path, f".trying-{uuid.uuid4().hex}")
        there.fs.makedirs(there.path, exist_ok=True)
        there.fs.pipe_file(path, b"")
        there.fs.rm_file(path)


@contextlib.contextmanager
def open_repository(root: Path) -> Iterator[Any]:
    """DVC's own reading of the repository at `root`."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with without_progress_bars(), Repo(str(root), _wait_for_lock=True) as repository:
            yield repository
    except DvcException as error:
        raise DvcError(" ".join(str(error).split())) from None


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Without DVC's bars, which are for its own commands."""
    import logging

    logger = logging.getLogger("dvc")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def read_dvc_yaml(root: Path) -> dict[str, Any]:
    return _yaml(root / "dvc.yaml")


def read_dvc_lock(root: Path) -> dict[str, Any]:
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
