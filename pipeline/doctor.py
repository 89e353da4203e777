"""The command `doctor`: check everything that a run needs on this machine, and print what to do about each problem."""

from __future__ import annotations

import base64
import contextlib
import enum
import http.client
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pipeline import dvc, server
from stages import params
from stages.common import files
from stages.common.cores import usable_cores
from stages.common.errors import SettingsError, UserError, counted
from stages.common.urls import hide_secrets

if TYPE_CHECKING:
    from stages.quickdraw.images import Source
    from stages.quickdraw.pixel_checks import Problem

# In seconds.
NETWORK_TIMEOUT = 5.0  # for an HTTP response
CHECK_TIMEOUT = 30.0  # for one check; a folder on an unreachable file server can block for ever
TENSORFLOW_TIMEOUT = 120.0  # to import TensorFlow on a busy machine
# In bytes. Below LOW_… a run may fail for lack of memory or disk; TensorFlow alone takes 0.5 GB of memory.
LOW_MEMORY = 2e9
LOW_DISK, MIN_DISK = 2e9, 1e8
# Drawings.
SAMPLE = 100  # of each class, whose pixels are checked
SURELY_ENOUGH = 50  # expected of a class in the index, so that it has two of them
MAX_LISTED = 2_000_000  # of a source, which are put in order within two seconds

INSTALL = "pip install -c constraints.txt -e ."
INSTALL_GPU = "pip install -c constraints.txt -e '.[gpu]'"
USE_ANOTHER_SOURCE = "set another source, or `doodles`, in params.yaml or with --source"

# Run in a separate process. Its last line of output is JSON.
TENSORFLOW_PROBE = """
import json
import tensorflow as tf
gpus = tf.config.list_physical_devices("GPU")
names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
print(json.dumps({"version": tf.__version__, "cuda": tf.test.is_built_with_cuda(), "gpus": names}))
"""


class Level(str, enum.Enum):
    """What the result of a check means for a run."""

    OK = "ok"
    NOTE = "note"  # a run works, but perhaps not as expected
    ERROR = "error"  # a run would fail


class Finding(NamedTuple):
    """The result of a check.

    Attributes:
      level: what it means for a run.
      message: what was found.
      remedy: what to do about it; empty if nothing.
    """

    level: Level
    message: str
    remedy: str = ""


class DoctorError(UserError):
    """A run would fail."""


def doctor() -> None:
    """Print the result of each check, one line each.

    Raises:
      DoctorError: a check found an error.
    """
    root = dvc.project_root(Path.cwd())
    errors = 0
    for name, finding in run_checks(root):
        errors += finding.level is Level.ERROR
        text = f"{finding.message}; {finding.remedy}" if finding.remedy else finding.message
        print(f"{finding.level.value:6}{name:14}{hide_secrets(' '.join(text.splitlines()))}", flush=True)
    if errors:
        lines = "line above that begins" if errors == 1 else f"{errors} lines above that begin"
        raise DoctorError(f"a run would fail on this machine: see the {lines} with `error`")


