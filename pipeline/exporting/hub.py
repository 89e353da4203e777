"""Upload an exported folder to the Hugging Face Hub, with the optional package huggingface_hub."""

from __future__ import annotations

import shlex
from pathlib import Path

from pipeline.exporting.checksums import ExportError
from stages.common.errors import one_line
from stages.common.urls import hide_secrets


def check(name: str) -> None:
    """Raises `ExportError` if the package is missing, or the name is not that of a repository."""
    try:
        from huggingface_hub.utils import HFValidationError, validate_repo_id
    except ImportError:
        raise ExportError(
            "--push needs huggingface_hub, which is not installed: pip install -c constraints.txt -e '.[hub]'"
        ) from None
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ExportError(
            f"--push: {one_line(repr(name))} is not the name of a repository; expected: user/name"
        ) from None


def push(folder: Path, name: str) -> str:
    """Upload a folder to the repository of a model, which is created if it does not exist, and return its URL.

    Raises:
      ExportError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    try:
        hub = HfApi()
        repository = hub.create_repo(name, exist_ok=True)
        hub.upload_folder(repo_id=repository.repo_id, folder_path=folder, commit_message="Export a model")
        return str(repository)
    except Exception as error:  # those of the package, and of the HTTP library that it uses
        reason = one_line(hide_secrets(str(error)), 300) or type(error).__name__
        raise ExportError(
            f"--push: {reason}. {folder} is complete; `hf auth login` logs in, and "
            f"`hf upload {shlex.quote(name)} {shlex.quote(str(folder))}` uploads it"
        ) from None
