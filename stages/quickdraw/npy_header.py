"""The header of a `<class>.npy` file, read as what it is: bytes from somebody else.

NumPy's own reader allocates what the header claims and unpickles objects where it is allowed to. Here the header is
text that is compared with the one layout that a file of drawings has: unsigned bytes, `(rows, 784)`, row after row.
"""

import re
import struct
from typing import NamedTuple

from stages.common.errors import one_line
from stages.quickdraw import SIDE

PIXELS = SIDE * SIDE
MAX_HEADER_BYTES = 1024  # bytes; NumPy writes 80 or 128 for such an array


class Header(NamedTuple):
    """Where the drawings of a file begin, and how many there are."""

    offset: int  # bytes
    rows: int

    @property
    def size(self) -> int:
        """The bytes of the whole file."""
        return self.offset + self.rows * PIXELS


def parse(start: bytes, size: int) -> Header:
    """The header of a file of `size` bytes that begins with `start` (`LONGEST_HEADER` bytes of it are always enough).

    Raises `ValueError`, in words that can follow the file's name, for everything but whole drawings.
    """
    if len(start) < 10 or not start.startswith(b"\x93NUMPY"):
        raise ValueError("is empty" if size == 0 else "is not a .npy file")
    if start[6] not in (1, 2, 3):
        raise ValueError(f"is a .npy file of version {start[6]}, which is not known")
    preamble = struct.Struct("<8xH") if start[6] == 1 else struct.Struct("<8xI")
    offset = preamble.size
    if len(start) >= offset:
        offset += preamble.unpack_from(start)[0]
    if offset > MAX_HEADER_BYTES:
        raise ValueError(f"has a header of {offset:,} bytes, too long to be one")
    if len(start) < offset:
        raise ValueError(f"is cut short in its header, after {size} bytes")
    text = start[preamble.size : offset].decode("latin-1")

    descr = _value(r"'descr'\s*:\s*('[^']*'|\[.*\])", text).strip("'")
    fortran = _value(r"'fortran_order'\s*:\s*(True|False)", text)
    shape = _value(r"'shape'\s*:\s*\(((?:\s*[0-9]{1,19}L?\s*,)*(?:\s*[0-9]{1,19}L?)?\s*)\)", text)
    if "O" in descr:
        raise ValueError("holds pickled objects, which are never read: it could run any code")
    if not re.fullmatch(r"[|<>=]?u1", descr):
        raise ValueError(f"holds values of type {one_line(descr, 40)}; drawings are uint8")
    lengths = tuple(int(length.strip().rstrip("L")) for length in shape.split(",") if length.strip())
    if len(lengths) != 2 or lengths[1] != PIXELS:
        raise ValueError(f"has the shape {one_line(lengths)}; drawings are (N, {PIXELS})")
    if fortran == "True":
        raise ValueError("is stored column by column (Fortran order); save numpy.ascontiguousarray(drawings)")
    header = Header(offset, lengths[0])
    if header.size != size:
        cut = "is cut short" if size < header.size else "is too long"
        raise ValueError(
            f"{cut}: {size:,} bytes, where its header says {header.rows:,} drawings, {header.size:,} bytes"
        )
    if header.rows > 2**31 - 1:
        raise ValueError(f"holds {header.rows:,} drawings, more than 2**31 - 1")
    return header


def _value(pattern: str, text: str) -> str:
    found = re.findall(pattern, text)
    if len(found) != 1:
        raise ValueError("has a header that says nothing of its type, order or shape")
    return str(found[0])
