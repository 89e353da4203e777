"""The command `verify`: check a report against the workspace, and an exported or a generated folder against itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline import dvc
from pipeline.exporting import checksums
from stages import params
from stages.common.errors import UserError, counted, one_line
from stages.common.files import sha256
from stages.common.urls import without_secrets

if TYPE_CHECKING:
    from pipeline.generating.check import Checked

PAGE = "reports/index.html"
INPUT_FOLDERS = ("data", "reports", "reviews")  # where the inputs of a report can be


class VerifyError(UserError):
    """A report does not match the workspace, or cannot be read."""


def verify(what: str, run: str | None = None) -> None:
    """Check a report, an exported folder or a generated one; print a line for each difference.

    Of a report, three things are compared: the SHA-256 of each input file that the report lists, the settings that it
    lists, and, if DVC has recorded one, the hash of the report itself.

    Args:
      what: the report, or the folder, or the URL of a generated one.
      run: whose model drew a generated folder: a DVC experiment, a Git revision or a folder; None for the checkout.

    Raises:
      VerifyError: something differs, or the report cannot be read.
      ExportError: a folder is neither an exported nor a generated one.
      GenerateError: a generated folder is unfinished, or was drawn by another model.
    """
    from pipeline.generating import check

    if check.is_generated(what):
        _verify_generated(check.check(what, run), without_secrets(what) if "://" in what else what)
        return
    page = Path(what)
    if run is not None:
        raise VerifyError(f"--run is for a folder that `generate` has written, and {page} is none")
    if page.is_dir():
        number, differences = checksums.differences(page)
        _raise_if_different(differences, f"{page} does not match its checksums")
        print(f"{page} matches its checksums: {counted(number, 'file')}")
        return
    root = dvc.find_root(Path.cwd())
    try:
        content = page.read_bytes()
    except FileNotFoundError:
        raise VerifyError(f"{page} does not exist") from None
    files, settings = read_provenance(content, page)
    differences = []
    for path, expected in files.items():
        actual = _hash(root / path)
        if actual is None:
            differences.append(f"{path}: does not exist")
        elif actual != expected:
            differences.append(f"{path}: differs from the file that the report was made from")
    current = params.read(root / "params.yaml")
    for key in sorted(settings.keys() | current.keys()):
        in_report, in_params = settings.get(key, "unset"), current.get(key, "unset")
        if in_report != in_params:
            differences.append(
                f"{one_line(key)}: {one_line(in_report, 500)} in the report, {one_line(in_params, 500)} in params.yaml"
            )
    recorded = dvc.output_md5(root, PAGE)
    if recorded is not None and recorded != hashlib.md5(content, usedforsecurity=False).hexdigest():
        differences.append(f"{page}: differs from the report that the last run in this workspace wrote")
    _raise_if_different(differences, f"{page} does not match this workspace")
    print(f"{page} matches this workspace: {len(files)} files and {len(settings)} settings are those it was made from")


def _verify_generated(found: Checked, shown: str) -> None:
    _raise_if_different(found.differences, f"{shown} does not match its manifest or its model")
    print(f"{shown} matches its manifest: {counted(found.total, 'drawing')}")
    if same := found.compared - found.elsewhere:
        print(f"{counted(same, 'drawing')} drawn again: each byte is the same")
    if found.elsewhere:
        print(
            f"{counted(found.elsewhere, 'drawing')} of another kind of processor drawn again: "
            f"{found.equal_pixels:.2%} of the values are the same"
        )


def _raise_if_different(differences: Sequence[str], message: str) -> None:
    """Print the differences; if there are any, raise `VerifyError`."""
    for difference in differences:
        print(difference)
    if differences:
        raise VerifyError(f"{message}; the differences are listed above")


class _ProvenanceParser(HTMLParser):
    """Read the text of the first element `<script id="provenance">`, into the attribute `text`; None without one."""

    def __init__(self) -> None:
        super().__init__()
        self.text: str | None = None
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script" and ("id", "provenance") in attrs and self.text is None

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text = (self.text or "") + data


def read_provenance(content: bytes, page: Path) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    """Read the inputs that a report lists. The content is untrusted.

    Args:
      content: the report's bytes.
      page: its path, for the error.

    Returns:
      The SHA-256 of each file by its path below the root, and the settings by key.

    Raises:
      VerifyError: the report lists no inputs, or a path outside `INPUT_FOLDERS`.
    """
    parser = _ProvenanceParser()
    try:
        parser.feed(content.decode("utf-8"))
        provenance = json.loads(parser.text or "null")
        files, settings = dict(provenance["files"]), dict(provenance["settings"])
        if not files or not all(_is_input_path(path) and isinstance(digest, str) for path, digest in files.items()):
            raise ValueError
    except (KeyError, TypeError, ValueError, RecursionError):
        raise VerifyError(f"{page} does not list its inputs: it is not a report of this project") from None
    return files, settings


def _is_input_path(path: str) -> bool:
    """Whether a path stays within `INPUT_FOLDERS` and is safe to print."""
    parts = PurePosixPath(path).parts
    return len(parts) > 1 and parts[0] in INPUT_FOLDERS and ".." not in parts and path.isprintable()


def _hash(path: Path) -> str | None:
    """The SHA-256 of a file in hexadecimal, None if it does not exist."""
    try:
        return sha256(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
