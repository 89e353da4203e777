"""Removal of secrets from URLs before they are shown: user names, passwords and signed queries."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def without_secrets(url: str) -> str:
    """Remove the user name, password, query and fragment from a URL. A query may be a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def hide_secrets(text: str) -> str:
    """Remove user names, passwords and queries from the URLs in a text."""
    return re.sub(r"\?[^\s'\"]*=[^\s'\"]*", "", re.sub(r"(?<=://)[^\s/'\"]*@", "", text))
