import errno
import os
import signal
import subprocess
import sys
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
def _folder_with_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.write(tmp_path, settings.FULL)
    monkeypatch.chdir(tmp_path)


def raising(error: BaseException) -> Callable[[Params], None]:
    def main(_: Params) -> None:
        raise error

    return main


def test_main_receives_the_settings_of_the_current_folder() -> None:
    seen: list[Params] = []
    assert command.run(seen.append, "doc", []) == 0
    assert seen[0].num_resnet == settings.FULL["num_resnet"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (StageError("source: no such folder"), 1, "error: source: no such folder"),
        (SettingsError("seed is -1"), 2, "error: seed is -1"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b.npy"), 1, "error: a/b.npy: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 1, "error: a: Permission denied"),
        (OSError("truncated\nfile"), 1, "error: truncated file"),
        (MemoryError(), 1, "error: out of memory"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_that_the_user_can_fix_is_one_line(
    error: BaseException, code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command.run(raising(error), "doc", []) == code
    out, err = capfd.readouterr()
    assert (out, err.strip()) == ("", message)


def test_out_of_memory_names_the_settings_to_lower(capfd: pytest.CaptureFixture[str]) -> None:
    def main(_: Params) -> None:
        np.ones((1 << 30, 1 << 30), np.uint8)

    assert command.run(main, "doc", [], lower="batch_size or num_filters") == 1
    reason = "Unable to allocate 1.00 EiB for an array with shape (1073741824, 1073741824) and data type uint8"
    assert capfd.readouterr().err == f"error: out of memory ({reason}): lower batch_size or num_filters\n"


@pytest.mark.parametrize(
    ("kind", "text", "amount"),
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
def test_gpu_out_of_memory_is_one_line(kind: str, text: str, amount: str, capfd: pytest.CaptureFixture[str]) -> None:
    import tensorflow as tf

    error = getattr(tf.errors, kind)(None, None, text)
    assert command.run(raising(error), "doc", [], lower="batch_size") == 1
    assert capfd.readouterr().err.splitlines()[-1] == f"error: out of memory{amount}: lower batch_size"
    with pytest.raises(tf.errors.InternalError):
        command.run(raising(tf.errors.InternalError(None, None, "a bug")), "doc", [])


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        command.run(raising(ZeroDivisionError()), "doc", [])


def test_an_invalid_setting_is_reported_before_main_is_called(capfd: pytest.CaptureFixture[str]) -> None:
    settings.write(Path(), settings.FULL | {"num_resnet": 0})
    assert command.run(raising(AssertionError("main was called")), "doc", []) == 2
    assert capfd.readouterr().err == "error: params.yaml: num_resnet is 0; expected: a whole number from 1 to 20\n"


def test_help_does_not_read_the_settings(capfd: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").unlink()
    with pytest.raises(SystemExit) as stopped:
        command.run(raising(AssertionError("main was called")), "What it does.\n\nReads data/.", ["--help"])
    assert stopped.value.code == 0
    assert "What it does.\n\nReads data/." in capfd.readouterr().out


def test_an_unknown_argument_is_rejected(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.run(raising(AssertionError("main was called")), "doc", ["--seed=1"])
    assert stopped.value.code == 2
    assert "--seed=1" in capfd.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_with_the_file_name(capfd: pytest.CaptureFixture[str]) -> None:
    def main(_: Params) -> None:
        with files.atomic_file("data/images.npy") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(b"x")

    assert command.run(main, "doc", []) == 1
    assert capfd.readouterr().err == "error: data/images.npy: No space left on device\n"


@pytest.mark.parametrize("module", ["stages.extract", "stages.train", "pipeline"])
def test_an_interrupt_while_modules_load_prints_no_traceback(module: str, tmp_path: Path) -> None:
    """It comes when the first of them is imported."""
    (tmp_path / "pydantic.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n", encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", module],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{settings.ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")
