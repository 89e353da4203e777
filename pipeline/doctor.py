"""Whether a run would work on this machine: each thing that it needs, how it is, and what to do where it is wrong."""

from __future__ import annotations

import base64
import contextlib
import enum
import http.client
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pipeline import dvc, server
from stages import params
from stages.common import files
from stages.common.cores import usable_cores
from stages.common.errors import SettingsError, UserError
from stages.common.urls import hide_secrets

T = TypeVar("T")

NETWORK_TIMEOUT = 5.0  # seconds for an answer
CHECK_TIMEOUT = 30.0  # seconds for a check; a folder of a server that is gone never answers
TENSORFLOW_TIMEOUT = 120.0  # seconds to import it, on a machine that does much else
# Below these a run is likely to end for want of it. TensorFlow alone takes half a gigabyte of memory.
LOW_MEMORY = 2e9
LOW_DISK, NO_DISK = 2e9, 1e8

INSTALL = "pip install -c constraints.txt -e ."
INSTALL_GPU = "pip install -c constraints.txt -e '.[gpu]'"
ANOTHER_MIRROR = "name another in params.yaml or with --mirror, or `doodles`"

# What a process of its own says of TensorFlow, in one line of JSON.
ASK_TENSORFLOW = """
import json
import tensorflow as tf
gpus = tf.config.list_physical_devices("GPU")
names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
print(json.dumps({"version": tf.__version__, "cuda": tf.test.is_built_with_cuda(), "gpus": names}))
"""


class Level(str, enum.Enum):
    """What a finding means for a run."""

    OK = "ok"
    NOTE = "note"  # a run would work, if not as one may expect
    WRONG = "wrong"  # a run would fail


class Finding(NamedTuple):
    """How one thing is."""

    level: Level
    says: str
    remedy: str = ""


class DoctorError(UserError):
    """A run would not work: one line for a person."""


def doctor() -> None:
    """Print a line for each thing that a run needs.

    Raises:
      DoctorError: one of them is wrong.
    """
    root = dvc.project_root(Path.cwd())
    wrong = 0
    for name, finding in findings(root):
        wrong += finding.level is Level.WRONG
        says = f"{finding.says}; {finding.remedy}" if finding.remedy else finding.says
        print(f"{finding.level.value:6}{name:14}{hide_secrets(' '.join(says.split()))}", flush=True)
    if wrong:
        raise DoctorError(f"a run would not work here: {wrong} of the lines above begin with `wrong`")


def findings(root: Path) -> Iterator[tuple[str, Finding]]:
    """What each check finds. One that breaks or never ends is a finding too, and the others go on."""
    values: dict[str, Any] = {}
    with contextlib.suppress(SettingsError, OSError):
        values = params.read(root / "params.yaml")
    answer = Background(TENSORFLOW_TIMEOUT, ask_tensorflow)  # while the others are looked at
    checks: list[tuple[str, float, Callable[[], Finding]]] = [
        ("Python", CHECK_TIMEOUT, lambda: check_python(root)),
        ("packages", CHECK_TIMEOUT, check_packages),
        ("settings", CHECK_TIMEOUT, lambda: check_settings(root)),
        ("Git", CHECK_TIMEOUT, lambda: check_git(root)),
        ("DVC", CHECK_TIMEOUT, lambda: check_graph(root)),
        ("remote", CHECK_TIMEOUT, lambda: check_remote(root)),
        ("mirror", CHECK_TIMEOUT, lambda: check_mirror(values, root)),
        ("Prefect", CHECK_TIMEOUT, check_prefect),
        ("processor", CHECK_TIMEOUT, check_processor),
        ("memory", CHECK_TIMEOUT, check_memory),
        ("workspace", CHECK_TIMEOUT, lambda: check_disk(root)),
        ("DVC's cache", CHECK_TIMEOUT, lambda: check_disk(dvc.cache_folder(root))),
        ("user's cache", CHECK_TIMEOUT, lambda: check_disk(files.cache_folder())),
        ("TensorFlow", TENSORFLOW_TIMEOUT, lambda: check_tensorflow(answer.get(), str(values.get("device", "auto")))),
    ]
    if values.get("source") == "tfds":
        checks.append(("data_dir", CHECK_TIMEOUT, lambda: check_data_dir(str(values.get("data_dir")), root)))
    for name, seconds, check in checks:
        try:
            yield name, Background(seconds, check).get()
        except UserError as error:
            yield name, Finding(Level.WRONG, str(error))
        except OSError as error:
            where = f"{error.filename}: " if error.filename is not None else ""
            yield name, Finding(Level.WRONG, f"{where}{error.strerror or error}")
        except Exception as error:  # whatever it is, the rest must be seen
            yield name, Finding(Level.NOTE, f"could not be looked at: {type(error).__name__}: {error}")


