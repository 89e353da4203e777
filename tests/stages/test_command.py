import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stages import command
from stages.common import files
from stages.common.errors import SettingsError, StageError
from stages.params import Params
from tests import settings


@pytest.fixture(autouse=True)
def _in_a_folder_with_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.write(tmp_path, settings.FULL)
    monkeypatch.chdir(tmp_path)


def raising(error: BaseException) -> Callable[[Params], None]:
    def main(_: Params) -> None:
        raise error

    return main


def test_main_is_given_the_settings_of_the_current_folder() -> None:
    seen: list[Params] = []
    assert command.run(seen.append, "doc", []) == 0
    assert seen[0].num_resnet == settings.FULL["num_resnet"]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StageError("mirror: no such folder"), 1, "error: mirror: no such folder"),
        (SettingsError("seed is -1"), 2, "error: seed is -1"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b.npy"), 1, "error: a/b.npy: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 1, "error: a: Permission denied"),
        (OSError("truncated\nfile"), 1, "error: truncated file"),
        (MemoryError(), 1, "error: out of memory"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_a_person_can_put_right_is_one_line(
    error: BaseException, code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command.run(raising(error), "doc", []) == code
    out, err = capfd.readouterr()
    assert (out, err.strip()) == ("", said)


def test_where_memory_ends_the_settings_to_lower_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    def main(_: Params) -> None:
        np.ones((1 << 30, 1 << 30), np.uint8)

    assert command.run(main, "doc", [], lower="batch_size or num_filters") == 1
    what = "Unable to allocate 1.00 EiB for an array with shape (1073741824, 1073741824) and data type uint8"
    assert capfd.readouterr().err == f"error: out of memory ({what}): lower batch_size or num_filters\n"


@pytest.mark.parametrize(
    ("kind", "words", "amount"),
    [
        (
            "ResourceExhaustedError",
            "OOM when allocating tensor with shape[32,28,28,640] and type float on /device:GPU:0 by allocator bfc",
            " (shape[32,28,28,640] and type float on /device:GPU:0)",
        ),
        (
            "ResourceExhaustedError",
            "Out of memory while trying to allocate 34359738368 bytes. [Op:__inference__1]",
            " (trying to allocate 34359738368 bytes)",
        ),
        ("InternalError", "cudaSetDevice() on GPU:0 failed. Status: out of memory", ""),
    ],
)
def test_a_gpu_without_room_is_one_line(kind: str, words: str, amount: str, capfd: pytest.CaptureFixture[str]) -> None:
    import tensorflow as tf

    error = getattr(tf.errors, kind)(None, None, words)
    assert command.run(raising(error), "doc", [], lower="batch_size") == 1
    assert capfd.readouterr().err.splitlines()[-1] == f"error: out of memory{amount}: lower batch_size"
    with pytest.raises(tf.errors.InternalError):
        command.run(raising(tf.errors.InternalError(None, None, "a defect")), "doc", [])


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        command.run(raising(ZeroDivisionError()), "doc", [])


def test_a_bad_setting_stops_before_main(capfd: pytest.CaptureFixture[str]) -> None:
    settings.write(Path(), settings.FULL | {"num_resnet": 0})
    assert command.run(raising(AssertionError("main was called")), "doc", []) == 2
    assert capfd.readouterr().err == "error: params.yaml: num_resnet is 0; permitted: a whole number from 1 to 20\n"


def test_help_needs_no_settings(capfd: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").unlink()
    with pytest.raises(SystemExit) as stopped:
        command.run(raising(AssertionError("main was called")), "What it does.\n\nReads data/.", ["--help"])
    assert stopped.value.code == 0
    assert "What it does.\n\nReads data/." in capfd.readouterr().out


def test_an_argument_that_is_not_known_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.run(raising(AssertionError("main was called")), "doc", ["--seed=1"])
    assert stopped.value.code == 2
    assert "--seed=1" in capfd.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_with_the_files_name(capfd: pytest.CaptureFixture[str]) -> None:
    def main(_: Params) -> None:
        with files.atomic_file("data/images.npy") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(b"x")

    assert command.run(main, "doc", []) == 1
    assert capfd.readouterr().err == "error: data/images.npy: No space left on device\n"
