"""TODO"""

import functools
import hashlib
import http.client
import json
import os
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stages import params
from stages.common import files
from stages.common.errors import SettingsError, did_you_mean, one_line

PROFILES = Path(__file__).with_name("profiles.yaml")
AUTO = "auto"
TIMEOUT = 5  # seconds to wait for the bucket


def profiles() -> dict[str, dict[str, Any]]:
    """The named sets of changes to the full run's settings."""
    found: dict[str, dict[str, Any]] = params.read(PROFILES)
    return found


def parse_override(text: str) -> tuple[str, Any]:
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


def resolve_source(mirror: str, here: Path, root: Path) -> str:
    """A mirror as it is written in params.yaml: a relative folder, meant from `here`, is written from the root."""
    if mirror == AUTO:
        return default_source()
    if mirror in ("", params.DOODLES) or "://" in mirror or os.path.isabs(mirror):
        return mirror
    relative = os.path.relpath(here / mirror, root)
    return relative if os.sep in relative else os.path.join(".", relative)  # a folder may be called "doodles"


def default_source() -> str:
    """The public bucket where it answers, and the doodles, loudly, where it does not."""
    if is_reachable(params.BUCKET):
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


def is_reachable(mirror: str) -> bool:
    """Whether a mirror at a URL can be reached from here, asked about one of its files."""
    request = urllib.request.Request(f"{mirror}/bee.npy", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def update_params_file(
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
    with files.atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yaml.dump(text, file)


def experiment_name(profile: str, settings: Mapping[str, Any]) -> str:
    """What a run is called where nobody names it: the same for the same settings."""
    return f"{profile}-{fingerprint(settings)}"


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Eight characters that the same settings always share."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