def run_checks(root: Path) -> Iterator[tuple[str, Finding]]:
    """The name and result of each check. A check that raises or times out has a result too; the others still run."""
    values: dict[str, Any] = {}
    with contextlib.suppress(SettingsError, OSError):
        values = params.read(root / "params.yaml")
    probe = BackgroundCall(TENSORFLOW_TIMEOUT, probe_tensorflow)  # in parallel with the other checks
    is_dataset = str(values.get("source")).startswith("tfds:")  # which TensorFlow reads
    checks: list[tuple[str, float, Callable[[], Finding]]] = [
        ("Python", CHECK_TIMEOUT, lambda: check_python(root)),
        ("packages", CHECK_TIMEOUT, check_packages),
        ("settings", CHECK_TIMEOUT, lambda: check_settings(root)),
        ("Git", CHECK_TIMEOUT, lambda: check_git(root)),
        ("DVC", CHECK_TIMEOUT, lambda: check_graph(root)),
        ("store", CHECK_TIMEOUT, lambda: check_shared_store(root)),
        ("source", TENSORFLOW_TIMEOUT if is_dataset else CHECK_TIMEOUT, lambda: check_source(values, root)),
        ("Prefect", CHECK_TIMEOUT, check_prefect),
        ("processor", CHECK_TIMEOUT, check_processor),
        ("memory", CHECK_TIMEOUT, check_memory),
        ("workspace", CHECK_TIMEOUT, lambda: check_disk(root)),
        ("DVC's cache", CHECK_TIMEOUT, lambda: check_disk(dvc.cache_folder(root))),
        ("user's cache", CHECK_TIMEOUT, lambda: check_disk(files.cache_folder())),
        ("TensorFlow", TENSORFLOW_TIMEOUT, lambda: check_tensorflow(probe.result(), str(values.get("device", "auto")))),
    ]
    for name, timeout, check in checks:
        try:
            yield name, BackgroundCall(timeout, check).result()
        except UserError as error:
            yield name, Finding(Level.ERROR, str(error))
        except OSError as error:
            prefix = f"{error.filename}: " if error.filename is not None else ""
            yield name, Finding(Level.ERROR, f"{prefix}{error.strerror or error}")
        except Exception as error:  # a defect in one check must not hide the others
            yield name, Finding(Level.NOTE, f"check failed: {type(error).__name__}: {error}")


class BackgroundCall:
    """A function call in a daemon thread. The process can exit even if the call never returns."""

    def __init__(self, timeout: float, function: Callable[[], Any]) -> None:
        self._timeout = timeout
        self._result: Any = None
        self._error: BaseException | None = TimeoutError(f"timed out after {timeout:g} seconds")
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self._result, self._error = function(), None
        except BaseException as error:  # raised by `result`
            self._error = error

    def result(self) -> Any:
        """Return or raise what the function returned or raised. Raise `TimeoutError` after `timeout` seconds."""
        self._thread.join(self._timeout)
        if self._error is not None:
            raise self._error
        return self._result


# --- The machine ---


def check_python(root: Path) -> Finding:
    """Check the version of Python, and that `dvc repro` in this shell would use the same Python."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    required = re.search(r'^requires-python = "(.+)"', (root / "pyproject.toml").read_text(), re.MULTILINE)
    if required and not SpecifierSet(required[1]).contains(version, prereleases=True):
        return Finding(
            Level.ERROR,
            f"{version}; the project needs {required[1]}",
            "create an environment with such a version: `make run`",
        )
    on_path = shutil.which("python")
    if on_path is None or Path(on_path).parent.resolve() != Path(sys.executable).parent.resolve():
        problem = f"would use {on_path}" if on_path else "would find no `python`"
        return Finding(
            Level.NOTE,
            f"{version}, {sys.executable}; `dvc repro` in this shell {problem}",
            "activate the environment: . .venv/bin/activate",
        )
    return Finding(Level.OK, f"{version}, {sys.executable}")


def check_packages() -> Finding:
    """Check that the project's dependencies are installed, in versions that it permits."""
    from packaging.requirements import Requirement

    problems = []
    for text in importlib.metadata.requires("quickdraw-pixelcnn") or ():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if problems:
        return Finding(Level.ERROR, ", ".join(problems), INSTALL)
    return Finding(Level.OK, "all are installed in permitted versions")


def probe_tensorflow() -> subprocess.CompletedProcess[str]:
    """Import TensorFlow and list its GPUs in a separate process, because it may crash and reserves the GPUs' memory."""
    command = [sys.executable, "-c", TENSORFLOW_PROBE]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TENSORFLOW_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"the import takes longer than {TENSORFLOW_TIMEOUT:g} seconds") from None


