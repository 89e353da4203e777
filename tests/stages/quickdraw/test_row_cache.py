import asyncio
import errno
from pathlib import Path

import numpy as np
import pytest

from stages.common import files
from stages.common.errors import StageError
from stages.quickdraw import row_cache
from stages.quickdraw.mirrors import Pixels, Rows
from tests.stages.drawings import noise

PIXELS = noise("bee", 50)


def rows(*numbers: int) -> Rows:
    return np.array(numbers, np.int32)


def row_file(folder: Path) -> row_cache.RowFile:
    return row_cache.RowFile(folder, "bee", 4711, row_bytes=784)


def append(folder: Path, *numbers: int, version: str = "first") -> None:
    async def add() -> None:
        file = row_file(folder)
        async with file.locked():
            file.prepare_append(version)
            file.add(rows(*numbers), PIXELS[list(numbers)])

    asyncio.run(add())


def read(file: row_cache.RowFile, *numbers: int) -> Pixels:
    out = np.empty((len(numbers), 784), np.uint8)
    file.read(rows(*numbers), out)
    return out


def test_appended_rows_are_available_to_the_next_run(tmp_path: Path) -> None:
    append(tmp_path, 7, 3, 40)
    append(tmp_path, 5, 3)
    file = row_file(tmp_path)
    assert np.array_equal(read(file, 40, 3, 5, 3, 7), PIXELS[[40, 3, 5, 3, 7]])
    assert file.missing(rows(5, 6, 40, 41, 6)).tolist() == [6, 41]
    with pytest.raises(KeyError):
        read(file, 3, 6)
    with pytest.raises(KeyError):
        read(file, 41)
    assert read(file).shape == (0, 784)


@pytest.mark.parametrize("row_bytes", [64, 12288])
def test_rows_of_another_size_have_a_cache_of_their_own(tmp_path: Path, row_bytes: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, row_bytes), np.uint8)
    append(tmp_path, 1, 2)

    async def add() -> None:
        file = row_cache.RowFile(tmp_path, "bee", 4711, row_bytes)
        async with file.locked():
            file.prepare_append("first")
            assert file.missing(rows(1, 2, 3)).tolist() == [1, 2, 3]
            file.add(rows(1, 2, 3), pixels)

    asyncio.run(add())
    others = row_cache.RowFile(tmp_path, "bee", 4711, row_bytes)
    out = np.empty((3, row_bytes), np.uint8)
    others.read(rows(3, 1, 2), out)
    assert np.array_equal(out, pixels[[2, 0, 1]])
    assert np.array_equal(read(row_file(tmp_path), 1, 2), PIXELS[[1, 2]])
    others.path.replace(row_file(tmp_path).path)  # a file with another header
    assert row_file(tmp_path).missing(rows(1, 2)).tolist() == [1, 2]


def test_an_empty_cache(tmp_path: Path) -> None:
    file = row_file(tmp_path / "nowhere")
    assert file.missing(rows(2, 1)).tolist() == [1, 2]
    with pytest.raises(KeyError):
        read(file, 1)


@pytest.mark.parametrize("lost", [1, 3, 4, 7, 8, 400, 791, 792, 793, 1584, 2375, 2376, 3000, 3167])
def test_a_truncated_file_keeps_its_complete_records(tmp_path: Path, lost: int) -> None:
    append(tmp_path, 1, 2, 3)
    path = row_file(tmp_path).path
    content = path.read_bytes()
    assert len(content) == 4 * 792
    path.write_bytes(content[:-lost])
    remaining = [row for row in (1, 2, 3) if 792 * (row + 1) <= len(content) - lost]
    file = row_file(tmp_path)
    assert file.missing(rows(1, 2, 3)).tolist() == [row for row in (1, 2, 3) if row not in remaining]
    assert np.array_equal(read(file, *remaining), PIXELS[remaining])

    append(tmp_path, *(row for row in (1, 2, 3, 4) if row not in remaining))
    assert np.array_equal(read(row_file(tmp_path), 1, 2, 3, 4), PIXELS[[1, 2, 3, 4]])
    assert path.stat().st_size == 5 * 792


