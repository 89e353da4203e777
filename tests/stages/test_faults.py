"""Faults around a stage: it prints a one-line error or recovers, and it never damages existing files."""

import ctypes
import math
import os
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pytest

from stages import command, params, sample, train
from stages.common import checkpoints, files
from stages.quickdraw import selection, sources
from stages.quickdraw.labels import PublishedFile
from tests.full_disk import fill, tmpfs
from tests.settings import write
from tests.stages import tiny_run
from tests.stages.drawings import make_mirror, noise
from tests.stages.quickdraw.test_tfds import prepare

pytestmark = pytest.mark.robustness

OUTPUTS = {
    "extract": ["data/extract/index.parquet"],
    "filter": ["data/filter/images.npy", "data/filter/drawings.parquet", "reports/drawings.png"],
    "train": [
        "data/train/weights.safetensors",
        "data/train/config.json",
        "data/train/loss.csv",
        "data/train/film.safetensors",
    ],
    "sample": [
        "data/sample/samples.npy",
        "data/sample/settings.json",
        "data/sample/completions.npy",
        "data/sample/completions.json",
    ],
    "judge": ["data/judge/weights.safetensors", "data/judge/config.json"],
    "evaluate": [
        "data/evaluate/drawings.safetensors",
        "data/evaluate/made_with.json",
        "reports/metrics.json",
        "reports/metrics.csv",
        "reports/classes.csv",
        "reports/confusion.csv",
    ],
    "report": ["reports/index.html", "reports/classes/26_bee.png"],
}
DATASET = OUTPUTS["filter"][:2]
INPUTS = {
    "filter": ["data/extract/index.parquet"],
    "train": DATASET,
    "sample": [*DATASET, "data/train/weights.safetensors", "data/train/config.json"],
    "judge": DATASET,
    "evaluate": [
        *DATASET,
        "data/train/weights.safetensors",
        "data/train/config.json",
        "data/sample/samples.npy",
        "data/sample/completions.npy",
        *OUTPUTS["judge"],
    ],
    "report": [
        *DATASET,
        "data/train/config.json",
        "data/train/loss.csv",
        "data/sample/samples.npy",
        "data/evaluate/drawings.safetensors",
        "data/evaluate/made_with.json",
        "reports/metrics.csv",
        "reports/confusion.csv",
    ],
}
EVERY_INPUT = [(stage, path) for stage, paths in INPUTS.items() for path in paths]


@pytest.fixture(scope="module")
def settings(full_run: params.Params) -> params.Params:
    return tiny_run.settings(full_run)


