"""What a person can choose when pictures are imported, and the error for what cannot be imported."""

import re
from dataclasses import dataclass

from stages.common.errors import UserError, one_line, printable
from stages.quickdraw.npy_header import MAX_SIDE, MIN_SIDE


class PictureError(UserError):
    """A file or an option cannot be used. The message names it, and says what to do.

    Args:
      message: may contain names that are in a file.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


@dataclass(frozen=True)
class Options:
    """How pictures are imported.

    Attributes:
      size: height and width that every picture is fitted into; None keeps their size.
      grey: whether coloured pictures become grey.
      invert: whether black becomes white.
      tile: height and width of the tiles of a sheet; None if a picture is one picture.
      class_name: the class of pictures whose file or folder names none.
      images: the name of the array of pictures in an .npz file; None finds it.
      labels: the name of the array of labels; of a CSV file the column of the labels, by its name, `first` or `last`.
    """

    size: tuple[int, int] | None = None
    grey: bool = False
    invert: bool = False
    tile: tuple[int, int] | None = None
    class_name: str | None = None
    images: str | None = None
    labels: str | None = None


def parse_size(text: str, option: str) -> tuple[int, int]:
    """Height and width from `28` or `20x36`. Raises `PictureError` if they are not of this form or out of range."""
    match = re.fullmatch(r"(\d{1,4})(?:[x×](\d{1,4}))?", text.strip())
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise PictureError(
            f"{option} is {one_line(repr(text))}; expected: a height and a width from {MIN_SIDE} to {MAX_SIDE}, as in "
            "28 or 20x36"
        )
    return size
