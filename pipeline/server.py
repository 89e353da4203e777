"""The Prefect server: its configured address, and whether it answers. Prefect is imported only if it is configured."""

import base64
import http.client
import os
import urllib.request
from pathlib import Path

from pipeline.run_settings import HTTP_TIMEOUT


def find_server() -> str | None:
    """The URL of the configured Prefect API if its server answers, else None. If it does not answer, print so."""
    address = configured_server()
    if address is None or server_answers(address):
        return address
    print(f"The Prefect server at {address} does not answer: progress is shown in this terminal only.", flush=True)
    return None


def server_answers(address: str, endpoint: str = "health") -> bool:
    """Whether a Prefect server answers a request with success.

    Args:
      address: the URL of its API.
      endpoint: a path below that URL. All but `health` require the password of `PREFECT_API_AUTH_STRING`, if the server
        has one.
    """
    try:
        request = urllib.request.Request(f"{address}/{endpoint}")
        if password := os.environ.get("PREFECT_API_AUTH_STRING"):
            request.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT):
            return True
    except (OSError, ValueError, http.client.HTTPException):
        return False


def configured_server() -> str | None:
    """The URL of the Prefect API in Prefect's settings, or None."""
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    variables = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH")
    files = (home / "profiles.toml", Path("prefect.toml"), Path(".env"))
    # Prefect is slow to import, so do not import it if nothing can configure it.
    if not any(key in os.environ for key in variables) and not any(file.exists() for file in files):
        return None
    from prefect.settings import get_current_settings

    return get_current_settings().api.url
