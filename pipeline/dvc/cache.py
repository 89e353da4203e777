"""DVC's cache and store: where they are, how a checkout is set to use them, and the repair of a damaged cache."""

import contextlib
import copy
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.dvc.errors import DvcError, NoSuchFile
from pipeline.dvc.git import read_committed
from pipeline.dvc.locks import config_lock
from pipeline.dvc.repository import LOCK_FILE, open_repository
from stages.common import files

STORE_REMOTE = "store"  # the name of the remote that `configure_store` adds
repair_lock = threading.Lock()  # held during a repair, so that the next one need not read the same files again


def cache_folder(root: Path) -> Path:
    """The folder of DVC's cache."""
    with open_repository(root) as repository:
        return Path(repository.cache.local_cache_dir)


def read_from_cache(root: Path, commit: str, path: str) -> bytes:
    """The bytes of an output of a commit, a file, from the cache on this machine. No remote is asked.

    Raises:
      NoSuchFile: the commit does not have this output, or the cache lacks it.
    """
    from dvc.utils.serialize import parse_yaml  # faster than the YAML parser that reads dvc.yaml

    entries = parse_yaml(read_committed(root, LOCK_FILE, commit), LOCK_FILE).get("stages", {}).values()
    outs = {out["path"]: out["md5"] for stage in entries for out in stage.get("outs", [])}
    try:
        with open_repository(root) as repository:
            return Path(repository.cache.local.oid_to_path(outs[path])).read_bytes()
    except (KeyError, FileNotFoundError):
        raise NoSuchFile(f"{commit} has no {path}, or it is not in DVC's cache") from None


def repair_cache(root: Path) -> list[str]:
    """Delete the damaged files in the cache of `root`, and return a line about each.

    DVC trusts the files in its cache, so it would restore damaged weights without an error. Like DVC's own check, this
    one reads a file only if its modification time or size has changed since it was last read. A deleted file is
    replaced from an output in the checkout that has the same hash; without one, the stage that wrote it runs again.
    """
    from dvc_data.hashfile.db import HashFileDB
    from dvc_data.hashfile.hash import hash_file
    from dvc_objects.errors import ObjectFormatError

    messages = []
    with open_repository(root) as repository:
        cache = repository.cache.local
        for identifier in list(cache.all()):
            try:
                HashFileDB.check(cache, identifier)  # the local cache's own `check` trusts read-only files
            except ObjectFormatError:
                messages.append(f"{cache.oid_to_path(identifier)} was damaged and has been deleted from DVC's cache")
            except OSError:  # deleted meanwhile, or owned by another user
                continue
            else:
                continue
            for path in (path for out in repository.index.outs for path in _files(Path(out.fs_path))):
                _, actual = hash_file(str(path), cache.fs, cache.hash_name)
                if actual.value == identifier:
                    cache.add(str(path), cache.fs, identifier)
                    messages[-1] += f"; replaced from {path}"
                    break
    return messages


def _files(path: Path) -> Iterator[Path]:
    yield from (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else filter(Path.is_file, [path])


def remove_empty_entries(root: Path) -> None:
    """Remove the folders of the run cache that have no entry. DVC fails when it looks up a stage in one."""
    with open_repository(root) as repository:
        folders = Path(repository.stage_cache.cache_dir).glob("*/*")
    for folder in folders:
        with contextlib.suppress(OSError):  # it has an entry
            folder.rmdir()


def share_cache(root: Path, checkout: Path) -> None:
    """Configure another checkout to use the cache, the remotes and the other local settings of the one at `root`."""
    with open_repository(root) as repository:
        cache = repository.cache.local_cache_dir
    configured = _open_config(root)
    local = configured.load_one("local")
    with _open_config(checkout).edit("local") as settings:
        settings.update(local)
        settings["remote"] = configured["remote"]  # with relative paths made absolute
        settings["cache"]["dir"] = cache


def configure_store(root: Path, store: str) -> None:
    """Configure the checkout at `root` to share outputs through a store.

    The store is written to DVC's local configuration, which is not in Git. Other entries there, such as an endpoint or
    a password, stay. If the configuration already names the store, the file is not written.

    Args:
      root: the root of the repository.
      store: a URL, which becomes the default remote, or an absolute folder, which becomes the cache itself.

    Raises:
      DvcError: `store` is neither.
    """
    from dvc.config import merge

    if "://" not in store and not os.path.isabs(store):
        raise DvcError(f"the store {store!r} is neither a URL nor an absolute folder")
    required: dict[str, Any] = {"cache": {"dir": store, "shared": "group"}}
    if "://" in store:
        required = {"core": {"remote": STORE_REMOTE}, "remote": {STORE_REMOTE: {"url": store.removeprefix("file://")}}}
    with config_lock(root):
        config = _open_config(root)
        before = config.load_one("local")
        after = copy.deepcopy(before)
        merge(after, required)
        if after != before:
            with config.edit("local") as settings:
                merge(settings, required)


def _open_config(root: Path) -> Any:
    """DVC's configuration of the checkout at `root`."""
    from configobj import ConfigObj
    from dvc.config import Config, _pack_named

    class Utf8Config(Config):  # type: ignore[misc]
        """DVC reads its configuration as UTF-8, but writes it as ASCII: it would fail in `/home/josé`."""

        def _save_config(self, level: str, settings: dict[str, Any]) -> None:
            with files.atomic_file(Path(self.files[level])) as temporary, temporary.open("wb") as file:
                ConfigObj(_pack_named(settings), encoding="utf-8").write(file)

    return Utf8Config(str(root / ".dvc"))