class Background:
    """A function that runs beside this thread, and may run for ever: the process ends without it."""

    def __init__(self, seconds: float, function: Callable[[], Any]) -> None:
        self._seconds = seconds
        self._result: Any = None
        self._error: BaseException | None = TimeoutError(f"no answer within {seconds:g} seconds")
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self._result, self._error = function(), None
        except BaseException as error:  # raised where the result is asked for
            self._error = error

    def get(self) -> Any:
        """What the function returned, or raised; `TimeoutError` after the seconds."""
        self._thread.join(self._seconds)
        if self._error is not None:
            raise self._error
        return self._result


# --- This machine ---


def check_python(root: Path) -> Finding:
    """The version, and whether DVC's commands, typed here, would find the same one."""
    from packaging.specifiers import SpecifierSet

    here = platform.python_version()
    permitted = re.search(r'^requires-python = "(.+)"', (root / "pyproject.toml").read_text(), re.MULTILINE)
    if permitted and not SpecifierSet(permitted[1]).contains(here, prereleases=True):
        return Finding(
            Level.WRONG, f"{here}; the project needs {permitted[1]}", "make an environment with such a one: `make run`"
        )
    found = shutil.which("python")
    if found is None or Path(found).parent.resolve() != Path(sys.executable).parent.resolve():
        other = f"{found} instead" if found else "no `python` at all"
        return Finding(
            Level.NOTE,
            f"{here}, {sys.executable}; `dvc repro`, typed here, would find {other}",
            "activate the environment: . .venv/bin/activate",
        )
    return Finding(Level.OK, f"{here}, {sys.executable}")


def check_packages() -> Finding:
    """Whether what the project asks for is installed, in a version that it permits."""
    from packaging.requirements import Requirement

    wrong = []
    for text in importlib.metadata.requires("quickdraw-pixelcnn") or ():
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            here = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is not installed")
            continue
        if not wanted.specifier.contains(here, prereleases=True):
            wrong.append(f"{wanted.name} is {here}, not {wanted.specifier}")
    if wrong:
        return Finding(Level.WRONG, ", ".join(wrong), INSTALL)
    return Finding(Level.OK, "all are here, in versions that the project permits")


def ask_tensorflow() -> subprocess.CompletedProcess[str]:
    """TensorFlow's own words, from a process that ends: it may crash, and one that sees a GPU takes its memory."""
    command = [sys.executable, "-c", ASK_TENSORFLOW]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TENSORFLOW_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"to import it takes longer than {TENSORFLOW_TIMEOUT:g} seconds") from None


def check_tensorflow(answer: subprocess.CompletedProcess[str], device: str) -> Finding:
    """Whether TensorFlow can be imported and sees a GPU, or why not."""
    if answer.returncode:
        last = (answer.stderr.strip() or f"it ended with exit code {answer.returncode}").splitlines()[-1]
        return Finding(Level.WRONG, f"cannot be imported: {last}", INSTALL)
    found = json.loads(answer.stdout.splitlines()[-1])
    version = f"TensorFlow {found['version']}"
    if found["gpus"]:
        return Finding(Level.OK, f"{version} computes on {', '.join(found['gpus'])}")
    reason, remedy = why_no_gpu(bool(found["cuda"]), answer.stderr)
    if device == "gpu":
        return Finding(
            Level.WRONG, f"{version} sees no GPU, and device is gpu: {reason}", f"{remedy}, or -S device=auto"
        )
    return Finding(Level.NOTE, f"{version} computes on the CPU: {reason}", remedy)


