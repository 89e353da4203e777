"""What a generated folder holds: which model drew which drawings, with which settings, and the hash of each shard."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from stages.common.errors import UserError, list_names, one_line
from stages.inference.trained_model import TrainedModel
from stages.quickdraw import npy_header
from stages.quickdraw.labels import check_name
from stages.quickdraw.npy_header import ImageShape

FILE = "manifest.json"
FORMAT = 1
SHARD = 512  # drawings: as many as a GPU draws at a time; on a CPU, a second's work of the smallest network
MAX_PER_CLASS = 2**31 - 1  # of a file that a source reads


class GenerateError(UserError):
    """Drawings cannot be generated, or a generated folder cannot be checked."""


class Shard(NamedTuple):
    """Consecutive drawings of a class; they depend only on the model, its settings and these numbers.

    Attributes:
      name: the class.
      start, stop: the number of the first drawing, and that after the last.
    """

    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def key(self) -> str:
        """The shard among those of its class: `512-1024`."""
        return f"{self.start}-{self.stop}"


class Record(NamedTuple):
    """How a finished shard was drawn.

    Attributes:
      sha256: of its pixels.
      processor: on which kind of processor, and with which libraries; on this kind its bytes can be drawn again.
    """

    sha256: str
    processor: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a generated folder holds.

    Attributes:
      model: the digest of the model.
      seed, temperature, guidance: its settings.
      image_shape: height, width and channels of a drawing.
      classes: the names of the classes.
      per_class: the number of drawings of each class.
      records: of the finished shards, by class and by the shard's key.
    """

    model: str
    seed: int
    temperature: float
    guidance: float
    image_shape: ImageShape
    classes: tuple[str, ...]
    per_class: int
    records: Mapping[str, Mapping[str, Record]] = dataclasses.field(default_factory=dict)

    def shards(self) -> Iterator[Shard]:
        """All shards, class by class."""
        for name in self.classes:
            yield from self.shards_of(name)

    def shards_of(self, name: str) -> Iterator[Shard]:
        """The shards of a class."""
        for start in range(0, self.per_class, SHARD):
            yield Shard(name, start, min(start + SHARD, self.per_class))

    def record(self, shard: Shard) -> Record | None:
        """How a shard was drawn; None if it is not known to be finished."""
        return self.records.get(shard.name, {}).get(shard.key)

    @property
    def header(self) -> bytes:
        """The first bytes of each class's file."""
        return npy_header.render(self.per_class, self.image_shape)

    @property
    def row_bytes(self) -> int:
        """The size of a drawing in bytes."""
        height, width, channels = self.image_shape
        return height * width * channels

    def position(self, shard: Shard) -> tuple[int, int]:
        """The first byte of a shard in the file of its class, and that after its last."""
        start, stop = (npy_header.RENDERED_BYTES + number * self.row_bytes for number in (shard.start, shard.stop))
        return start, stop

    @property
    def file_bytes(self) -> int:
        """The size of each class's file."""
        return npy_header.RENDERED_BYTES + self.per_class * self.row_bytes

    def render(self) -> bytes:
        """The text of the file. The same drawings give the same bytes."""
        values = dataclasses.asdict(self) | {"format": FORMAT}
        values["records"] = {
            name: {key: record._asdict() for key, record in records.items()} for name, records in self.records.items()
        }
        return (json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def describe(model: TrainedModel, classes: tuple[str, ...], per_class: int) -> Manifest:
    """The manifest of a folder that is still empty."""
    settings = model.settings
    return Manifest(
        model.digest,
        settings.seed,
        settings.temperature,
        settings.guidance,
        model.image_shape,
        classes,
        per_class,
    )


def parse(content: bytes, source: str) -> Manifest:
    """Read a manifest, which is untrusted.

    Args:
      content: the bytes of the file.
      source: where it is, for the error.

    Raises:
      GenerateError: it is not a manifest, or one of a later version.
    """
    try:
        values = json.loads(content)
        if values["format"] != FORMAT:
            raise ValueError(f"its format is {one_line(values['format'])}, and this version reads {FORMAT}")
        height, width, channels = map(int, values["image_shape"])
        if npy_header.image_shape((height, width, channels)) is None or not 1 <= values["per_class"] <= MAX_PER_CLASS:
            raise ValueError("its drawings have another shape or number than a source can have")
        return Manifest(
            _match(r"[0-9a-f]{64}", values["model"]),
            int(values["seed"]),
            float(values["temperature"]),
            float(values["guidance"]),
            (height, width, channels),
            tuple(map(check_name, values["classes"])),
            int(values["per_class"]),
            {
                check_name(name): {
                    _match(r"\d{1,10}-\d{1,10}", key): Record(
                        _match(r"[0-9a-f]{64}", record["sha256"]), _match(r"[\w.-]{1,100}", record["processor"])
                    )
                    for key, record in records.items()
                }
                for name, records in values["records"].items()
            },
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f" ({one_line(error)})" if type(error) is ValueError else ""
        raise GenerateError(
            f"{source} is not a manifest of generated drawings{reason}: choose a new folder, or the one that "
            "`generate` has written"
        ) from None


def differences(there: Manifest, here: Manifest) -> list[str]:
    """What keeps drawings of `here` from being added to those of `there`, each in a few words."""
    found = [
        f"{what} {_short(getattr(there, what))} there, {_short(getattr(here, what))} here"
        for what in ("model", "seed", "temperature", "guidance", "image_shape")
        if getattr(there, what) != getattr(here, what)
    ]
    if there.classes != here.classes:
        found.append(f"the classes {list_names(there.classes, 5)} there, {list_names(here.classes, 5)} here")
    return found


def _short(value: object) -> str:
    """A value, of a digest only its beginning."""
    return value[:12] if isinstance(value, str) else str(value)


def _match(pattern: str, text: str) -> str:
    if not re.fullmatch(pattern, text):
        raise ValueError
    return text
