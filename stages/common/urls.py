"""URLs as a person may see them: without user names, passwords and signed queries."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def without_secrets(url: str) -> str:
    """A URL without its user name, password, query and fragment. A query may sign the URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def hide_secrets(text: str) -> str:
    """A text without the user names, passwords and queries of the URLs in it."""
    return re.sub(r"\?[^\s'\"]*=[^\s'\"]*", "", re.sub(r"(?<=://)[^\s/'\"]*@", "", text))
