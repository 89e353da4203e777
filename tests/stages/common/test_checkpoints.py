import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from stages.common import checkpoints
from stages.common.checkpoints import Checkpoint, Checkpoints


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path))
    return tmp_path


def state(step: int) -> Checkpoint:
    return Checkpoint(step, {"a/b": np.full((2, 3), step, np.float32), "c": np.array([step, 0.1])})


def test_the_newest_is_read_and_two_are_kept() -> None:
    kept = Checkpoints("run")
    assert kept.newest() is None
    for step in (5, 100, 20_000):
        kept.save(state(step))
    found = Checkpoints("run").newest()
    assert found is not None and found.step == 20_000
    for name, array in state(20_000).arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
    assert len(list(kept.folder.glob("*.safetensors"))) == 2
    assert Checkpoints("another").newest() is None
    kept.clear()
    assert Checkpoints("run").newest() is None


@pytest.mark.parametrize("damage", ["empty", "half", "a bit", "another's", "a folder"])
def test_a_damaged_one_gives_way_to_the_one_before(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Checkpoints("run")
    for step in (1, 2):
        kept.save(state(step))
    path = max(kept.folder.iterdir())
    content = path.read_bytes()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "half":
            path.write_bytes(content[: len(content) // 2])
        case "a bit":
            path.write_bytes(content[:-5] + bytes([content[-5] ^ 16]) + content[-4:])
        case "another's":
            path.write_bytes(b"{}" * 100)
        case "a folder":
            path.unlink()
            path.mkdir()
    found = kept.newest()
    assert found is not None and found.step == 1
    said = capsys.readouterr().err
    if damage == "a folder":
        assert said.startswith(f"checkpoint: {path} cannot be read (")
    else:
        assert said.startswith(f"checkpoint: {path} is damaged (") and not path.exists()
    assert kept.newest() is not None
    for step in (3, 4, 5):
        kept.save(state(step))
    found = kept.newest()
    assert found is not None and found.step == 5, "it is in nobody's way"


def test_where_all_are_damaged_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    kept = Checkpoints("run")
    for step in (1, 2):
        kept.save(state(step))
    for path in kept.folder.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    assert kept.newest() is None
    assert capsys.readouterr().err.count(" is damaged (") == 2


def test_one_that_cannot_be_written_is_said_once_and_the_run_goes_on(
    own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Checkpoints("run")
    assert kept.save(state(1))
    shutil.rmtree(kept.folder)
    kept.folder.write_text("in its place")
    assert not kept.save(state(2))
    assert not kept.save(state(3))
    assert capsys.readouterr().err.count("checkpoint: ") == 1
    kept.folder.unlink()
    assert kept.save(state(4)), "and it is tried again"

    (own_cache / "checkpoints" / "another").write_text("in its place")
    assert Checkpoints("another").newest() is None
    assert f"checkpoint: {own_cache}/checkpoints/another cannot be written (" in capsys.readouterr().err


def test_one_is_kept_while_the_same_run_goes_on_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Checkpoints("run"), Checkpoints("run")
    one.save(state(1))
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 0)
    third = Checkpoints("another")
    assert one.folder.exists(), "no other run deletes one that goes on"
    one.clear()
    found = other.newest()
    assert found is not None and found.step == 1
    other.clear()
    assert not one.folder.exists()
    third.clear()


def test_a_clock_that_went_back_costs_no_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the future: nobody knows their age, so they stay, and beyond the size they are the first to go."""
    size = 0
    for days, name in ((-400, "future"), (0, "now"), (3, "young")):
        kept = Checkpoints(name)
        for step in (1, 2):
            kept.save(state(step))
            os.utime(kept.folder / f"{step:012}.safetensors", (time.time() + step * 86_400,) * 2)
        size = sum(file.stat().st_size for file in kept.folder.iterdir())
        changed = time.time() - days * 86_400
        os.utime(kept.folder, (changed, changed))
    root = kept.folder.parent
    del kept
    run = Checkpoints("run")
    assert {path.name for path in root.iterdir()} == {"run", "future", "now", "young"}
    found = Checkpoints("future").newest()
    assert found is not None and found.step == 2
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 2 * size)
    Checkpoints("run")
    assert {path.name for path in root.iterdir()} == {"run", "now", "young"}
    run.clear()


def test_one_is_due_after_a_while_and_later_where_writing_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    kept = Checkpoints("run")
    now += checkpoints.SAVE_EVERY_SECONDS - 1
    assert not kept.due()
    now += 1
    assert kept.due()

    def slow(_: object) -> str:
        nonlocal now
        now += 60
        return ""

    monkeypatch.setattr(checkpoints, "_checksum", slow)
    kept.save(state(1))
    now += 60 / checkpoints.MAX_TIME_SHARE - 1
    assert not kept.due()
    now += 1
    assert kept.due()


def test_a_run_is_named_after_all_that_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    data, other = np.arange(6), np.arange(6) + 1
    name = checkpoints.run_key(("settings", 1), [data], ["numpy"])
    assert name == checkpoints.run_key(("settings", 1), [data.copy()], ["numpy"])
    others = [
        checkpoints.run_key(("settings", 2), [data], ["numpy"]),
        checkpoints.run_key(("settings", 1), [other], ["numpy"]),
        checkpoints.run_key(("settings", 1), [data.reshape(2, 3)], ["numpy"]),
        checkpoints.run_key(("settings", 1), [data.astype(np.int32)], ["numpy"]),
        checkpoints.run_key(("settings", 1), [data], ["numpy", "tensorflow"]),
    ]
    monkeypatch.setattr("stages.params.__file__", __file__)  # other code
    others.append(checkpoints.run_key(("settings", 1), [data], ["numpy"]))
    assert len({name, *others}) == 7


def test_what_runs_left_behind_is_deleted_by_age_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 0
    for days, name in enumerate(("new", "young", "old", "ancient")):
        kept = Checkpoints(name)
        kept.save(state(1))
        size = sum(file.stat().st_size for file in kept.folder.iterdir())
        changed = time.time() - days * 86_400 * (checkpoints.MAX_AGE_DAYS - 1) / 2
        os.utime(kept.folder, (changed, changed))
    root = kept.folder.parent
    del kept  # nobody uses it any more
    Checkpoints("run").clear()
    assert {path.name for path in root.iterdir()} == {"new", "young", "old"}
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 2 * size)
    own = Checkpoints("old")
    assert {path.name for path in root.iterdir()} == {"new", "young", "old"}, "its own stays"
    del own
    Checkpoints("run").clear()
    assert {path.name for path in root.iterdir()} == {"new", "young"}
