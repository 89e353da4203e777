"""One run of the graph, from the words of a person to the report: settings, `dvc repro`, an experiment, the figures.

The settings of the run are left in params.yaml, so that DVC's own commands go on from them, and the run is kept as a
DVC experiment, which `dvc exp show` lists beside the others.
"""

import base64
import contextlib
import functools
import hashlib
import http.client
import json
import os
import signal
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline import dvc
from stages import params
from stages.errors import SettingsError, did_you_mean, one_line

PROFILES = Path(__file__).with_name("profiles.yaml")
AUTO = "auto"
PATIENCE = 5  # seconds to wait for the bucket


def run(profile: str | None, overrides: Iterable[str], mirror: str | None) -> None:
    """Run the stages that need to run. Without a profile the settings are those of params.yaml as it stands."""
    root = dvc.find_root(Path.cwd())
    with dvc.alone(root, functools.partial(print, flush=True)):
        current = params.read(root / "params.yaml")
        base = params.parse(dvc.committed(root, "params.yaml"), "params.yaml as committed") if profile else current
        changes = (profiles()[profile] if profile else {}) | dict(map(override, overrides))
        if mirror is not None:
            changes["mirror"] = place(mirror, Path.cwd(), root)
        settings = base | changes
        params.check(settings, "the settings of this run" if profile or changes else "params.yaml")

        write(root / "params.yaml", current, settings)
        name = called(profile or "run", settings)
        server = server_at_hand()
        if server is None:
            workspace = dvc.Workspace(root)
            with ended_by_signals():
                workspace.reproduce(echo=True)
                workspace.save(name)
        else:
            _as_flow(name)
        figures = dvc.metrics(root)

    print(f"\nkept as the experiment {name}")
    for metric, value in figures.items():
        print(f"{metric}: {value:.4g}" if isinstance(value, float) else f"{metric}: {value}")
    for path in dvc.outputs(root):
        if path.endswith(".html"):
            print(f"report: {root / path}")


def _as_flow(name: str) -> None:
    """Run the stages as the flow `reproduce`, and keep the run as an experiment."""
    from prefect.exceptions import TerminationSignal

    from pipeline import flows

    try:
        state = flows.reproduce.with_options(flow_run_name=name)(keep=name, return_state=True)
    except TerminationSignal as signalled:
        raise SystemExit(128 + signalled.signal) from None
    if not state.is_completed():
        raise dvc.DvcError(state.message or f"the run ended in the state {state.name}")


def server_at_hand() -> str | None:
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
        with urllib.request.urlopen(request, timeout=PATIENCE):
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


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """A request to stop, or the end of the terminal, ends what is within as an interrupt does."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def profiles() -> dict[str, dict[str, Any]]:
    """The named sets of changes to the full run's settings."""
    found: dict[str, dict[str, Any]] = params.read(PROFILES)
    return found


def override(text: str) -> tuple[str, Any]:
    """The key and the value of `key=value`, where the value is written as in params.yaml, lists as `[bee, cat]`."""
    key, separator, value = text.partition("=")
    shown = one_line(text)
    if not separator or not key:
        raise SettingsError(f"-S {shown}: a change is written key=value")
    field = params.Params.model_fields.get(key)
    if field is None:
        near = did_you_mean(key, params.Params.model_fields)
        raise SettingsError(f"-S {shown}: {one_line(key)} is not a setting.{near}")
    if field.annotation is str:
        return key, value  # a path may hold what YAML reads as something else
    return key, params.parse(f"{key}: {value}", f"-S {shown}").get(key)


def place(mirror: str, here: Path, root: Path) -> str:
    """A mirror as it is written in params.yaml: a relative folder, meant from `here`, is written from the root."""
    if mirror == AUTO:
        return best_at_hand()
    if mirror in ("", params.DOODLES) or "://" in mirror or os.path.isabs(mirror):
        return mirror
    relative = os.path.relpath(here / mirror, root)
    return relative if os.sep in relative else os.path.join(".", relative)  # a folder may be called "doodles"


def best_at_hand() -> str:
    """The public bucket where it answers, and the doodles, loudly, where it does not."""
    if answers(params.BUCKET):
        print(f"No mirror is named: these are the drawings of the public bucket, {params.BUCKET}", flush=True)
        return params.BUCKET
    print(
        "\n"
        "****************************************************************************************\n"
        "**  No mirror is named, and the public bucket does not answer: these are DOODLES,     **\n"
        "**  stand-ins that the project draws, and no drawings of people. For those:           **\n"
        "**      make run MIRROR=<folder of .npy files>                                        **\n"
        "****************************************************************************************\n",
        flush=True,
    )
    return params.DOODLES


def answers(mirror: str) -> bool:
    """Whether a mirror at a URL can be reached from here, asked about one of its files."""
    request = urllib.request.Request(f"{mirror}/bee.npy", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def write(
    path: Path, current: Mapping[str, Any], settings: Mapping[str, Any], say: Callable[[str], object] | None = None
) -> None:
    """Change the values in params.yaml that differ, say so, and leave its comments as they are."""
    say = say or functools.partial(print, flush=True)
    from ruamel.yaml import YAML

    differing = [key for key in settings if key not in current or current[key] != settings[key]]
    strange = [key for key in current if key not in settings]
    if not differing and not strange:
        return
    yaml = YAML()
    yaml.width = 4096  # never fold a long path
    text = yaml.load(path.read_text(encoding="utf-8"))
    for key in differing:
        say(f"params.yaml: {key} {current.get(key, 'unset')} -> {settings[key]}")
        text[key] = settings[key]
    for key in strange:
        say(f"params.yaml: {key} {current[key]} taken out")
        del text[key]
    temporary = path.with_name(f".writing-{path.name}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yaml.dump(text, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def called(profile: str, settings: Mapping[str, Any]) -> str:
    """What a run is called where nobody names it: the same for the same settings."""
    return f"{profile}-{fingerprint(settings)}"


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Eight characters that the same settings always share."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
