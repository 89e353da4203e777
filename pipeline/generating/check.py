"""The command `verify` for a generated folder: hash its files, and draw a part of the drawings again."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.generating import manifest
from pipeline.generating.collection import MARK, file_name, read_manifest
from pipeline.generating.destination import Destination, open_destination
from pipeline.generating.manifest import GenerateError, Manifest
from pipeline.models import load_model
from stages.common import device
from stages.common.errors import counted
from stages.common.progress import progress
from stages.inference.processor import processor

SHARE = 0.01  # of the drawings of each class that are drawn again
BLOCK = 64  # consecutive drawings that are drawn again together; of each class at least one block


class Checked(NamedTuple):
    """What was found.

    Attributes:
      total: the number of drawings.
      compared: how many of them were drawn again.
      elsewhere: how many of these another kind of processor had drawn.
      equal_pixels: the share of the pixels of those elsewhere that agree.
      differences: a line for each file or block of drawings that is not as it should be.
    """

    total: int
    compared: int
    elsewhere: int
    equal_pixels: float
    differences: list[str]


def is_generated(address: str) -> bool:
    """Whether something to verify is a URL, or a folder that `generate` has written, or has begun to write."""
    return "://" in address or any(Path(address, name).exists() for name in (manifest.FILE, MARK))


def check(address: str, run: str | None = None) -> Checked:
    """Check a generated folder.

    Each byte is compared with the hash of its shard, and a random hundredth of the drawings of each class is drawn
    again. On the kind of processor that drew them, they must be equal.

    Args:
      address: a folder or a URL.
      run: whose model drew: a DVC experiment, a Git revision or a folder; None for the checkout.

    Raises:
      GenerateError: the folder is unfinished, or was drawn by another model.
      StageError, DvcError: the run has no model.
    """
    destination = open_destination(address)
    there = read_manifest(destination)
    if MARK in destination.names():
        raise GenerateError(f"{destination.shown} is unfinished: run the `generate` that began it again")
    if there is None:
        raise GenerateError(f"{destination.shown} has no {manifest.FILE}: `generate` has not written it")
    model = load_model(run)
    if found := manifest.differences(there, manifest.describe(model, there.classes, there.per_class)):
        raise GenerateError(
            f"{destination.shown} was drawn by another model than this one: {'; '.join(found)}; name its run with --run"
        )
    device.configure("auto")
    differing = list(_differing_bytes(destination, there))
    compared = elsewhere = equal = 0
    blocks = [(name, start) for name in there.classes for start in _choose(there.per_class)]
    here = processor()
    with progress("drawing again", sum(min(BLOCK, there.per_class - start) for _, start in blocks), "drawings") as add:
        for name, start in blocks:
            stop = min(start + BLOCK, there.per_class)
            expected = _read(destination, there, name, start, stop)
            if expected is None:  # reported with the bytes
                continue
            drawn = model.sample(name, stop - start, first=start).reshape(stop - start, -1)
            compared += len(drawn)
            if _processor(there, name, start) != here:
                elsewhere += len(drawn)
                equal += int((drawn == expected).sum())
            elif (wrong := np.flatnonzero((drawn != expected).any(axis=1))).size:
                differing.append(
                    f"{file_name(name)}: {counted(len(wrong), 'drawing')} from number {start + wrong[0]} to "
                    f"{start + wrong[-1]} differ from what the model draws"
                )
            add(len(drawn))
    total = there.per_class * len(there.classes)
    return Checked(total, compared, elsewhere, equal / max(1, elsewhere * there.row_bytes), differing)


def _differing_bytes(destination: Destination, there: Manifest) -> Iterator[str]:
    """A line for each file, or part of a file, whose bytes are not those that the manifest says."""
    header = there.header
    with progress("hashing", there.per_class * len(there.classes), "drawings") as add:
        for name in there.classes:
            file = file_name(name)
            size = destination.size(file)
            if size is None:
                yield f"{file}: does not exist"
                continue
            if size != there.file_bytes:
                yield f"{file}: has {counted(size, 'byte')}; expected: {there.file_bytes:,}"
                continue
            if destination.read(file, 0, len(header)) != header:
                yield f"{file}: has another header than that of {counted(there.per_class, 'drawing')}"
            for shard in there.shards_of(name):
                content = destination.read(file, *there.position(shard)) or b""
                record = there.record(shard)
                if record is None or hashlib.sha256(content).hexdigest() != record.sha256:
                    yield f"{file}: the drawings from number {shard.start} to {shard.stop - 1} differ from their hash"
                add(len(shard))


def _choose(per_class: int) -> list[int]:
    """The first drawings of random blocks of a class, in order."""
    blocks = math.ceil(per_class / BLOCK)
    return sorted(start * BLOCK for start in random.sample(range(blocks), math.ceil(blocks * SHARE)))


def _read(
    destination: Destination, there: Manifest, name: str, start: int, stop: int
) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]] | None:
    """Drawings of a class, (N, values); None if the file is too short."""
    shard = manifest.Shard(name, start, stop)
    if (destination.size(file_name(name)) or 0) != there.file_bytes:
        return None
    content = destination.read(file_name(name), *there.position(shard)) or b""
    return np.frombuffer(content, np.uint8).reshape(len(shard), there.row_bytes)


def _processor(there: Manifest, name: str, number: int) -> str | None:
    """Which kind of processor drew a drawing. A block is within one shard, whose size is a multiple of the block's."""
    start = number // manifest.SHARD * manifest.SHARD
    record = there.record(manifest.Shard(name, start, min(start + manifest.SHARD, there.per_class)))
    return record and record.processor
