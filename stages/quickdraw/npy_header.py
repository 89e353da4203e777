"""Parses the header of a `<class>.npy` file, which is untrusted input.

NumPy's reader allocates the size that a header claims, and unpickles objects if that is allowed. Here the header is
only compared, as text, with the one layout that a file of drawings has: unsigned bytes, `(rows, 784)`, in C order.
"""

import math
import re
import struct
from typing import NamedTuple

from stages.common.errors import counted, one_line
from stages.quickdraw import SIDE
from stages.quickdraw.file_types import AGAIN, IMPORT, NPY, explain_no_npy

PIXELS = SIDE * SIDE
MAX_HEADER_BYTES = 1024  # NumPy writes 80 or 128 bytes for such an array


class Header(NamedTuple):
    """The layout of a file of drawings.

    Attributes:
      offset: where the pixels begin, in bytes.
      rows: the number of drawings.
    """

    offset: int
    rows: int

    @property
    def size(self) -> int:
        """The size of the whole file in bytes."""
        return self.offset + self.rows * PIXELS


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
    if len(lengths) != 2 or lengths[1] != PIXELS:
        raise ValueError(f"has the shape {one_line(lengths)}; drawings are (N, {PIXELS}){remedy}")
    if fortran == "True":
        raise ValueError(f"is stored column by column (Fortran order){remedy}")
    header = Header(offset, lengths[0])
    if header.size != size:
        fault = "is cut short" if size < header.size else "is too long"
        raise ValueError(
            f"{fault}: {size:,} bytes, where its header says {counted(header.rows, 'drawing')}, {header.size:,} bytes; "
            f"{AGAIN}"
        )
    if header.rows > 2**31 - 1:
        raise ValueError(f"holds {header.rows:,} drawings; the maximum supported is 2**31 - 1")
    return header


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
