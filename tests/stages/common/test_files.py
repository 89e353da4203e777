import errno
import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stages.common import files
from tests.settings import ROOT


def test_a_file_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "weights.safetensors"
    with files.atomic_file(target) as temporary:
        assert temporary.suffix == target.suffix  # from which Pillow and NumPy choose the format
        assert temporary.parent.parent == target.parent, "on the same disk, so that it can be renamed"
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_a_file_is_unchanged_if_writing_fails(tmp_path: Path) -> None:
    target = tmp_path / "index.parquet"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), files.atomic_file(target) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_without_a_file_name_gets_the_name_of_the_output(tmp_path: Path) -> None:
    target = tmp_path / "images.npy"
    with pytest.raises(OSError) as caught, files.atomic_file(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(target)
    assert caught.value.errno == errno.ENOSPC


def test_an_error_with_the_name_of_another_file_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, files.atomic_file(tmp_path / "out.npy"):
        Path("missing.npy").read_bytes()
    assert caught.value.filename == "missing.npy"


def test_an_output_that_was_not_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, files.atomic_file(tmp_path / "out.npy"):
        pass
    assert caught.value.filename == str(tmp_path / "out.npy")


def test_an_error_names_the_file_in_the_output_folder(tmp_path: Path) -> None:
    target = tmp_path / "classes"
    with pytest.raises(OSError) as caught, files.atomic_folder(target) as temporary:
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary / "deep" / "26_bee.png"))
    assert caught.value.filename == str(target / "deep" / "26_bee.png")


def test_a_full_disk_that_a_library_reports_only_in_text_is_an_oserror(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    message = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OSError) as caught, files.atomic_file(tmp_path / "weights.safetensors"):
        raise SafetensorError(message)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "weights.safetensors"))


# Opens outputs, prints a line, and waits to be killed.
WRITER = """
import sys, time
from stages.common import files
with files.atomic_folder(sys.argv[1]) as folder, files.atomic_file(sys.argv[2]) as file:
    (folder / "half").write_text("half")
    file.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_temporary_files_of_killed_processes_are_deleted_and_those_of_live_ones_are_not(tmp_path: Path) -> None:
    paths = tmp_path / "classes", tmp_path / "index.html"

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", WRITER, *map(str, paths)]
        writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        return writer

    with start() as killed, start() as live:
        killed.kill()
        killed.wait()
        assert len(list(tmp_path.iterdir())) == 4
        with files.atomic_file(paths[1]) as temporary:
            temporary.write_text("whole")
        assert len(list(tmp_path.glob(".writing-*"))) == 2, "those of the live process"
        assert {path.name for path in tmp_path.glob(".writing-*/[!.]*")} == {"classes", "index.html"}
        live.kill()
    with files.atomic_folder(paths[0]):
        pass
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert paths[1].read_text() == "whole"


def test_concurrent_writes_of_a_file_leave_one_complete_version(tmp_path: Path) -> None:
    target = tmp_path / "metrics.csv"

    def write(number: int) -> None:
        with files.atomic_file(target) as temporary:
            temporary.write_text(f"{number}\n" * 1000)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(200)))
    assert len(set(target.read_text().split())) == 1 and len(target.read_text().split()) == 1000
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "classes"
    target.mkdir()
    (target / "stale.png").write_bytes(b"old")
    with files.atomic_folder(target) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "26_bee.png").write_bytes(b"new")
        assert (target / "stale.png").exists()
    assert [path.name for path in target.rglob("*")] == ["deep", "26_bee.png"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_flushed_to_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, flushed = tmp_path / "classes", []
    monkeypatch.setattr(files, "_flush", lambda path: flushed.append((path, target.exists())))
    with files.atomic_folder(target) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "26_bee.png").touch()
    contents = [temporary, temporary / "deep", temporary / "deep" / "26_bee.png"]
    assert flushed == [*((path, False) for path in contents), (tmp_path, True)]


def test_a_folder_is_unchanged_if_writing_fails(tmp_path: Path) -> None:
    target = tmp_path / "classes"
    target.mkdir()
    (target / "26_bee.png").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), files.atomic_folder(target) as temporary:
        (temporary / "26_bee.png").write_bytes(b"half")
        raise ZeroDivisionError
    assert (target / "26_bee.png").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_sha256_reads_a_file_of_several_blocks(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "data").write_bytes(content)
    assert files.sha256(tmp_path / "data") == hashlib.sha256(content).hexdigest()
