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


def kept(folder: Path) -> row_cache.RowFile:
    return row_cache.RowFile(folder, "bee", 4711)


def keep(folder: Path, *numbers: int, version: str = "one") -> None:
    async def add() -> None:
        file = kept(folder)
        async with file.locked():
            file.begin(version)
            file.add(rows(*numbers), PIXELS[list(numbers)])

    asyncio.run(add())


def read(file: row_cache.RowFile, *numbers: int) -> Pixels:
    out = np.empty((len(numbers), 784), np.uint8)
    file.read(rows(*numbers), out)
    return out


def test_what_is_added_is_there_for_the_next_run(tmp_path: Path) -> None:
    keep(tmp_path, 7, 3, 40)
    keep(tmp_path, 5, 3)
    file = kept(tmp_path)
    assert np.array_equal(read(file, 40, 3, 5, 3, 7), PIXELS[[40, 3, 5, 3, 7]])
    assert file.missing(rows(5, 6, 40, 41, 6)).tolist() == [6, 41]
    with pytest.raises(KeyError):
        read(file, 3, 6)
    with pytest.raises(KeyError):
        read(file, 41)
    assert read(file).shape == (0, 784)


def test_nothing_is_kept_yet(tmp_path: Path) -> None:
    file = kept(tmp_path / "nowhere")
    assert file.missing(rows(2, 1)).tolist() == [1, 2]
    with pytest.raises(KeyError):
        read(file, 1)


@pytest.mark.parametrize("lost", [1, 3, 4, 7, 8, 400, 791, 792, 793, 1584, 2375, 2376, 3000, 3167])
def test_a_file_that_was_cut_anywhere_holds_what_is_whole(tmp_path: Path, lost: int) -> None:
    keep(tmp_path, 1, 2, 3)
    path = kept(tmp_path).path
    whole = path.read_bytes()
    assert len(whole) == 4 * 792
    path.write_bytes(whole[:-lost])
    left = [row for row in (1, 2, 3) if 792 * (row + 1) <= len(whole) - lost]
    file = kept(tmp_path)
    assert file.missing(rows(1, 2, 3)).tolist() == [row for row in (1, 2, 3) if row not in left]
    assert np.array_equal(read(file, *left), PIXELS[left])

    keep(tmp_path, *(row for row in (1, 2, 3, 4) if row not in left))
    assert np.array_equal(read(kept(tmp_path), 1, 2, 3, 4), PIXELS[[1, 2, 3, 4]])
    assert path.stat().st_size == 5 * 792


@pytest.mark.parametrize("at", [792, 794, 796, 799, 800, 1200, 1583])
def test_a_record_that_changed_is_not_there(tmp_path: Path, at: int) -> None:
    keep(tmp_path, 1, 2, 3)
    path = kept(tmp_path).path
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert kept(tmp_path).missing(rows(0, 1, 2, 3)).tolist() == [0, 1]
    assert np.array_equal(read(kept(tmp_path), 2, 3), PIXELS[[2, 3]])


def test_space_that_was_promised_and_never_written_is_not_there(tmp_path: Path) -> None:
    keep(tmp_path, 1)
    with kept(tmp_path).path.open("ab") as file:
        file.write(bytes(3 * 792 + 100))  # what some file systems leave after a power cut
    keep(tmp_path, 2)
    assert kept(tmp_path).missing(rows(0, 1, 2)).tolist() == [0]
    assert np.array_equal(read(kept(tmp_path), 1, 2), PIXELS[[1, 2]])


def test_a_file_about_something_else_is_written_anew(tmp_path: Path) -> None:
    keep(tmp_path, 1, 2)
    path = kept(tmp_path).path
    for beginning in (
        b"{}".ljust(792),
        b"[" * 792,
        b"\0" * 792,
        b'{"format": 2, "class": "bee", "size": 4711}'.ljust(792),
    ):
        path.write_bytes(beginning + path.read_bytes()[792:])
        assert kept(tmp_path).missing(rows(1, 2)).tolist() == [1, 2]
        keep(tmp_path, 2)
        assert kept(tmp_path).missing(rows(1, 2)).tolist() == [1]


def test_rows_of_another_version_are_let_go(tmp_path: Path) -> None:
    keep(tmp_path, 1, 2, version="one")
    reading = kept(tmp_path)
    keep(tmp_path, 3, version="two")
    assert kept(tmp_path).missing(rows(1, 2, 3)).tolist() == [1, 2]
    keep(tmp_path, 1, version="")  # a server that does not say
    assert kept(tmp_path).missing(rows(1, 2, 3)).tolist() == [2]
    with pytest.raises(StageError, match="another run has found a changed file at the mirror"):
        read(reading, 1)
    keep(tmp_path, 4, version="ä" * 8000)
    keep(tmp_path, 5, version="ä" * 8000)
    assert kept(tmp_path).missing(rows(3, 4, 5)).tolist() == [3]


def test_one_at_a_time_adds_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside: list[int] = []

    async def hold(number: int) -> None:
        async with kept(tmp_path).locked():
            inside.append(number)
            await asyncio.sleep(0.2)
            assert inside[-1] == number
            inside.append(number)

    async def both() -> None:
        await asyncio.gather(hold(1), hold(2))

    asyncio.run(both())
    assert inside in ([1, 1, 2, 2], [2, 2, 1, 1])
    assert capsys.readouterr().err == "waiting for another run that fetches bee\n"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr("fcntl.flock", no_lock)
    keep(tmp_path, 1, 2)
    assert np.array_equal(read(kept(tmp_path), 1, 2), PIXELS[[1, 2]])


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUICKDRAW_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert files.cache_folder() == Path("/somewhere/quickdraw-pixelcnn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == Path.home() / ".cache" / "quickdraw-pixelcnn"
    monkeypatch.setenv("QUICKDRAW_CACHE", "/elsewhere")
    one = row_cache.folder("https://example.org/a/b")
    assert one.parent == Path("/elsewhere")
    assert one.name.startswith("example.org-a-b-")
    assert len({one, row_cache.folder("http://example.org/a/b"), row_cache.folder("https://example.org/a-b")}) == 3