def check_tensorflow(probe: subprocess.CompletedProcess[str], device: str) -> Finding:
    """Check that TensorFlow can be imported and finds a GPU.

    Args:
      probe: what `probe_tensorflow` returned.
      device: the setting. Without a GPU, `gpu` is an error.
    """
    if probe.returncode:
        reason = (probe.stderr.strip() or f"exit code {probe.returncode}").splitlines()[-1]
        return Finding(Level.ERROR, f"cannot be imported: {reason}", INSTALL)
    build = json.loads(probe.stdout.splitlines()[-1])
    version = f"TensorFlow {build['version']}"
    if build["gpus"]:
        return Finding(Level.OK, f"{version} computes on {', '.join(build['gpus'])}")
    reason, remedy = why_no_gpu(bool(build["cuda"]), probe.stderr)
    if device == "gpu":
        return Finding(
            Level.ERROR, f"{version} finds no GPU, but device is gpu: {reason}", f"{remedy}, or use -S device=auto"
        )
    return Finding(Level.NOTE, f"{version} computes on the CPU: {reason}", remedy)


def why_no_gpu(cuda: bool, stderr: str) -> tuple[str, str]:
    """The reason why TensorFlow finds no GPU, and what to do about it.

    Args:
      cuda: whether TensorFlow was built with CUDA.
      stderr: what it wrote to standard error when it listed the GPUs.
    """
    if not cuda:
        return "it was built without CUDA", "a GPU needs NVIDIA's driver and TensorFlow's package for Linux"
    if not (Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()):
        return "no NVIDIA driver is installed", "use the profile quick or laptop, made for machines without a GPU"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return f"CUDA_VISIBLE_DEVICES is {visible!r}, which hides all GPUs", "unset CUDA_VISIBLE_DEVICES"
    if "dlopen" in stderr or "libcu" in stderr:
        return "the NVIDIA driver is installed, but CUDA's libraries are not", INSTALL_GPU
    return "the NVIDIA driver shows it no GPU", "check that `nvidia-smi` lists one"


def check_processor() -> Finding:
    """Report how many cores a run may use."""
    cores = usable_cores()
    return Finding(Level.OK, f"{counted(cores, 'core')}, {platform.machine()}")


def check_memory() -> Finding:
    """Check the free memory, within the memory limit of a container."""
    import psutil

    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    if free < LOW_MEMORY:
        return Finding(
            Level.NOTE,
            f"{free / 1e9:.1f} GB are free, which may be too little",
            "reduce batch_size or num_filters, or close other programs",
        )
    return Finding(Level.OK, f"{free / 1e9:.1f} GB are free")


