import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from stages.common import checkpoints
from stages.common.checkpoints import Checkpoint, Checkpoints


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path))
    return tmp_path


def state(step: int) -> Checkpoint:
    return Checkpoint(step, {"a/b": np.full((2, 3), step, np.float32), "c": np.array([step, 0.1])})


def test_the_newest_checkpoint_is_read_and_the_last_two_are_kept() -> None:
    run = Checkpoints("run")
    assert run.newest() is None
    for step in (5, 100, 20_000):
        run.save(state(step))
    newest = Checkpoints("run").newest()
    assert newest is not None and newest.step == 20_000
    for name, array in state(20_000).arrays.items():
        np.testing.assert_array_equal(newest.arrays[name], array)
        assert newest.arrays[name].dtype == array.dtype
    assert len(list(run.folder.glob("*.safetensors"))) == 2
    assert Checkpoints("another").newest() is None
    run.clear()
    assert Checkpoints("run").newest() is None


@pytest.mark.parametrize("damage", ["empty", "truncated", "a flipped bit", "another file", "a folder"])
def test_the_previous_checkpoint_replaces_a_is_damaged(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = Checkpoints("run")
    for step in (1, 2):
        run.save(state(step))
    path = max(run.folder.iterdir())
    content = path.read_bytes()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "a flipped bit":
            path.write_bytes(content[:-5] + bytes([content[-5] ^ 16]) + content[-4:])
        case "another file":
            path.write_bytes(b"{}" * 100)
        case "a folder":
            path.unlink()
            path.mkdir()
    newest = run.newest()
    assert newest is not None and newest.step == 1
    message = capsys.readouterr().err
    if damage == "a folder":
        assert message.startswith(f"checkpoint: {path} cannot be read (")
    else:
        assert message.startswith(f"checkpoint: {path} is damaged (") and not path.exists()
    assert run.newest() is not None
    for step in (3, 4, 5):
        run.save(state(step))
    newest = run.newest()
    assert newest is not None and newest.step == 5, "the damaged checkpoint does not prevent saving"


def test_no_checkpoint_is_read_if_all_are_damaged(capsys: pytest.CaptureFixture[str]) -> None:
    run = Checkpoints("run")
    for step in (1, 2):
        run.save(state(step))
    for path in run.folder.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    assert run.newest() is None
    assert capsys.readouterr().err.count(" is damaged (") == 2


def test_a_checkpoint_that_cannot_be_written_is_reported_once_and_the_run_continues(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Checkpoints("run")
    assert run.save(state(1))
    shutil.rmtree(run.folder)
    run.folder.write_text("a file instead of the folder")
    assert not run.save(state(2))
    assert not run.save(state(3))
    assert capsys.readouterr().err.count("checkpoint: ") == 1
    run.folder.unlink()
    assert run.save(state(4)), "it retries"

    (cache / "checkpoints" / "another").write_text("a file instead of the folder")
    assert Checkpoints("another").newest() is None
    assert f"checkpoint: {cache}/checkpoints/another cannot be written (" in capsys.readouterr().err


def test_checkpoints_are_kept_while_another_process_executes_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Checkpoints("run"), Checkpoints("run")
    first.save(state(1))
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 0)
    another = Checkpoints("another")
    assert first.folder.exists(), "no other run deletes the checkpoints of an active run"
    first.clear()
    newest = second.newest()
    assert newest is not None and newest.step == 1
    second.clear()
    assert not first.folder.exists()
    another.clear()


def test_a_clock_that_is_set_back_deletes_no_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """The age of files with future times is unknown: they stay, but are the first to be deleted beyond MAX_BYTES."""
    size = 0
    for days, name in ((-400, "future"), (0, "now"), (3, "young")):
        run = Checkpoints(name)
        for step in (1, 2):
            run.save(state(step))
            os.utime(run.folder / f"{step:012}.safetensors", (time.time() + step * 86_400,) * 2)
        size = sum(file.stat().st_size for file in run.folder.iterdir())
        changed = time.time() - days * 86_400
        os.utime(run.folder, (changed, changed))
    root = run.folder.parent
    del run
    run = Checkpoints("run")
    assert {path.name for path in root.iterdir()} == {"run", "future", "now", "young"}
    newest = Checkpoints("future").newest()
    assert newest is not None and newest.step == 2
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 2 * size)
    Checkpoints("run")
    assert {path.name for path in root.iterdir()} == {"run", "now", "young"}
    run.clear()


def test_a_checkpoint_is_due_later_if_writing_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    run = Checkpoints("run")
    now += checkpoints.SAVE_EVERY_SECONDS - 1
    assert not run.due()
    now += 1
    assert run.due()

    def slow(_: object) -> str:
        nonlocal now
        now += 60
        return ""

    monkeypatch.setattr(checkpoints, "_checksum", slow)
    run.save(state(1))
    now += 60 / checkpoints.MAX_TIME_SHARE - 1
    assert not run.due()
    now += 1
    assert run.due()


def test_the_run_key_depends_on_settings_data_libraries_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    data, other_data = np.arange(6), np.arange(6) + 1
    key = checkpoints.run_key(("settings", 1), [data], ["numpy"])
    assert key == checkpoints.run_key(("settings", 1), [data.copy()], ["numpy"])
    other_keys = [
        checkpoints.run_key(("settings", 2), [data], ["numpy"]),
        checkpoints.run_key(("settings", 1), [other_data], ["numpy"]),
        checkpoints.run_key(("settings", 1), [data.reshape(2, 3)], ["numpy"]),
        checkpoints.run_key(("settings", 1), [data.astype(np.int32)], ["numpy"]),
        checkpoints.run_key(("settings", 1), [data], ["numpy", "tensorflow"]),
    ]
    monkeypatch.setattr("stages.params.__file__", __file__)  # other code
    other_keys.append(checkpoints.run_key(("settings", 1), [data], ["numpy"]))
    assert len({key, *other_keys}) == 7


def test_unused_checkpoints_are_deleted_by_age_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 0
    for days, name in enumerate(("new", "young", "old", "ancient")):
        run = Checkpoints(name)
        run.save(state(1))
        size = sum(file.stat().st_size for file in run.folder.iterdir())
        changed = time.time() - days * 86_400 * (checkpoints.MAX_AGE_DAYS - 1) / 2
        os.utime(run.folder, (changed, changed))
    root = run.folder.parent
    del run  # releases its lock
    Checkpoints("run").clear()
    assert {path.name for path in root.iterdir()} == {"new", "young", "old"}
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 2 * size)
    old = Checkpoints("old")
    assert {path.name for path in root.iterdir()} == {"new", "young", "old"}, "a run keeps its own checkpoints"
    del old
    Checkpoints("run").clear()
    assert {path.name for path in root.iterdir()} == {"new", "young"}