@pytest.fixture(scope="module")
def finished(settings: params.Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages have run."""
    folder = tmp_path_factory.mktemp("finished")
    tiny_run.run(folder, settings)
    write(folder, settings.model_dump(mode="json"))
    return folder


@pytest.fixture
def workspace(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, with an empty cache. It is the current folder; tests may damage it."""
    folder = tmp_path / "workspace"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return folder


def hashes() -> dict[str, str]:
    """Return the hash of every file in the current folder."""
    return {str(path): files.sha256(path) for path in Path().rglob("*") if path.is_file()}


class Fails(Protocol):
    """Runs a stage that must fail, checks that it prints one line and changes no file, and returns the line."""

    def __call__(self, stage: str, fault: str = "") -> str: ...


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Fails:
    monkeypatch.setattr("stages.common.progress.LINE_EVERY_SECONDS", math.inf)  # a busy machine would print progress

    def run(stage: str, fault: str = "") -> str:
        for path in map(Path, OUTPUTS[stage]):
            path.write_text(f"the old {path}")
        before = _readable_hashes()
        capfd.readouterr()
        code = command.run(tiny_run.STAGES[stage].main, "", [])
        lines = capfd.readouterr().err.splitlines()
        # TensorFlow sometimes prints log lines; train says where its losses grow.
        lines = [line for line in lines if not re.match(r"[EWI]\d{4} |train: the losses so far are in ", line)]
        assert code == 1, fault
        assert len(lines) == 1 and lines[0].startswith("error: "), (fault, lines)
        assert _readable_hashes() == before, fault
        return lines[0]

    return run


def _readable_hashes() -> dict[str, str]:
    readable = {}
    for path in Path().rglob("*"):
        with suppress(PermissionError, IsADirectoryError):
            readable[str(path)] = files.sha256(path)
    return readable


# --- Disks ---


@pytest.mark.parametrize(
    ("stage", "free"),
    [(stage, free) for stage in tiny_run.STAGES for free in (0, 0.5) if (stage, free) != ("evaluate", 0)],
)
def test_a_full_disk(
    stage: str,
    free: float,
    finished: Path,
    workspace: Path,
    fails: Fails,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk has no space, or space for half of the stage's outputs."""
    size = sum((finished / path).stat().st_size for path in OUTPUTS[stage])
    disk = tmp_path / "disk"
    with tmpfs(disk, 8 << 20):
        shutil.copytree(workspace, disk / "workspace")
        monkeypatch.chdir(disk / "workspace")
        for path in OUTPUTS[stage]:
            Path(path).write_text("old" * 200)  # reserves space for what `fails` writes
        fill(disk, int(size * free))
        try:
            message = fails(stage)
        finally:
            monkeypatch.chdir(tmp_path)
    match = re.fullmatch(r"error: (\S+): No space left on device", message)
    assert match, message
    expected = {path for out in OUTPUTS[stage] for path in (out, str(Path(out).parent))}
    assert match[1] in expected or match[1].startswith("reports/classes/"), message


@pytest.mark.parametrize("stage", ["train", "sample"])
def test_a_full_disk_for_checkpoints(
    stage: str,
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The stage continues without checkpoints, warns once, and writes the same bytes."""
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "MAX_TIME_SHARE", 1e9)
    disk = tmp_path / "cache"
    before = hashes()
    with tmpfs(disk, 1 << 20):
        fill(disk, 0)
        assert command.run(tiny_run.STAGES[stage].main, "", []) == 0
    message = capfd.readouterr().err
    assert message.count("checkpoint: ") == 1
    assert "cannot be written (No space left on device): the stage continues" in message
    assert hashes() == before


@contextmanager
def file_modes_enforced() -> Iterator[None]:
    """Enforce the modes of files for root too: drop the capabilities to bypass them while the block runs (Linux)."""
    if os.geteuid():
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root ignores the modes of files")
    version_3, override, search = 0x20080522, 1 << 1, 1 << 2
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(version_3, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, and the upper halves
    assert libc.capget(header, data) == 0
    before = data[0]
    data[0] = before & ~(override | search)
    assert libc.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = before
        assert libc.capset(header, data) == 0


@contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


@pytest.mark.parametrize("stage", tiny_run.STAGES)
def test_a_folder_that_cannot_be_written_to(stage: str, workspace: Path, fails: Fails) -> None:
    top = Path(OUTPUTS[stage][0]).parts[0]
    with mode(Path(top), 0o555), file_modes_enforced():
        message = fails(stage)
    assert re.fullmatch(rf"error: {top}/\S+: Permission denied", message), message


def test_settings_that_cannot_be_read(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with mode(Path("params.yaml"), 0), file_modes_enforced():
        assert command.run(train.main, "", []) != 0
    message = capfd.readouterr().err
    assert message.count("\n") == 1 and message.startswith("error: ") and "params.yaml" in message


# --- Inputs ---


@pytest.mark.parametrize(("stage", "path"), EVERY_INPUT)
def test_a_missing_damaged_or_unreadable_input(
    stage: str, path: str, workspace: Path, fails: Fails, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error is one line that names the file or its folder."""
    file = Path(path)
    content = file.read_bytes()
    faults = ["missing", "empty", "truncated", "other content", "a folder", "unreadable"]
    if file.suffix == ".csv":
        faults.remove("truncated")  # a truncated table is a valid table; DVC detects the change
    for fault in faults:
        file.unlink(missing_ok=True)
        match fault:
            case "empty":
                file.touch()
            case "truncated":
                file.write_bytes(content[: 2 * len(content) // 3])
            case "other content":
                file.write_bytes(b"\x00\xff{[\n" * 50)
            case "a folder":
                file.mkdir()
            case "unreadable":
                file.write_bytes(content)
                file.chmod(0)
        with file_modes_enforced():
            message = fails(stage, fault)
        assert path in message or str(file.parent) in message, f"{fault}: {message}"
        if file.is_dir():
            file.rmdir()
    file.unlink(missing_ok=True)
    file.write_bytes(content)


@pytest.mark.parametrize("source", ["a folder", "doodles", "prefetched", "tfds"])
@pytest.mark.parametrize("row", [10**9, -1])
def test_an_index_with_a_row_that_does_not_exist(
    source: str,
    row: int,
    settings: params.Params,
    workspace: Path,
    fails: Fails,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes: dict[str, Any] = {"prefetch": source == "prefetched"}
    counts = dict.fromkeys(tiny_run.CLASSES, 100)
    if source == "a folder":
        changes |= {"source": str(make_mirror(tmp_path / "mirror", counts)), "num_drawings": 200}
    if source == "tfds":
        drawings = {name: noise(name, rows) for name, rows in counts.items()}
        prepare(tmp_path, drawings, selection.build_index(counts, 300), [300])
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
        monkeypatch.setattr(sources, "published", lambda: dict.fromkeys(counts, PublishedFile(80 + 100 * 784, "")))
        changes |= {"source": "tfds:quickdraw_bitmap", "num_drawings": 200}
    changed = settings.model_copy(update=changes)
    write(Path(), changed.model_dump(mode="json"))
    assert command.run(tiny_run.STAGES["extract"].main, "", []) == 0
    path = Path("data/extract/index.parquet")
    index = pd.read_parquet(path)
    column = "position" if source in ("prefetched", "tfds") else "row"
    index.loc[index.index[index["name"] == "bee"][3], column] = row
    index.to_parquet(path, index=False)
    message = fails("filter")
    assert str(row) in message.replace(",", "") and "run" in message, message


# --- Memory ---


@pytest.fixture(scope="module")
def exhausted() -> Exception:
    """TensorFlow's error for a tensor that is too large. (TensorFlow waits ten seconds for memory.)"""
    import tensorflow as tf

    with pytest.raises(tf.errors.ResourceExhaustedError) as caught:
        tf.fill((1 << 30, 1 << 20), 1.0)
    return caught.value


@pytest.mark.parametrize(
    ("stage", "function", "expected"),
    [
        ("train", "stages.pixelcnn.training.Trainer.step", ["batch_size", "num_filters", "num_resnet"]),
        ("sample", "stages.pixelcnn.sampling.sample", ["samples_per_class", "eval_samples_per_class", "guidance"]),
        ("judge", "stages.outputs.dataset.load", ["num_drawings"]),
        ("evaluate", "stages.pixelcnn.network.forward", ["eval_samples_per_class", "num_drawings", "num_filters"]),
    ],
)
def test_out_of_gpu_memory_names_the_settings_to_lower(
    stage: str,
    function: str,
    expected: list[str],
    exhausted: Exception,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The error is raised where the stage computes, and reported by the stage's command."""

    def raise_exhausted(*_: object, **__: object) -> object:
        raise exhausted

    before = hashes()
    monkeypatch.setattr(function, raise_exhausted)
    monkeypatch.setattr(sys, "argv", [f"stages.{stage}"])
    monkeypatch.delitem(sys.modules, f"stages.{stage}")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"stages.{stage}", run_name="__main__")
    assert ended.value.code == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert re.match(r"error: out of memory \(shape\[1073741824,1048576\] and type float on .*\): lower ", line), line
    assert all(re.search(rf"\b{setting}\b", line.partition(" lower ")[2]) for setting in expected)
    assert set(expected) <= params.Params.model_fields.keys()
    assert hashes() == before


# --- Checkpoints ---


@pytest.fixture
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a checkpoint after every training step, and after every few generated drawings."""
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "MAX_TIME_SHARE", 1e9)
    monkeypatch.setattr("stages.pixelcnn.sampling.MAX_CPU_BATCH", 4)


def interrupt(stage: ModuleType, settings: params.Params) -> list[Path]:
    """End a stage after its third checkpoint, as a kill would, and return the saved checkpoints in order."""

    class Killed(BaseException):
        pass

    def save(run: checkpoints.Checkpoints, checkpoint: checkpoints.Checkpoint) -> bool:
        saved.append(real_save(run, checkpoint))
        if len(saved) == 3:
            raise Killed
        return True

    saved: list[bool] = []
    real_save = checkpoints.Checkpoints.save
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoints.Checkpoints, "save", save)
        stage.main(settings)
    assert saved == [True] * 3
    return sorted((files.cache_folder() / "checkpoints").rglob("*.safetensors"))


@pytest.mark.usefixtures("frequent_checkpoints")
@pytest.mark.parametrize("damaged", [[-1], [-2], [-1, -2]], ids=["newest", "previous", "both"])
@pytest.mark.parametrize("stage", [train, sample], ids=["train", "sample"])
def test_a_stage_resumes_from_an_undamaged_checkpoint(
    stage: ModuleType,
    damaged: list[int],
    settings: params.Params,
    workspace: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It reports the damaged checkpoint that it tried to read, and writes the same bytes."""
    before, paths = hashes(), interrupt(stage, settings)
    assert len(paths) == checkpoints.KEEP_LAST and hashes() == before
    for index in damaged:
        content = bytearray(paths[index].read_bytes())
        content[len(content) // 2] ^= 1
        paths[index].write_bytes(content)
    capfd.readouterr()
    stage.main(settings)
    message = capfd.readouterr().err
    name = stage.__name__.rpartition(".")[2]
    assert message.count(" is damaged (") == (0 if damaged == [-2] else len(damaged))
    assert (f"{name}: resumes after" in message) == (len(damaged) == 1)
    assert hashes() == before
    assert not list((files.cache_folder() / "checkpoints").iterdir())


@pytest.mark.usefixtures("frequent_checkpoints")
@pytest.mark.parametrize("stage", [train, sample], ids=["train", "sample"])
def test_a_run_does_not_resume_from_another_runs_checkpoints(
    stage: ModuleType, settings: params.Params, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Runs with other settings, data or weights have other checkpoints."""
    interrupt(stage, settings)
    capfd.readouterr()
    changes: dict[str, Any] = {"seed": 7} if stage is train else {"temperature": 0.5}
    stage.main(settings.model_copy(update=changes))
    if stage is train:
        images = np.load("data/filter/images.npy")
        images[0, 14, 14] ^= 1
        np.save("data/filter/images.npy", images)
    else:
        train.main(settings.model_copy(update={"seed": 9}))
    stage.main(settings)
    assert "resumes after" not in capfd.readouterr().err
