"""TODO"""

import base64
import http.client
import os
import urllib.request
from pathlib import Path

from pipeline.settings import TIMEOUT


def find_server() -> str | None:
    """The address of the Prefect server that is configured, if it answers. Says where the run can be seen."""
    address = configured_server()
    if address is None:
        print(
            "No Prefect server is configured, so this run is shown here only; `python -m pipeline serve` starts one.",
            flush=True,
        )
        return None
    if server_answers(address):
        return address
    print(f"Prefect's server at {address} does not answer, so this run is shown here only.", flush=True)
    return None


def server_answers(address: str, about: str = "health") -> bool:
    """Whether a Prefect server answers at the address of its API; only about its health does it without a password."""
    try:
        request = urllib.request.Request(f"{address}/{about}")
        if password := os.environ.get("PREFECT_API_AUTH_STRING"):
            request.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=TIMEOUT):
            return True
    except (OSError, ValueError, http.client.HTTPException):
        return False


def configured_server() -> str | None:
    """The address that Prefect's settings name. Prefect, which is slow to import, is asked only where it has any."""
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    variables = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH")
    files = (home / "profiles.toml", Path("prefect.toml"), Path(".env"))
    if not any(key in os.environ for key in variables) and not any(file.exists() for file in files):
        return None
    from prefect.settings import get_current_settings

    return get_current_settings().api.url
