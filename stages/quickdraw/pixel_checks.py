"""Checks whether drawings can be learned from: the scale of their values, inverted ink and repeated pictures.

Ink is checked in grey drawings only: a photograph in colour may have any share of bright pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.errors import list_names
from stages.quickdraw.file_types import IMPORT

Pixels = npt.NDArray[np.uint8]

INK = 128  # a pixel of this value or more is ink
# In each of the 345 classes of Quick, Draw!, between 5% and 29% of the pixels are ink; inverted, at least 71% would be.
# Random values have 50%, so the bound lies in the middle between those and inverted drawings.
MAX_INK = 0.6
# The scales that people use instead of 0 to 255. The brightest pixel of every class of Quick, Draw! is 255.
OTHER_SCALES = (1, 16)
# Of 40,993 drawings of all classes of Quick, Draw!, 100 to 425 of each, no two are equal; among more, a few simple ones
# may be. So a tenth of a class that is also in other classes is suspicious, and a half is a copy.
MANY_EQUAL = 10  # drawings; fewer can be equal by chance
SUSPICIOUS_SHARE, COPY_SHARE = 0.1, 0.5


class Problem(NamedTuple):
    """What is wrong with drawings.

    Attributes:
      message: one line that says what, where, and what to do.
      is_error: whether a model cannot learn from the drawings; if not, they are only suspicious.
    """

    message: str
    is_error: bool


@dataclass
class _Class:
    """What is known of the drawings of a class. `pictures` has a hash of each drawing, in parts."""

    drawings: int = 0
    brightest: int = 0
    ink: float = 0.0  # the sum of each drawing's share of ink
    pictures: list[npt.NDArray[np.int64]] = field(default_factory=list)


class PixelCheck:
    """Collects drawings, in any order and in parts, and finds what is wrong with them.

    Args:
      grey: whether they are grey. In colour, they have no paper and no ink.
    """

    def __init__(self, grey: bool = True) -> None:
        self._grey = grey
        self._classes: dict[str, _Class] = {}

    def add(self, name: str, drawings: Pixels) -> None:
        """Add drawings of a class, (N, values)."""
        entry = self._classes.setdefault(name, _Class())
        entry.drawings += len(drawings)
        entry.brightest = max(entry.brightest, int(drawings.max(initial=0)))
        entry.ink += float((drawings >= INK).mean(axis=1).sum())
        entry.pictures.append(np.array([hash(drawing.tobytes()) for drawing in drawings], np.int64))

    def problems(self) -> list[Problem]:
        """What is wrong with the drawings: the errors first, then what is suspicious."""
        classes = {name: entry for name, entry in self._classes.items() if entry.drawings}
        ink = _ink(classes) if self._grey else []
        problems = [*_scale(classes, self._grey), *ink, *_repeated(classes), *_shared(classes)]
        return sorted(problems, key=lambda problem: not problem.is_error)


def _scale(classes: Mapping[str, _Class], grey: bool) -> list[Problem]:
    problems = []
    limits = "paper is 0 and ink is 255" if grey else "black is 0 and white is 255"
    lower = -1
    for upper in (0, *OTHER_SCALES):
        if names := [name for name, entry in classes.items() if lower < entry.brightest <= upper]:
            if upper == 0:
                text = f"all drawings of {_which(names, classes)} are blank; replace the files, or choose other classes"
            else:
                text = (
                    f"no pixel of {_which(names, classes)} is above {upper}, where {limits}; convert the files: "
                    f"{IMPORT}"
                )
            problems.append(Problem(text, True))
        lower = upper
    return problems


def _ink(classes: Mapping[str, _Class]) -> list[Problem]:
    number = sum(entry.drawings for entry in classes.values())
    names = [name for name, entry in classes.items() if entry.ink / entry.drawings > MAX_INK]
    share = sum(entry.ink for entry in classes.values()) / max(1, number)
    if is_error := share > MAX_INK:
        names = list(classes)
    elif names:
        share = max(classes[name].ink / classes[name].drawings for name in names)
    else:
        return []
    text = (
        f"{share:.0%} of the paper of {_which(names, classes)} is ink, and people's drawings have 5% to 29%; if they "
        f"are dark on light, invert them: {IMPORT} --invert"
    )
    return [Problem(text, is_error)]


def _repeated(classes: Mapping[str, _Class]) -> list[Problem]:
    names = [
        name
        for name, entry in classes.items()
        if entry.brightest and entry.drawings >= MANY_EQUAL and len(np.unique(np.concatenate(entry.pictures))) == 1
    ]
    if not names:
        return []
    text = f"all drawings of {_which(names, classes)} are one picture, repeated"
    return [Problem(f"{text}; replace the files, or choose other classes", True)]


def _shared(classes: Mapping[str, _Class]) -> list[Problem]:
    """Find the class that shares the largest part of its drawings with another class."""
    pictures = {name: np.concatenate(entry.pictures) for name, entry in classes.items() if entry.brightest}
    if len(pictures) < 2:
        return []
    distinct, counts = np.unique(
        np.concatenate([np.unique(hashes) for hashes in pictures.values()]), return_counts=True
    )
    shared = distinct[counts > 1]
    equal = {name: int(np.isin(hashes, shared).sum()) for name, hashes in pictures.items()}
    names = [
        name
        for name, number in equal.items()
        if number >= MANY_EQUAL and number > SUSPICIOUS_SHARE * classes[name].drawings
    ]
    if not names:
        return []
    name = max(names, key=lambda name: equal[name] / classes[name].drawings)
    other = max(
        pictures.keys() - {name}, key=lambda other: (int(np.isin(pictures[name], pictures[other]).sum()), other)
    )
    number = classes[name].drawings
    text = (
        f"{equal[name]:,} of the {number:,} drawings of {name!r} are also in other classes, most of them in {other!r}; "
        "one of the files is probably a copy: replace it, or leave out a class"
    )
    return [Problem(text, equal[name] >= COPY_SHARE * number)]


def _which(names: Collection[str], classes: Mapping[str, _Class]) -> str:
    return "all classes" if len(names) == len(classes) > 1 else list_names(names, 5)