@pytest.mark.parametrize("offset", [792, 794, 796, 799, 800, 1200, 1583])
def test_a_corrupted_record_is_ignored(tmp_path: Path, offset: int) -> None:
    append(tmp_path, 1, 2, 3)
    path = row_file(tmp_path).path
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    assert row_file(tmp_path).missing(rows(0, 1, 2, 3)).tolist() == [0, 1]
    assert np.array_equal(read(row_file(tmp_path), 2, 3), PIXELS[[2, 3]])


def test_records_of_zeros_are_ignored(tmp_path: Path) -> None:
    append(tmp_path, 1)
    with row_file(tmp_path).path.open("ab") as file:
        file.write(bytes(3 * 792 + 100))  # what some file systems leave after a power cut
    append(tmp_path, 2)
    assert row_file(tmp_path).missing(rows(0, 1, 2)).tolist() == [0]
    assert np.array_equal(read(row_file(tmp_path), 1, 2), PIXELS[[1, 2]])


def test_a_file_with_another_header_is_replaced(tmp_path: Path) -> None:
    append(tmp_path, 1, 2)
    path = row_file(tmp_path).path
    for header in (
        b"{}".ljust(792),
        b"[" * 792,
        b"\0" * 792,
        b'{"format": 2, "class": "bee", "size": 4711}'.ljust(792),
    ):
        path.write_bytes(header + path.read_bytes()[792:])
        assert row_file(tmp_path).missing(rows(1, 2)).tolist() == [1, 2]
        append(tmp_path, 2)
        assert row_file(tmp_path).missing(rows(1, 2)).tolist() == [1]


def test_rows_of_another_version_are_discarded(tmp_path: Path) -> None:
    append(tmp_path, 1, 2, version="first")
    reader = row_file(tmp_path)
    append(tmp_path, 3, version="second")
    assert row_file(tmp_path).missing(rows(1, 2, 3)).tolist() == [1, 2]
    append(tmp_path, 1, version="")  # a server that reports no version
    assert row_file(tmp_path).missing(rows(1, 2, 3)).tolist() == [2]
    with pytest.raises(StageError, match="another run has replaced it, because the file at the source changed"):
        read(reader, 1)
    append(tmp_path, 4, version="ä" * 8000)
    append(tmp_path, 5, version="ä" * 8000)
    assert row_file(tmp_path).missing(rows(3, 4, 5)).tolist() == [3]


def test_one_run_at_a_time_adds_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events: list[int] = []

    async def hold(number: int) -> None:
        async with row_file(tmp_path).locked():
            events.append(number)
            await asyncio.sleep(0.2)
            assert events[-1] == number
            events.append(number)

    async def run_both() -> None:
        await asyncio.gather(hold(1), hold(2))

    asyncio.run(run_both())
    assert events in ([1, 1, 2, 2], [2, 2, 1, 1])
    assert capsys.readouterr().err == "waiting for another run that fetches bee\n"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr("fcntl.flock", no_lock)
    append(tmp_path, 1, 2)
    assert np.array_equal(read(row_file(tmp_path), 1, 2), PIXELS[[1, 2]])


def test_the_location_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUICKDRAW_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert files.cache_folder() == Path("/somewhere/quickdraw-pixelcnn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == Path.home() / ".cache" / "quickdraw-pixelcnn"
    monkeypatch.setenv("QUICKDRAW_CACHE", "/elsewhere")
    folder = row_cache.folder("https://example.org/a/b")
    assert folder.parent == Path("/elsewhere")
    assert folder.name.startswith("example.org-a-b-")
    assert len({folder, row_cache.folder("http://example.org/a/b"), row_cache.folder("https://example.org/a-b")}) == 3
