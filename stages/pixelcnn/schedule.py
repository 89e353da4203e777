"""Which of the network's blocks run when an image is drawn pixel by pixel."""

from __future__ import annotations

from typing import NamedTuple

from stages.pixelcnn.network import Config


class Blocks(NamedTuple):
    """Where the residual blocks of one level stand in `config.blocks`, and how many on the way up come before."""

    down: range
    up: range
    ups_before: int


def blocks_of(config: Config, level: int) -> Blocks:
    """The residual blocks of a level: the way down begins at level 0, the way up ends there."""
    number, lowest = config.num_resnet, config.num_hierarchies - 1
    before = 0 if level == lowest else number + (lowest - 1 - level) * (number + 1)
    start = (lowest + 1) * number + before
    return Blocks(range(level * number, (level + 1) * number), range(start, start + number + (level < lowest)), before)


def active_levels(config: Config, place: int) -> int:
    """How many levels have features of their own in a row (or column) of pixels: level l where 2 ** l divides it."""
    return next((level for level in range(1, config.num_hierarchies) if place % 2**level), config.num_hierarchies)
