"""The drawings at a destination, with pixels that no model drew: interrupts, damage and two processes."""

import dataclasses
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pipeline.generating import manifest
from pipeline.generating.collection import MARK, Collection, write_part
from pipeline.generating.destination import Destination, Folder, Store, open_destination
from pipeline.generating.manifest import GenerateError, Manifest, Shard
from stages.common.errors import StageError
from stages.quickdraw import sources
from tests.pipeline.generating.interrupts import interrupt

pytestmark = pytest.mark.usefixtures("small_shards")

CLASSES = ("bee", "The Eiffel Tower")
WANTED = Manifest("0" * 64, 0, 1.0, 1.0, (8, 8, 1), CLASSES, 12)
KINDS = [Folder, Store]


class Place:
    """A folder, or an address in fsspec's memory, below which tests write."""

    def __init__(self, kind: type[Destination], folder: Path) -> None:
        self.address = str(folder) if kind is Folder else f"memory:/{folder}"
        self._files = fsspec.filesystem("file" if kind is Folder else "memory")
        self._root = str(folder)

    def destination(self, name: str) -> Destination:
        return open_destination(f"{self.address}/{name}")

    def content(self, name: str) -> dict[str, bytes]:
        files = self._files.find(f"{self._root}/{name}")
        return {path.removeprefix(f"{self._root}/{name}/"): self._files.cat_file(path) for path in files}

    def restore(self, name: str, content: dict[str, bytes]) -> None:
        for path, data in content.items():
            self._files.makedirs(f"{self._root}/{name}", exist_ok=True)
            self._files.pipe_file(f"{self._root}/{name}/{path}", data)


def pixels(shard: Shard) -> bytes:
    """Bytes that depend on the class and the numbers of the drawings, as drawings do."""
    rows = [np.random.default_rng((CLASSES.index(shard.name), row)) for row in range(shard.start, shard.stop)]
    return b"".join(row.bytes(64) for row in rows)


def fill(destination: Destination, per_class: int = 12) -> int:
    """Do what `generate` does, and return how many shards were missing."""
    collection = Collection(destination, dataclasses.replace(WANTED, per_class=per_class))
    missing = collection.missing()
    if not collection.is_finished():
        collection.begin()
        for shard in missing:
            collection.add(shard, write_part(destination, shard, pixels(shard), "abacus"))
        collection.finish()
    return len(missing)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[Destination]:
    parameter: type[Destination] = request.param
    return parameter


@pytest.fixture
def place(kind: type[Destination], tmp_path: Path) -> Place:
    return Place(kind, tmp_path)


@pytest.mark.parametrize("before", [0, 6])
def test_it_can_be_interrupted_at_any_moment(
    kind: type[Destination], before: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run writes the same bytes, and until then no source reads the folder.

    Args:
      before: how many drawings of each class were there.
    """
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nothing here loses power, and it takes most of the time
    if before:
        fill(place.destination("old"), before)
    old = place.content("old") if before else {}
    fill(place.destination("whole"))
    whole = place.content("whole")
    assert whole.keys() == {"bee.npy", "The Eiffel Tower.npy", "manifest.json"}
    for at in range(1, 1000):
        name = f"new {at}"
        place.restore(name, old)
        with monkeypatch.context() as patch:
            moments = interrupt(patch, kind, at)
            try:
                fill(place.destination(name))
            except KeyboardInterrupt:
                pass
            else:
                break
            assert moments() == at
        content = place.content(name)
        if content not in (old, whole) and whole.items() - content.items():
            with pytest.raises(StageError, match=r"mark of an unfinished folder|does not exist|has no class"):
                sources.open_source(place.destination(name).address, Path()).counts()
        fill(place.destination(name))
        assert place.content(name) == whole
    assert at > 20, "at many moments"
    assert place.content(name) == whole


def test_two_processes_write_half_of_the_shards_each(place: Place) -> None:
    fill(place.destination("whole"))
    collection = Collection(place.destination("new"), WANTED)
    collection.begin()
    missing = collection.missing()
    for half in (missing[::2], missing[1::2]):
        for shard in half:
            write_part(place.destination("new"), shard, pixels(shard), "abacus")
    assert fill(place.destination("new")) == 0
    assert place.content("new") == place.content("whole")


def test_damaged_and_unknown_parts_are_not_used(place: Place) -> None:
    fill(place.destination("whole"))
    new = place.destination("new")
    collection = Collection(new, WANTED)
    collection.begin()
    first, second, *_ = collection.missing()
    for shard in (first, second):
        write_part(new, shard, pixels(shard), "abacus")
    [part] = [path for path in place.content("new") if f"/{first.key}_" in path]
    place.restore("new", {part: b"", "parts/bee/readme": b"", "parts/bee/999-1000_abacus_" + "0" * 64: b""})
    assert fill(new) == 3
    assert place.content("new") == place.content("whole")


def test_a_part_that_changes_meanwhile_is_an_error_and_the_next_run_draws_it_again(place: Place) -> None:
    fill(place.destination("whole"))
    new = place.destination("new")
    collection = Collection(new, WANTED)
    collection.begin()
    for shard in collection.missing():
        collection.add(shard, write_part(new, shard, pixels(shard), "abacus"))
    part = next(path for path in place.content("new") if path.startswith("parts/The"))
    place.restore("new", {part: b"changed"})
    with pytest.raises(GenerateError, match=r"new/parts/The.* has changed meanwhile: run the same command again"):
        collection.finish()
    assert MARK in place.content("new")
    assert fill(new) == 1
    assert place.content("new") == place.content("whole")


def test_the_rendered_manifest_is_read_as_it_was(place: Place) -> None:
    fill(place.destination("new"))
    content = place.content("new")["manifest.json"]
    read = manifest.parse(content, "it")
    assert read.render() == content
    assert [read.record(shard) is not None for shard in read.shards()] == [True] * 4


def test_a_store_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    for address, message in (
        ("http://127.0.0.1:9/drawings", "http://127.0.0.1:9/drawings/"),
        ("s3a4://bucket", "s3a4://bucket: Protocol not known"),
    ):
        with pytest.raises(GenerateError) as error:
            fill(open_destination(address))
        assert str(error.value).startswith(message)
