"""What can go wrong around a stage: it ends in one clear line, or heals, and nothing that was whole is damaged."""

import ctypes
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

from stages import command, extract, params, sample, train
from stages.common import checkpoints, files
from tests.full_disk import fill, tmpfs
from tests.settings import write
from tests.stages import tiny_run
from tests.stages.drawings import make_mirror, noise
from tests.stages.quickdraw.test_tfds import prepare

pytestmark = pytest.mark.torture

OUTPUTS = {
    "extract": ["data/extract/index.parquet"],
    "filter": ["data/filter/images.npy", "data/filter/drawings.parquet"],
    "train": ["data/train/weights.safetensors", "data/train/config.json", "data/train/loss.csv"],
    "sample": ["data/sample/samples.npy"],
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
INPUTS = {
    "filter": ["data/extract/index.parquet"],
    "train": OUTPUTS["filter"],
    "sample": ["data/train/weights.safetensors", "data/train/config.json"],
    "judge": OUTPUTS["filter"],
    "evaluate": [
        *OUTPUTS["filter"],
        "data/train/weights.safetensors",
        "data/train/config.json",
        "data/sample/samples.npy",
        *OUTPUTS["judge"],
    ],
    "report": [
        *OUTPUTS["filter"],
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
def whole(settings: params.Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages have run."""
    folder = tmp_path_factory.mktemp("whole")
    tiny_run.run(folder, settings)
    write(folder, settings.model_dump(mode="json"))
    return folder


@pytest.fixture
def workspace(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to spoil, which is the current folder, with a cache of its own."""
    folder = tmp_path / "workspace"
    shutil.copytree(whole, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return folder


def hashes() -> dict[str, str]:
    """Of every file here."""
    return {str(path): files.sha256(path) for path in Path().rglob("*") if path.is_file()}


class Fails(Protocol):
    """Run a stage that cannot succeed; its line, when all that it should leave alone is as it was."""

    def __call__(self, stage: str, why: str = "") -> str: ...


@pytest.fixture
def fails(capfd: pytest.CaptureFixture[str]) -> Fails:
    def run(stage: str, why: str = "") -> str:
        for path in map(Path, OUTPUTS[stage]):
            path.write_text(f"the {path} of before")
        before = _readable_hashes()
        capfd.readouterr()
        code = command.run(tiny_run.STAGES[stage].main, "", [])
        lines = capfd.readouterr().err.splitlines()
        said = [line for line in lines if not re.match(r"[EWI]\d{4} ", line)]  # TensorFlow's own log, now and then
        assert code == 1, why
        assert len(said) == 1 and said[0].startswith("error: "), (why, said)
        assert _readable_hashes() == before, why
        return said[0]

    return run


def _readable_hashes() -> dict[str, str]:
    found = {}
    for path in Path().rglob("*"):
        with suppress(PermissionError, IsADirectoryError):
            found[str(path)] = files.sha256(path)
    return found


# --- Disks ---


@pytest.mark.parametrize(
    ("stage", "room"),
    [(stage, room) for stage in tiny_run.STAGES for room in (0, 0.5) if (stage, room) != ("evaluate", 0)],
)
def test_a_full_disk(
    stage: str, room: float, whole: Path, workspace: Path, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room at all, or for half of what the stage writes."""
    need = sum((whole / path).stat().st_size for path in OUTPUTS[stage])
    disk = tmp_path / "disk"
    with tmpfs(disk, 8 << 20):
        shutil.copytree(workspace, disk / "workspace")
        monkeypatch.chdir(disk / "workspace")
        for path in OUTPUTS[stage]:
            Path(path).write_text("before" * 100)  # room for what `fails` writes
        fill(disk, int(need * room))
        try:
            said = fails(stage)
        finally:
            monkeypatch.chdir(tmp_path)
    where = re.fullmatch(r"error: (\S+): No space left on device", said)
    assert where, said
    places = {path for out in OUTPUTS[stage] for path in (out, str(Path(out).parent))}
    assert where[1] in places or where[1].startswith("reports/classes/"), said


@pytest.mark.parametrize("stage", ["train", "sample"])
def test_a_full_disk_for_checkpoints(
    stage: str,
    whole: Path,
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The stage goes on without, says so once, and ends with the same bytes."""
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "MAX_TIME_SHARE", 1e9)
    disk = tmp_path / "cache"
    before = hashes()
    with tmpfs(disk, 1 << 20):
        fill(disk, 0)
        assert command.run(tiny_run.STAGES[stage].main, "", []) == 0
    said = capfd.readouterr().err
    assert said.count("checkpoint: ") == 1 and "cannot be written (No space left on device): the stage goes on" in said
    assert hashes() == before


@contextmanager
def as_anybody() -> Iterator[None]:
    """Heed the modes of files, which root may ignore: give up the capabilities to, for a while (Linux)."""
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
    with mode(Path(top), 0o555), as_anybody():
        said = fails(stage)
    assert re.fullmatch(rf"error: {top}/\S+: Permission denied", said), said


def test_settings_that_cannot_be_read(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with mode(Path("params.yaml"), 0), as_anybody():
        assert command.run(train.main, "", []) != 0
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ") and "params.yaml" in said


# --- Inputs ---


@pytest.mark.parametrize(("stage", "path"), EVERY_INPUT)
def test_an_input_that_is_not_what_it_should_be(
    stage: str, path: str, workspace: Path, fails: Fails, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not there, cut off, something else, a folder, not to be read: one line that names the file, or its folder."""
    file = Path(path)
    content = file.read_bytes()
    whats = ["not there", "empty", "cut off", "something else", "a folder", "not to be read"]
    if file.suffix == ".csv":
        whats.remove("cut off")  # what is left is a table too; DVC knows that it is another
    for what in whats:
        file.unlink(missing_ok=True)
        match what:
            case "empty":
                file.touch()
            case "cut off":
                file.write_bytes(content[: 2 * len(content) // 3])
            case "something else":
                file.write_bytes(b"\x00\xff{[\n" * 50)
            case "a folder":
                file.mkdir()
            case "not to be read":
                file.write_bytes(content)
                file.chmod(0)
        with as_anybody():
            said = fails(stage, what)
        assert path in said or str(file.parent) in said, f"{what}: {said}"
        if file.is_dir():
            file.rmdir()
    file.unlink(missing_ok=True)
    file.write_bytes(content)


@pytest.mark.parametrize("source", ["a folder", "doodles", "prefetched", "tfds"])
@pytest.mark.parametrize("row", [10**9, -1])
def test_an_index_that_names_a_row_that_is_not_there(
    source: str, row: int, settings: params.Params, workspace: Path, fails: Fails, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"prefetch": source == "prefetched"}
    if source in ("a folder", "tfds"):
        counts = dict.fromkeys(tiny_run.CLASSES, 100)
        mirror = make_mirror(tmp_path / "mirror", counts)
        changes |= {"mirror": str(mirror), "num_drawings": 200}
    if source == "tfds":
        drawings = {name: noise(name, rows) for name, rows in counts.items()}
        prepare(tmp_path, drawings, extract.build_index(counts, 300), [300])
        changes |= {"source": "tfds", "data_dir": str(tmp_path)}
    chosen = settings.model_copy(update=changes)
    write(Path(), chosen.model_dump(mode="json"))
    assert command.run(tiny_run.STAGES["extract"].main, "", []) == 0
    path = Path("data/extract/index.parquet")
    index = pd.read_parquet(path)
    column = "position" if source in ("prefetched", "tfds") else "row"
    index.loc[index.index[index["name"] == "bee"][3], column] = row
    index.to_parquet(path, index=False)
    said = fails("filter")
    assert str(row) in said.replace(",", "") and "run" in said, said


# --- Memory ---


@pytest.fixture(scope="module")
def exhausted() -> Exception:
    """TensorFlow's own error for a tensor that fits nowhere. (It waits ten seconds for room.)"""
    import tensorflow as tf

    with pytest.raises(tf.errors.ResourceExhaustedError) as caught:
        tf.fill((1 << 30, 1 << 20), 1.0)
    return caught.value


@pytest.mark.parametrize(
    ("stage", "where", "named"),
    [
        ("train", "stages.pixelcnn.training.Trainer.step", ["batch_size", "num_filters", "num_resnet"]),
        ("sample", "stages.pixelcnn.sampling.sample", ["samples_per_class", "eval_samples_per_class", "guidance"]),
        ("judge", "stages.outputs.dataset.load", ["num_drawings"]),
        ("evaluate", "stages.pixelcnn.network.forward", ["eval_samples_per_class", "num_drawings", "num_filters"]),
    ],
)
def test_where_a_gpu_has_no_room_the_settings_to_lower_are_named(
    stage: str,
    where: str,
    named: list[str],
    exhausted: Exception,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Through the stage's command, from where it computes."""

    def too_much(*_: object, **__: object) -> object:
        raise exhausted

    before = hashes()
    monkeypatch.setattr(where, too_much)
    monkeypatch.setattr(sys, "argv", [f"stages.{stage}"])
    monkeypatch.delitem(sys.modules, f"stages.{stage}")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"stages.{stage}", run_name="__main__")
    assert ended.value.code == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert re.match(r"error: out of memory \(shape\[1073741824,1048576\] and type float on .*\): lower ", said), said
    assert all(re.search(rf"\b{setting}\b", said.partition(" lower ")[2]) for setting in named)
    assert set(named) <= params.Params.model_fields.keys()
    assert hashes() == before


# --- Checkpoints ---


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step, and after every few drawings."""
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "MAX_TIME_SHARE", 1e9)
    monkeypatch.setattr("stages.pixelcnn.sampling.MAX_TILE", 4)


def interrupt(stage: ModuleType, chosen: params.Params) -> list[Path]:
    """End a stage after its third checkpoint, as a kill would; those that are left, in their order."""

    class Ended(BaseException):
        pass

    def save(kept: checkpoints.Checkpoints, checkpoint: checkpoints.Checkpoint) -> bool:
        saved.append(real_save(kept, checkpoint))
        if len(saved) == 3:
            raise Ended
        return True

    saved: list[bool] = []
    real_save = checkpoints.Checkpoints.save
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Ended):
        patch.setattr(checkpoints.Checkpoints, "save", save)
        stage.main(chosen)
    assert saved == [True] * 3
    return sorted((files.cache_folder() / "checkpoints").rglob("*.safetensors"))


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("damaged", [[-1], [-2], [-1, -2]], ids=["the newest", "the one before", "both"])
@pytest.mark.parametrize("stage", [train, sample], ids=["train", "sample"])
def test_each_checkpoint_is_damaged(
    stage: ModuleType,
    damaged: list[int],
    settings: params.Params,
    workspace: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The stage says so, goes on from what is left, and ends with the same."""
    before, kept = hashes(), interrupt(stage, settings)
    assert len(kept) == checkpoints.KEEP_LAST and hashes() == before
    for place in damaged:
        content = bytearray(kept[place].read_bytes())
        content[len(content) // 2] ^= 1
        kept[place].write_bytes(content)
    capfd.readouterr()
    stage.main(settings)
    said = capfd.readouterr().err
    name = stage.__name__.rpartition(".")[2]
    assert said.count(" is damaged (") == (0 if damaged == [-2] else len(damaged))
    assert (f"{name}: goes on after" in said) == (len(damaged) == 1)
    assert hashes() == before
    assert not list((files.cache_folder() / "checkpoints").iterdir())


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("stage", [train, sample], ids=["train", "sample"])
def test_no_run_goes_on_from_anothers_checkpoints(
    stage: ModuleType, settings: params.Params, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever its outcome depends on has changed: settings, data, weights."""
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
    assert "goes on after" not in capfd.readouterr().err
