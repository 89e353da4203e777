"""Parses the header of a `<class>.npy` file, which is untrusted input.

NumPy's reader allocates the size that a header claims, and unpickles objects if that is allowed. Here the header is
only compared, as text, with the layouts that a file of drawings has: unsigned bytes in C order, `(rows, height,
width)`, with or without 1 or 3 channels after them, or `(rows, height × width)` of squares, as in the public bucket.
"""

import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from stages.common.errors import counted, one_line
from stages.quickdraw.file_types import AGAIN, IMPORT, NPY, explain_no_npy

ImageShape: TypeAlias = tuple[int, int, int]  # height, width and channels

MIN_SIDE, MAX_SIDE = 8, 64  # pixels
CHANNELS = (1, 3)  # grey, and red, green and blue
MAX_HEADER_BYTES = 1024  # NumPy writes 80 or 128 bytes for such an array
RENDERED_BYTES = 128  # of a header that `render` makes, for any number of drawings


class Header(NamedTuple):
    """The layout of a file of drawings.

    Attributes:
      offset: where the pixels begin, in bytes.
      rows: the number of drawings.
      image_shape: of each drawing.
    """

    offset: int
    rows: int
    image_shape: ImageShape

    @property
    def row_bytes(self) -> int:
        """The size of a drawing in bytes."""
        return math.prod(self.image_shape)

    @property
    def size(self) -> int:
        """The size of the whole file in bytes."""
        return self.offset + self.rows * self.row_bytes


def parse(start: bytes, size: int) -> Header:
    """Parse the header of a file.

    Args:
      start: the first bytes of the file; `MAX_HEADER_BYTES` of them are always enough.
      size: of the whole file, in bytes.

    Raises:
      ValueError: the file is not an array of whole drawings. The message is meant to follow the file's name.
    """
    if explanation := explain_no_npy(start):
        raise ValueError(explanation)
    if len(start) < len(NPY) + 4:
        raise ValueError(f"is cut short in its header, after {counted(size, 'byte')}; {AGAIN}")
    if start[6] not in (1, 2, 3):
        raise ValueError(f"has the unknown .npy version {start[6]}")
    preamble = struct.Struct("<8xH") if start[6] == 1 else struct.Struct("<8xI")
    offset = preamble.size
    if len(start) >= offset:
        offset += preamble.unpack_from(start)[0]
    if offset > MAX_HEADER_BYTES:
        raise ValueError(f"has a header of {offset:,} bytes; the maximum supported is {MAX_HEADER_BYTES:,}")
    if len(start) < offset:
        raise ValueError(f"is cut short in its header, after {counted(size, 'byte')}; {AGAIN}")
    text = start[preamble.size : offset].decode("latin-1")

    descr = _value(r"'descr'\s*:\s*('[^']*'|\[.*\])", text).strip("'")
    fortran = _value(r"'fortran_order'\s*:\s*(True|False)", text)
    shape = _value(r"'shape'\s*:\s*\(((?:\s*[0-9]{1,19}L?\s*,)*(?:\s*[0-9]{1,19}L?)?\s*)\)", text)
    if "O" in descr:
        raise ValueError("holds pickled objects, which are never loaded, because they could run any code")
    lengths = tuple(int(length.strip().rstrip("L")) for length in shape.split(",") if length.strip())
    remedy = f"; convert it: {IMPORT}" if _can_be_imported(descr, lengths) else ""
    if not re.fullmatch(r"[|<>=]?u1", descr):
        raise ValueError(f"holds values of type {one_line(descr, 40)}; drawings are uint8{remedy}")
    shape_of_one = image_shape(lengths[1:])
    if shape_of_one is None:
        raise ValueError(
            f"has the shape {one_line(lengths)}; drawings are (N, height, width), perhaps with 1 or 3 channels after "
            f"them, or (N, height × width) of squares, with {MIN_SIDE} to {MAX_SIDE} pixels each way{remedy}"
        )
    if fortran == "True":
        raise ValueError(f"is stored column by column (Fortran order){remedy}")
    header = Header(offset, lengths[0], shape_of_one)
    if header.size != size:
        fault = "is cut short" if size < header.size else "is too long"
        raise ValueError(
            f"{fault}: {size:,} bytes, where its header says {counted(header.rows, 'drawing')}, {header.size:,} bytes; "
            f"{AGAIN}"
        )
    if header.rows > 2**31 - 1:
        raise ValueError(f"holds {header.rows:,} drawings; the maximum supported is 2**31 - 1")
    return header


def render(rows: int, shape: ImageShape) -> bytes:
    """The header of a file of drawings: (N, height × width) for grey squares, else (N, height, width, channels)."""
    height, width, channels = shape
    one = (height * width,) if height == width and channels == 1 else shape
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {(rows, *one)}, }}"
    preamble = NPY + b"\x01\x00" + (RENDERED_BYTES - 10).to_bytes(2, "little")
    return preamble + text.ljust(RENDERED_BYTES - 11).encode("ascii") + b"\n"


def image_shape(lengths: Sequence[int]) -> ImageShape | None:
    """The shape of each drawing in an array of the lengths `(rows, *lengths)`; None if it holds no drawings."""
    match lengths:
        case (values,):
            height = width = math.isqrt(values)
            channels = 1 if height * width == values else 0
        case (height, width):
            channels = 1
        case (height, width, channels):
            pass
        case _:
            return None
    if channels in CHANNELS and all(MIN_SIDE <= side <= MAX_SIDE for side in (height, width)):
        return height, width, channels
    return None


def describe_shape(shape: ImageShape) -> str:
    """Return `28×28 pixels, grey` or `32×32 pixels, in colour`."""
    height, width, channels = shape
    return f"{height}×{width} pixels, {'grey' if channels == 1 else 'in colour'}"


def common_shape(shapes: Mapping[str, ImageShape]) -> ImageShape:
    """The shape that the drawings of all files have.

    Args:
      shapes: by the name of the file, at least one.

    Raises:
      ValueError: two files have different shapes. The message names both.
    """
    (first, shape), *others = shapes.items()
    for name, other in others:
        if other != shape:
            raise ValueError(
                f"{first} has drawings of {describe_shape(shape)}, and {name} of {describe_shape(other)}; give all of "
                f"them one shape: {IMPORT} --size {shape[0]}{f'x{shape[1]}' * (shape[0] != shape[1])}"
                f"{' --grey' * (shape[2] != other[2])}"
            )
    return shape


def _can_be_imported(descr: str, lengths: tuple[int, ...]) -> bool:
    """Whether `python -m pipeline import` reads arrays of this type and shape as pictures."""
    if not re.fullmatch(r"[|<>=]?[biuf]\d+", descr) or not math.prod(lengths):
        return False
    match lengths:
        case (_, values):
            return any(math.isqrt(values // channels) ** 2 * channels == values for channels in (1, 3))
        case (_, _, _):
            return True
        case (_, first, _, last):
            return first in (1, 3, 4) or last in (1, 3, 4)
    return False


def _value(pattern: str, text: str) -> str:
    values = re.findall(pattern, text)
    if len(values) != 1:
        raise ValueError("has a header that does not state its type, order and shape once each")
    return str(values[0])