def check_disk(folder: Path) -> Finding:
    """Check that a folder can be written to and that its disk has space. The folder need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        return Finding(Level.ERROR, f"{existing} is not a folder", "move or rename it")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Finding(
            Level.ERROR,
            f"{existing} cannot be written to ({error.strerror})",
            "check its permissions and the free disk space",
        )
    free = shutil.disk_usage(existing).free
    message, remedy = f"{folder}: {free / 1e9:.1f} GB are free", "delete files, or run `dvc gc --workspace`"
    if free < MIN_DISK:
        return Finding(Level.ERROR, f"{message}, which is too little", remedy)
    if free < LOW_DISK:
        return Finding(Level.NOTE, f"{message}, which may be too little", remedy)
    return Finding(Level.OK, message)


# --- The project ---


def check_settings(root: Path) -> Finding:
    """Check that params.yaml is valid."""
    try:
        params.check(params.read(root / "params.yaml"), "params.yaml")
    except SettingsError as error:
        return Finding(Level.ERROR, str(error), "change it, or run `git restore params.yaml`")
    return Finding(Level.OK, "params.yaml is valid")


def check_git(root: Path) -> Finding:
    """Check that DVC can save experiments, and report the files that differ from the last commit."""
    dvc.find_root(root)  # raises an error without a Git repository or a commit
    changed = dvc.changed_files(root)
    if others := sorted(changed - dvc.RUN_FILES):
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        return Finding(
            Level.NOTE,
            f"{', '.join(others[:3])}{more}: not as in the last commit, on which DVC bases experiments",
            "commit what others need to reproduce a run",
        )
    if changed:
        files = " ".join(sorted(changed, reverse=True))
        return Finding(
            Level.OK, f"changed by the last run: `git commit {files}` keeps the run, `git restore {files}` goes back"
        )
    return Finding(Level.OK, "all files are as in the last commit")


def check_graph(root: Path) -> Finding:
    """Check that DVC can read its graph, and report how many stages have run."""
    if not (root / ".dvc").is_dir():
        return Finding(Level.ERROR, f"{root} has no folder .dvc", "run `git restore .dvc`")
    lock = root / dvc.LOCK_FILE
    if lock.exists() and dvc.is_torn(lock.read_bytes()):
        return Finding(
            Level.NOTE,
            "dvc.lock is damaged, probably by an interrupt: `dvc repro` fails",
            "`python -m pipeline run` repairs it",
        )
    recorded = dvc.stages_in_lockfile(root)  # raises an error with a remedy, where DVC's own has none
    names = [stage.name for stage in dvc.stages(root)]
    recorded = recorded.intersection(names)
    return Finding(Level.OK, f"{len(recorded)} of the {len(names)} stages have run, according to dvc.lock")


def check_shared_store(root: Path) -> Finding:
    """Check that the store of the runs on this machine can be read and written to, if there is one."""
    store = os.environ.get(dvc.STORE_VARIABLE, "")
    if not store and dvc.remote(root) is None:
        return Finding(Level.OK, "no store is configured (optional): outputs stay on this machine")
    if store and "://" not in store:
        if os.path.isabs(store):
            return check_disk(Path(store))
        remedy = "expected: a URL or an absolute folder"
        return Finding(Level.ERROR, f"{dvc.STORE_VARIABLE} is {store!r}", remedy)
    try:
        dvc.check_store(root, write=True, url=store.removeprefix("file://"))
    except dvc.StoreError as error:
        remedy = "check its address, its rights and the network, or docs/prefect.md for its credentials"
        return Finding(Level.NOTE, f"{error}: a run works without it, and shares nothing", remedy)
    return Finding(Level.OK, f"{hide_secrets(store) or repr(dvc.remote(root))} can be read and written to")


# --- The network ---


def check_source(values: dict[str, Any], root: Path) -> Finding:
    """Check that the source of params.yaml has drawings of the classes: at a URL, only those of the first class."""
    address, classes = values.get("source"), values.get("classes")
    if not isinstance(address, str) or not address or not isinstance(classes, list) or not classes:
        return Finding(Level.NOTE, "not checked, because params.yaml is not valid")
    if address == params.DOODLES:
        return Finding(Level.OK, "doodles, which need no download")
    scheme, separator, _ = address.partition("://")
    if not separator or scheme == "file":
        try:
            settings = params.check(values, "params.yaml")
        except SettingsError:
            return Finding(Level.NOTE, "not checked, because params.yaml is not valid")
        return check_here(settings, root)
    check = check_website if scheme in ("http", "https") else check_store
    finding, *others = (check(address, name) for name in _forms(str(classes[0])))
    return next((other for other in others if other.level is Level.OK), finding)


def _forms(name: str) -> list[str]:
    """The two forms in which Unicode writes letters such as `é`: one for a name without such letters."""
    return list(dict.fromkeys(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))


def check_here(settings: params.Params, root: Path) -> Finding:
    """Check a source on this machine as extract and filter do: its files, its counts and a sample of its pixels."""
    from stages.quickdraw import npy_header, selection, sources

    try:
        source = sources.open_source(settings.source, root)
        counts = source.counts()
        number = selection.resolve_num_drawings(settings.num_drawings, counts)
    except UserError as error:
        return Finding(Level.ERROR, str(error).removeprefix("source: "), USE_ANOTHER_SOURCE)
    total = sum(counts.values())
    listed = counts
    expected = min(counts.get(name, 0) for name in settings.classes) * number / total
    if expected < SURELY_ENOUGH and number < total <= MAX_LISTED:
        listed = {str(name): count for name, count in source.index(number)["name"].value_counts().items()}
    if scarce := selection.find_scarce(settings.classes, listed):
        return Finding(Level.ERROR, f"classes: {selection.explain_scarce(scarce, number, counts)}")
    for problem in _sample_problems(source, {name: counts[name] for name in settings.classes}):
        return Finding(Level.ERROR if problem.is_error else Level.NOTE, f"{settings.source}: {problem.message}")
    of_shape = npy_header.describe_shape(source.image_shape())
    message = f"{settings.source} has {counted(total, 'drawing')} of {of_shape}, and enough of each class of the run"
    if settings.num_drawings != "all" and number < settings.num_drawings:
        return Finding(
            Level.NOTE, f"{message}; num_drawings is {settings.num_drawings:,}: a run uses all that there are"
        )
    return Finding(Level.OK, message)


def _sample_problems(source: Source, counts: dict[str, int]) -> list[Problem]:
    """What is wrong with the pixels of some drawings of each class, taken from the whole length of its file."""
    import numpy as np

    from stages.quickdraw.mirrors import Mirror
    from stages.quickdraw.pixel_checks import PixelCheck

    if not isinstance(source, Mirror):  # a dataset that TensorFlow Datasets has checked
        return []
    shape = source.image_shape()
    check = PixelCheck(grey=shape[-1] == 1)
    for name, count in counts.items():
        rows = np.linspace(0, count - 1, min(count, SAMPLE), dtype=np.int32)
        pixels = np.empty((len(rows), math.prod(shape)), np.uint8)
        source.read_rows(name, rows, pixels)
        check.add(name, pixels)
    return check.problems()


def check_website(address: str, name: str) -> Finding:
    """Check that a web server has the file of the class `name`."""
    parts = urlsplit(address)
    path, host = f"{parts.path.rstrip('/')}/{name}.npy", parts.netloc.rpartition("@")[2]
    file = urlunsplit((parts.scheme, host, quote(path, safe="/%"), parts.query, ""))
    request = urllib.request.Request(file, method="HEAD")
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=NETWORK_TIMEOUT):
            return Finding(Level.OK, f"{address} answers")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code < 400 or error.code == 405:  # a redirect, or a server that does not support HEAD
            return Finding(Level.OK, f"{address} answers")
        return Finding(Level.ERROR, f"{address} has no {name}.npy ({error.code} {error.reason})", USE_ANOTHER_SOURCE)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return Finding(
            Level.ERROR,
            f"{address} does not answer ({reason})",
            f"check the network connection, or {USE_ANOTHER_SOURCE}",
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Do not follow a redirect: it is enough to show that the server answers. The stages check its target."""


def check_store(address: str, name: str) -> Finding:
    """Check that a store that fsspec reads has the file of the class `name`."""
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(address.rstrip("/"))
        size = filesystem.info(f"{path}/{name}.npy")["size"]
    except ImportError as error:
        return Finding(Level.ERROR, f"{address} needs a package that is missing ({error})", "install it")
    except FileNotFoundError:
        return Finding(Level.ERROR, f"{address} has no {name}.npy", USE_ANOTHER_SOURCE)
    except Exception as error:  # each kind of store has other exceptions
        reason = str(error) or type(error).__name__
        return Finding(Level.ERROR, f"{address} does not answer ({reason})", USE_ANOTHER_SOURCE)
    return Finding(Level.OK, f"{address} answers: the size of {name}.npy is {size:,} bytes")


def check_prefect() -> Finding:
    """Check that the Prefect server answers, if one is configured."""
    address = server.configured_server()
    if address is None:
        return Finding(Level.OK, "no server is configured (optional); `python -m pipeline serve` starts one")
    if server.server_answers(address):
        return Finding(Level.OK, f"the server at {address} answers")
    return Finding(
        Level.NOTE,
        f"the server at {address} does not answer: it will not show runs",
        "start it, or unset PREFECT_API_URL",
    )