def why_no_gpu(cuda: bool, said: str) -> tuple[str, str]:
    """The reason why TensorFlow sees no GPU, and what to do about it.

    Args:
      cuda: whether it was built to see one.
      said: its standard error.
    """
    if not cuda:
        return "it was built without CUDA", "a GPU needs NVIDIA's driver and TensorFlow's package for Linux"
    if not (Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()):
        return "there is no NVIDIA driver here", "the profiles quick and laptop are made for a machine without a GPU"
    if (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
        return f"CUDA_VISIBLE_DEVICES is {hidden!r}, which hides them all", "unset CUDA_VISIBLE_DEVICES"
    if "dlopen" in said or "libcu" in said:
        return "the driver is here, and CUDA's libraries are not", INSTALL_GPU
    return "the driver shows it none", "see whether `nvidia-smi` does"


def check_processor() -> Finding:
    """How many cores a run may use."""
    cores = usable_cores()
    return Finding(Level.OK, f"{cores} core{'s' if cores > 1 else ''}, {platform.machine()}")


def check_memory() -> Finding:
    """What is free, within the bound of a container."""
    import psutil

    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a bound
        bound = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, bound - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    if free < LOW_MEMORY:
        return Finding(
            Level.NOTE,
            f"{free / 1e9:.1f} GB are free, which is little",
            "lower batch_size or num_filters, or end others",
        )
    return Finding(Level.OK, f"{free / 1e9:.1f} GB are free")


def check_disk(folder: Path) -> Finding:
    """Whether a folder, there or to be made, can be written to, and what is free there."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        return Finding(Level.WRONG, f"{there} is not a folder", "move it out of the way")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding(
            Level.WRONG, f"{there} cannot be written to ({error.strerror})", "see whose it is, and what is full"
        )
    free = shutil.disk_usage(there).free
    says = f"{folder}: {free / 1e9:.1f} GB are free"
    if free < NO_DISK:
        return Finding(Level.WRONG, f"{says}, and that is not enough", "delete something, or run `dvc gc --workspace`")
    if free < LOW_DISK:
        return Finding(Level.NOTE, f"{says}, which is little", "delete something, or run `dvc gc --workspace`")
    return Finding(Level.OK, says)


# --- This copy of the project ---


def check_settings(root: Path) -> Finding:
    """Whether params.yaml can be used."""
    try:
        params.check(params.read(root / "params.yaml"), "params.yaml")
    except SettingsError as error:
        return Finding(Level.WRONG, str(error), "change it, or `git restore params.yaml`")
    return Finding(Level.OK, "params.yaml is as it should be")


def check_git(root: Path) -> Finding:
    """Whether DVC can keep a run beside a commit, and whether that commit says all."""
    dvc.find_root(root)
    if not dvc.is_committed(root, "params.yaml"):
        return Finding(
            Level.NOTE,
            "files differ from the last commit, beside which runs are kept",
            "`git status` names them; commit them for a run that others can repeat",
        )
    return Finding(Level.OK, "all files are as last committed")


def check_graph(root: Path) -> Finding:
    """Whether DVC can read its graph, and how much of it has run."""
    if not (root / ".dvc").is_dir():
        return Finding(Level.WRONG, f"{root} has no folder .dvc", "`git restore .dvc`")
    names = [stage.name for stage in dvc.stages(root)]
    done = dvc.stages_in_lockfile(root).intersection(names)
    return Finding(Level.OK, f"dvc.lock has {len(done)} of the {len(names)} stages as run")


def check_remote(root: Path) -> Finding:
    """Whether what has run can be sent to the remote that is configured."""
    name = dvc.remote(root)
    if name is None:
        return Finding(Level.OK, "none is configured: outputs stay on this machine")
    try:
        dvc.try_remote(root, name)
    except Exception as error:  # the errors of whatever package reads this kind of store
        reason = str(error) or type(error).__name__
        return Finding(
            Level.WRONG, f"{name!r} cannot be written to: {reason}", f"see `dvc remote list` and `dvc push -r {name}`"
        )
    return Finding(Level.OK, f"{name!r} can be written to")


# --- What a run speaks to ---


def check_mirror(values: dict[str, Any], root: Path) -> Finding:
    """Whether the mirror of params.yaml holds a drawing of each class, as far as can be seen in seconds."""
    address, classes = values.get("mirror"), values.get("classes")
    if not isinstance(address, str) or not address or not isinstance(classes, list) or not classes:
        return Finding(Level.NOTE, "params.yaml names none: see settings")
    if address == params.DOODLES:
        return Finding(Level.OK, "doodles, which need nothing")
    scheme, separator, _ = address.partition("://")
    if not separator or scheme == "file":
        path = Path(unquote(urlsplit(address).path)) if separator else root / os.path.expanduser(address)
        return check_folder(path, [str(name) for name in classes])
    if scheme in ("http", "https"):
        return check_website(address, str(classes[0]))
    return check_store(address, str(classes[0]))


def check_folder(path: Path, classes: list[str]) -> Finding:
    """A mirror on this machine."""
    if not path.is_dir():
        says = f"{path} is not a folder" if path.exists() else f"there is no folder {path}"
        return Finding(Level.WRONG, says, ANOTHER_MIRROR)
    there = {entry.name for entry in os.scandir(path) if entry.is_file()}
    missing = [name for name in classes if f"{name}.npy" not in there]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return Finding(
            Level.WRONG,
            f"{path} has no file {missing[0]}.npy{more}",
            "put it there, or change `classes` in params.yaml",
        )
    return Finding(Level.OK, f"{path} has a file of each class")


def check_data_dir(path: str, root: Path) -> Finding:
    """Whether there is a folder that TensorFlow Datasets may have prepared."""
    if not (there := root / os.path.expanduser(path)).is_dir():
        return Finding(Level.WRONG, f"there is no folder {there}, and source is tfds", "set source to mirror")
    return Finding(Level.OK, f"{there} is there")


def check_website(address: str, name: str) -> Finding:
    """A mirror on the web, asked about one file."""
    parts = urlsplit(address)
    path, host = f"{parts.path.rstrip('/')}/{name}.npy", parts.netloc.rpartition("@")[2]
    file = urlunsplit((parts.scheme, host, quote(path, safe="/%"), parts.query, ""))
    request = urllib.request.Request(file, method="HEAD")
    if parts.username is not None:
        known = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(known.encode()).decode()}")
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=NETWORK_TIMEOUT):
            return Finding(Level.OK, f"{address} answers")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code < 400 or error.code == 405:  # it leads elsewhere, or answers other questions
            return Finding(Level.OK, f"{address} answers")
        return Finding(Level.WRONG, f"{address} has no {name}.npy ({error.code} {error.reason})", ANOTHER_MIRROR)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return Finding(
            Level.WRONG,
            f"{address} does not answer ({reason})",
            f"see whether this machine is online, or {ANOTHER_MIRROR}",
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A stage knows where one may lead; here it is an answer."""


def check_store(address: str, name: str) -> Finding:
    """A mirror in a store that fsspec reads."""
    import fsspec

    try:
        there, path = fsspec.core.url_to_fs(address.rstrip("/"))
        size = there.info(f"{path}/{name}.npy")["size"]
    except ImportError as error:
        return Finding(Level.WRONG, f"{address}: a package is missing ({error})", "install it")
    except FileNotFoundError:
        return Finding(Level.WRONG, f"{address} has no {name}.npy", ANOTHER_MIRROR)
    except Exception as error:  # the errors of whatever package reads this kind of store
        return Finding(Level.WRONG, f"{address} does not answer ({str(error) or type(error).__name__})", ANOTHER_MIRROR)
    return Finding(Level.OK, f"{address} answers: {name}.npy has {size:,} bytes")


def check_prefect() -> Finding:
    """Whether runs are seen by a server."""
    address = server.configured_server()
    if address is None:
        return Finding(Level.OK, "no server is configured, and none is needed; `python -m pipeline serve` starts one")
    if server.server_answers(address):
        return Finding(Level.OK, f"the server at {address} answers")
    return Finding(
        Level.NOTE,
        f"the server at {address} does not answer: runs are not seen there",
        "start it, or unset PREFECT_API_URL",
    )
