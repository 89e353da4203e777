"""Whether a report belongs to the files and the settings at hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline import dvc
from stages import params
from stages.common.errors import UserError, one_line
from stages.common.files import sha256

PAGE = "reports/index.html"
FOLDERS = ("data", "reports", "reviews")  # where what a page is made from lies


class VerifyError(UserError):
    """A page that does not belong here, or says nothing of where it comes from: one line for a person."""


def verify(page: Path) -> None:
    """Say what of a page agrees with the workspace.

    Raises:
      VerifyError: something does not, or the page cannot be read.
    """
    root = dvc.find_root(Path.cwd())
    try:
        text = page.read_bytes()
    except FileNotFoundError:
        raise VerifyError(f"{page} is not there") from None
    files, settings = read_provenance(text, page)
    wrong = []
    for path, claimed in files.items():
        found = _hash(root / path)
        if found != claimed:
            wrong.append(f"{path}: {'is not here' if found is None else 'is another one than the page was made from'}")
    current = params.read(root / "params.yaml")
    for key in sorted(settings.keys() | current.keys()):
        there, here = settings.get(key, "unset"), current.get(key, "unset")
        if there != here:
            wrong.append(f"{one_line(key)}: {one_line(there, 500)} on the page, {one_line(here, 500)} in params.yaml")
    known = dvc.output_md5(root, PAGE)
    if known is not None and known != hashlib.md5(text, usedforsecurity=False).hexdigest():
        wrong.append(f"{page}: is not, to the byte, the page that the last run here wrote")
    for line in wrong:
        print(line)
    if wrong:
        raise VerifyError(f"{page} does not belong to the files here: see the {len(wrong)} lines above")
    print(f"{page} belongs to what lies here: {len(files)} files and {len(settings)} settings are as when it was made")


class _Block(HTMLParser):
    """The text of the page's element `provenance`."""

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


def read_provenance(text: bytes, page: Path) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    """What a page says it was made from: the SHA-256 of each file, by its path below the root, and the settings."""
    block = _Block()
    try:
        block.feed(text.decode("utf-8"))
        found = json.loads(block.text or "null")
        files, settings = dict(found["files"]), dict(found["settings"])
        if not files or not all(_is_below(path) and isinstance(digest, str) for path, digest in files.items()):
            raise ValueError("its files are none of a run")
    except (KeyError, TypeError, ValueError, RecursionError):
        raise VerifyError(f"{page} does not say what it was made from; it is no report of this project") from None
    return files, settings


def _is_below(path: str) -> bool:
    """Whether a path on a page, which anybody may have written, stays in the folders of a run."""
    parts = PurePosixPath(path).parts
    return len(parts) > 1 and parts[0] in FOLDERS and ".." not in parts and path.isprintable()


def _hash(path: Path) -> str | None:
    """The SHA-256 of a file, None for one that is not there."""
    try:
        return sha256(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
