"""Which residual blocks run for which pixel when images are sampled pixel by pixel."""

from __future__ import annotations

from typing import NamedTuple

from stages.pixelcnn.network import Config


class Blocks(NamedTuple):
    """The residual blocks of one level.

    Attributes:
      down, up: indices in `config.blocks` of the blocks on the down path and on the up path.
      num_up_before: number of blocks on the up path that run before those of this level.
    """

    down: range
    up: range
    num_up_before: int


def blocks_of(config: Config, level: int) -> Blocks:
    """The residual blocks of a level: the down path begins at level 0, the up path ends there."""
    num_resnet, lowest = config.num_resnet, config.num_hierarchies - 1
    num_up_before = 0 if level == lowest else num_resnet + (lowest - 1 - level) * (num_resnet + 1)
    start = (lowest + 1) * num_resnet + num_up_before
    return Blocks(
        range(level * num_resnet, (level + 1) * num_resnet),
        range(start, start + num_resnet + (level < lowest)),
        num_up_before,
    )


def active_levels(config: Config, index: int) -> int:
    """The number of levels whose grid includes this row (or column) of pixels: level l if 2 ** l divides it."""
    return next((level for level in range(1, config.num_hierarchies) if index % 2**level), config.num_hierarchies)
