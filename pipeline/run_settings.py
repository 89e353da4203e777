"""The settings of a run: profiles, changes on the command line, the source, and the update of params.yaml."""

import functools
import http.client
import os
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stages import params
from stages.common import files
from stages.common.errors import SettingsError, one_line
from stages.params import fingerprint as fingerprint

PROFILES = Path(__file__).with_name("profiles.yaml")
AUTO = "auto"
HTTP_TIMEOUT = 5  # seconds
# The settings that choose the drawings. Runs with different ones are measured on different drawings.
DATA_SETTINGS = ("source", "num_drawings", "holdout", "classes")


def profiles() -> dict[str, dict[str, Any]]:
    """The profiles by name: for each, its changes to the committed params.yaml."""
    changes: dict[str, dict[str, Any]] = params.read(PROFILES)
    return changes


def on_data_of(run: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings`, but with the drawings of `run`: the settings of a run that `run` can be compared with."""
    return {**settings, **{key: run[key] for key in DATA_SETTINGS if key in run}}


def parse_override(text: str) -> tuple[str, Any]:
    """Parse `key=value`, with the value in the YAML of params.yaml, such as `classes=[bee, cat]`.

    Returns:
      The key and the value. The value is not checked against what the setting permits.

    Raises:
      SettingsError: the text is not of this form, the key is not a setting, or the value is not YAML.
    """
    key, separator, value = text.partition("=")
    option = f"-S {one_line(text)}"
    if not separator or not key:
        raise SettingsError(f"{option}; expected: -S key=value")
    field = params.Params.model_fields.get(key)
    if field is None:
        raise SettingsError(f"{option}: {one_line(key)} {params.explain_no_setting(key)}")
    if field.annotation is str:
        return key, value  # a path may contain characters that are YAML syntax
    return key, params.parse(f"{key}: {value}", option).get(key)


def resolve_source(source: str, current_folder: Path, root: Path) -> str:
    """The value of the setting `source` for a source given on the command line.

    Args:
      source: a value of the setting, but with a folder relative to `current_folder`; `auto`; or the empty string.
      current_folder: absolute.
      root: the project's root.

    Returns:
      A relative folder is rewritten to be relative to the root, `auto` becomes the bucket or the doodles
      (`default_source`), and anything else is returned unchanged.
    """
    if source == AUTO:
        return default_source()
    if not source or not params.is_folder(source) or os.path.isabs(source):
        return source
    relative = os.path.relpath(current_folder / source, root)
    return relative if os.sep in relative else os.path.join(".", relative)  # a folder may be named "doodles"


def default_source() -> str:
    """The public bucket, or the doodles if it cannot be reached. Print which, with a warning for the doodles."""
    if is_reachable(params.BUCKET):
        print(f"No source was given: using the drawings of the public bucket, {params.BUCKET}", flush=True)
        return params.BUCKET
    print(
        "\n"
        "****************************************************************************************\n"
        "**  WARNING: this run uses DOODLES, not drawings by people.                           **\n"
        "**  No source was given, and the public bucket cannot be reached. Doodles are         **\n"
        "**  stand-ins that this project draws itself. To use real drawings:                   **\n"
        "**      make run SOURCE=<folder of .npy files>                                        **\n"
        "****************************************************************************************\n",
        flush=True,
    )
    return params.DOODLES


def is_reachable(url: str) -> bool:
    """Whether the files at a URL can be read: whether it responds to a request for one of its files."""
    request = urllib.request.Request(f"{url}/bee.npy", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT) as response:
            return bool(response.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def update_params_file(
    path: Path, current: Mapping[str, Any], settings: Mapping[str, Any], notify: Callable[[str], object] | None = None
) -> None:
    """Change the values in params.yaml to those of `settings`, and leave its comments as they are.

    Args:
      path: of params.yaml. The file is replaced atomically, and only if a value differs.
      current: the settings that the file contains.
      settings: the settings that it is to contain. A setting that is not among them is removed.
      notify: called with one line for each change. By default, the lines are printed.
    """
    notify = notify or functools.partial(print, flush=True)
    from ruamel.yaml import YAML

    changed = [key for key in settings if key not in current or current[key] != settings[key]]
    removed = [key for key in current if key not in settings]
    if not changed and not removed:
        return
    yaml = YAML()
    yaml.width = 4096  # never fold a long path
    document = yaml.load(path.read_text(encoding="utf-8"))
    for key in changed:
        notify(f"params.yaml: {key} {current.get(key, 'unset')} -> {settings[key]}")
        document[key] = settings[key]
    for key in removed:
        notify(f"params.yaml: {key} {current[key]} removed")
        del document[key]
    with files.atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)


def experiment_name(profile: str, settings: Mapping[str, Any]) -> str:
    """The default name of an experiment: the profile and a fingerprint of the settings."""
    return f"{profile}-{fingerprint(settings)}"
