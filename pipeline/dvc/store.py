"""The store, a DVC remote in which machines share outputs: whether it answers, and whether to ask it again."""

import uuid
from pathlib import Path
from typing import Any

from pipeline.dvc.errors import DvcError
from pipeline.dvc.repository import open_repository
from stages.common.errors import describe_os_error, one_line
from stages.common.urls import hide_secrets

STORE_VARIABLE = "QUICKDRAW_STORE"  # the store of the runs on this machine: a URL or an absolute folder


class StoreError(DvcError):
    """The store does not answer, or it refuses what it is asked.

    Attributes:
      is_refusal: whether it refuses, and will refuse again: a missing bucket, missing rights, a missing package.
    """

    def __init__(self, message: str, is_refusal: bool) -> None:
        super().__init__(message)
        self.is_refusal = is_refusal


def check_store(root: Path, *, write: bool, url: str = "") -> None:
    """Ask the store what a run asks it: whether it has runs, and to write a file, which is deleted at once.

    Args:
      root: the root of the repository.
      write: whether to write as well.
      url: of the store; empty for the default remote in DVC's configuration.

    Raises:
      StoreError: the store cannot be read, or not be written to; the message names the store and the reason.
    """
    config = {"core": {"remote": "store"}, "remote": {"store": {"url": url}}} if url else {}
    with open_repository(root, config) as repository:
        name = repository.config["core"]["remote"]
        address = hide_secrets(str(repository.config["remote"].get(name, {}).get("url", name)))
        verb = "read"
        try:
            remote = repository.cloud.get_remote(name)
            remote.fs.exists(remote.fs.join(remote.path, "runs"))
            if write:
                verb = "written to"
                _write_and_delete(remote)
        except Exception as error:  # each kind of remote has other exceptions
            text = describe_os_error(error) if isinstance(error, OSError) else str(error) or type(error).__name__
            reason = one_line(hide_secrets(text), 500)
            raise StoreError(f"the store {address} cannot be {verb}: {reason}", _is_refusal(error)) from None


def _write_and_delete(remote: Any) -> None:
    path = remote.fs.join(remote.path, f".trying-{uuid.uuid4().hex}")
    remote.fs.makedirs(remote.path, exist_ok=True)
    remote.fs.pipe_file(path, b"")
    remote.fs.rm_file(path)


def _is_refusal(error: Exception) -> bool:
    from dvc.exceptions import DvcException

    refusals = (PermissionError, FileNotFoundError, NotADirectoryError, ImportError, DvcException)
    return isinstance(error, refusals) or type(error).__name__ == "NoCredentialsError"  # Amazon's library has it
