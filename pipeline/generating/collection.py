"""The drawings at a destination: first as parts, a file for each finished shard, then as one .npy file for each class.

The name of a part says which shard it is, and has its hash. So the parts are the only journal: a process writes each in
one step, any process can write any of them, and one that is damaged is found. At the end they become `<class>.npy`: in
a folder one after another, in place, each part deleted when it is there, so that the disk needs room for one more part;
at a URL as a stream.

From the first part on until all is done, the destination has a file `(unfinished).npy`, which is not an array. So the
sources of drawings, which read the header of every .npy file, refuse the folder and say why.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from pipeline.generating import manifest
from pipeline.generating.destination import Destination, Folder
from pipeline.generating.manifest import GenerateError, Manifest, Record, Shard
from stages.common.errors import counted
from stages.common.progress import progress
from stages.quickdraw.file_types import UNFINISHED

PARTS = "parts"
MARK = "(unfinished).npy"  # sources read it first, because its name is before those of classes


def write_part(destination: Destination, shard: Shard, pixels: bytes, processor: str) -> Record:
    """Write a finished shard, and return its record."""
    record = Record(hashlib.sha256(pixels).hexdigest(), processor)
    destination.write(_part(shard, record), pixels)
    return record


def _part(shard: Shard, record: Record) -> str:
    return f"{PARTS}/{shard.name}/{shard.key}_{record.processor}_{record.sha256}"


def file_name(name: str) -> str:
    """The file of a class."""
    return f"{name}.npy"


def read_manifest(destination: Destination) -> Manifest | None:
    """The manifest of a destination; None if it has none."""
    content = destination.read(manifest.FILE)
    return None if content is None else manifest.parse(content, f"{destination.shown}/{manifest.FILE}")


class Collection:
    """Drawings that are generated at a destination.

    Args:
      destination: new, empty, or one that holds drawings of the same model and settings, but not more of a class.
      wanted: what it shall hold.

    Raises:
      GenerateError: the destination holds something else. It is as it was.
    """

    def __init__(self, destination: Destination, wanted: Manifest) -> None:
        self._destination = destination
        there = read_manifest(destination)
        if there is None:
            if others := set(destination.names()) - {MARK, ".lock"}:
                raise GenerateError(
                    f"{destination.shown} is not empty, and has no {manifest.FILE}, but {min(others)!r}: choose a new "
                    "folder"
                )
        elif found := manifest.differences(there, wanted):
            raise GenerateError(
                f"{destination.shown} holds other drawings: {'; '.join(found)}; choose a new folder, or --run and "
                "--class as before"
            )
        elif there.per_class > wanted.per_class:
            raise GenerateError(
                f"{destination.shown} holds {counted(there.per_class, 'drawing')} of each class, and --per-class is "
                f"{wanted.per_class:,}; expected: at least {there.per_class:,}"
            )
        self._wanted = wanted
        self._there = there
        self._records = {name: dict[str, Record]() for name in wanted.classes}

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes from writing to the destination, if it is a folder."""
        return self._destination.lock() if isinstance(self._destination, Folder) else nullcontext()

    def missing(self, shards: Sequence[Shard] | None = None) -> list[Shard]:
        """The shards that are to be drawn: those that are not there, or whose bytes do not match their hash.

        Args:
          shards: those to look for; None for all.
        """
        if shards is None:
            shards = list(self._wanted.shards())
        if self._there is None:
            return list(shards)
        parts = {name: self._parts(name) for name in {shard.name for shard in shards}}
        missing = []
        with progress("checking", sum(map(len, shards)), "drawings") as add:
            for shard in shards:
                record = self._find(shard, parts[shard.name].get(shard.key, []))
                if record is None:
                    missing.append(shard)
                else:
                    self.add(shard, record)
                add(len(shard))
        return missing

    def arrived(self, shards: Sequence[Shard]) -> Iterator[tuple[Shard, Record]]:
        """Those of the shards that other processes have written, and their records. `finish` checks their bytes."""
        parts = {name: self._parts(name) for name in {shard.name for shard in shards}}
        for shard in shards:
            if records := parts[shard.name].get(shard.key):
                yield shard, records[0]

    def add(self, shard: Shard, record: Record) -> None:
        """Note that a shard is there."""
        self._records[shard.name][shard.key] = record

    def is_finished(self) -> bool:
        """Whether the destination holds just what is wanted; `missing` has been asked before."""
        names = self._destination.names()
        return (
            MARK not in names
            and PARTS not in names
            and self._there == dataclasses.replace(self._wanted, records=self._records)
            and all(self._is_whole(name) for name in self._wanted.classes)
        )

    def begin(self) -> None:
        """Mark the destination as unfinished, and write down what it shall hold."""
        self._destination.write(MARK, UNFINISHED)
        self._write_manifest()

    def finish(self) -> None:
        """Turn the parts into the files of the classes. If it is killed, the next run finishes it."""
        self._write_manifest()
        for name in self._wanted.classes:
            if self._parts(name) or not self._is_whole(name):
                self._join(name)
        self._destination.delete(MARK)
        self._destination.delete(PARTS)

    def _write_manifest(self) -> None:
        self._destination.write(manifest.FILE, dataclasses.replace(self._wanted, records=self._records).render())

    def _parts(self, name: str) -> dict[str, list[Record]]:
        """The parts of a class by the key of their shard. If two processes drew one, there can be two."""
        parts: dict[str, list[Record]] = {}
        for file in self._destination.names(f"{PARTS}/{name}"):
            if match := re.fullmatch(r"(\d+-\d+)_([\w.-]+)_([0-9a-f]{64})", file):
                parts.setdefault(match[1], []).append(Record(match[3], match[2]))
        return parts

    def _find(self, shard: Shard, parts: list[Record]) -> Record | None:
        """The record of a shard that is there and undamaged. A damaged part is deleted."""
        for record in parts:
            if _matches(self._destination.read(_part(shard, record)), record):
                return record
            self._destination.delete(_part(shard, record))
        known = self._there.record(shard) if self._there else None
        return known if known and _matches(self._read_from_file(shard), known) else None

    def _read_from_file(self, shard: Shard) -> bytes | None:
        position, end = self._wanted.position(shard)
        size = self._destination.size(file_name(shard.name))
        if size is None or size < end:  # a store refuses to read after the end
            return None
        return self._destination.read(file_name(shard.name), position, end)

    def _is_whole(self, name: str) -> bool:
        """Whether the file of a class has its header and its size."""
        header = self._wanted.header
        return (
            self._destination.size(file_name(name)) == self._wanted.file_bytes
            and self._destination.read(file_name(name), 0, len(header)) == header
        )

    def _join(self, name: str) -> None:
        if not isinstance(self._destination, Folder):
            self._destination.stream(file_name(name), self._blocks(name))
            return
        self._destination.resize(file_name(name), self._wanted.file_bytes)
        self._destination.write_at(file_name(name), 0, self._wanted.header)
        for shard, part in self._shards_with_parts(name):
            position, _ = self._wanted.position(shard)
            self._destination.write_at(file_name(name), position, self._read(shard, part))
            self._destination.delete(part)

    def _blocks(self, name: str) -> Iterator[bytes]:
        """The file of a class: the header, then the shards, from their parts or from the former file."""
        yield self._wanted.header
        parts = dict(self._shards_with_parts(name))
        for shard in self._wanted.shards_of(name):
            yield self._read(shard, parts.get(shard))

    def _shards_with_parts(self, name: str) -> Iterator[tuple[Shard, str]]:
        """The shards of a class that are still parts, and the paths of these."""
        parts = self._parts(name)
        for shard in self._wanted.shards_of(name):
            if (record := self._records[name][shard.key]) in parts.get(shard.key, []):
                yield shard, _part(shard, record)

    def _read(self, shard: Shard, part: str | None) -> bytes:
        content = self._read_from_file(shard) if part is None else self._destination.read(part)
        if content is None or not _matches(content, self._records[shard.name][shard.key]):
            raise GenerateError(
                f"{self._destination.shown}/{part or file_name(shard.name)} has changed meanwhile: run the same "
                "command again, which draws it again"
            )
        return content


def _matches(content: bytes | None, record: Record) -> bool:
    return content is not None and hashlib.sha256(content).hexdigest() == record.sha256
