"""The file SHA256SUMS of an exported folder, in the form that `sha256sum --check` reads."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from stages.common.errors import UserError
from stages.common.files import sha256

FILE = "SHA256SUMS"
MAX_BYTES = 1_000_000


class ExportError(UserError):
    """A model cannot be exported, or an exported folder cannot be checked."""


def compute(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder, by its path in the folder; the checksums themselves are left out."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {path: sha256(folder / path) for path in paths if path != FILE}


def render(checksums: dict[str, str]) -> str:
    """The lines of the file: `<SHA-256>  <path>`."""
    return "".join(f"{digest}  {path}\n" for path, digest in checksums.items())


def parse(content: bytes, source: Path) -> dict[str, str]:
    """Read the lines of the file, which is untrusted.

    Args:
      content: the bytes of the file.
      source: its path, for the error.

    Raises:
      ExportError: a line is not a checksum, or its path leaves the folder.
    """
    checksums = {}
    try:
        for line in content.decode("utf-8").splitlines():
            match = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
            if not match or not _is_inside(match[2]):
                raise ValueError
            checksums[match[2]] = match[1]
        if not checksums:
            raise ValueError
    except ValueError:
        raise ExportError(f"{source} does not list checksums: {source.parent} is not an exported folder") from None
    return checksums


def differences(folder: Path) -> tuple[int, list[str]]:
    """Compare an exported folder with its checksums.

    Returns:
      The number of files that are listed, and a line for each one that differs.

    Raises:
      ExportError: the folder has no checksums, or the file cannot be read.
    """
    path = folder / FILE
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES)
    except FileNotFoundError:
        raise ExportError(f"{folder} has no {FILE}: it is not an exported folder") from None
    lines = []
    checksums = parse(content, path)
    for name, expected in checksums.items():
        file_path = folder / name
        if not file_path.is_file():  # a device would be read forever
            lines.append(f"{name}: does not exist")
        elif sha256(file_path) != expected:
            lines.append(f"{name}: differs from the file that was exported")
    return len(checksums), lines


def _is_inside(path: str) -> bool:
    """Whether a path stays in the folder and is safe to print."""
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts and path.isprintable()
