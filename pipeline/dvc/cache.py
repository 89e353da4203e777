"""TODO"""

import copy
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.dvc.errors import DvcError
from pipeline.dvc.locks import config_lock
from pipeline.dvc.repository import open_repository

STORE_REMOTE = "store"  # what the remote is called that `use_store` makes


def cache_folder(root: Path) -> Path:
    """The folder in which DVC keeps what has run."""
    with open_repository(root) as repository:
        return Path(repository.cache.local_cache_dir)


def repair_cache(root: Path) -> list[str]:
    """Delete what is damaged in the cache of `root`, where DVC would take it for good, and say what that was.

    DVC believes of a file in its cache that it holds what it held when it came, and would hand damaged weights on. Its
    own check of that kind reads a file again only where its time or size have changed, and so does this. What is lost
    is put back from the outputs at hand, or computed again by the stages that made it.
    """
    from dvc_data.hashfile.db import HashFileDB
    from dvc_data.hashfile.hash import hash_file
    from dvc_objects.errors import ObjectFormatError

    said = []
    with open_repository(root) as repository:
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


repairing = threading.Lock()  # what one has read, the next need not


def _files(path: Path) -> Iterator[Path]:
    yield from (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else filter(Path.is_file, [path])


def share_cache(root: Path, other: Path) -> None:
    """Have the checkout `other` use the cache of `root`, and what else its machine has configured."""
    from dvc.config import Config

    with open_repository(root) as repository:
        cache = repository.cache.local_cache_dir
    configured = Config(str(root / ".dvc"))
    local = configured.load_one("local")
    with Config(str(other / ".dvc")).edit("local") as settings:
        settings.update(local)
        settings["remote"] = configured["remote"]  # with paths that mean the same from there
        settings["cache"]["dir"] = cache


def configure_store(root: Path, store: str) -> None:
    """Have the checkout at `root` share what runs with others: a URL is a remote, an absolute folder the cache itself.

    Written into DVC's local configuration, which Git does not keep, where that does not say so already. What a person
    has set there, an endpoint or a password, stays.
    """
    from dvc.config import Config, merge

    if "://" not in store and not os.path.isabs(store):
        raise DvcError(f"the store {store!r} is neither a URL nor an absolute folder")
    wanted: dict[str, Any] = {"cache": {"dir": store, "shared": "group"}}
    if "://" in store:
        wanted = {"core": {"remote": STORE_REMOTE}, "remote": {STORE_REMOTE: {"url": store.removeprefix("file://")}}}
    with config_lock(root):
        config = Config(str(root / ".dvc"))
        before = config.load_one("local")
        after = copy.deepcopy(before)
        merge(after, wanted)
        if after != before:
            with config.edit("local") as settings:
                merge(settings, wanted)
