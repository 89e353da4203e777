"""Parses the header of a `<class>.npy` file, which is untrusted input.

NumPy's reader allocates the size that a header claims, and unpickles objects if that is allowed. Here the header is
only compared, as text, with the one layout that a file of drawings has: unsigned bytes, `(rows, 784)`, in C order.
"""

import re
import struct
from typing import NamedTuple

from stages.common.errors import counted, one_line
from stages.quickdraw import SIDE

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
    if len(start) < 10 or not start.startswith(b"\x93NUMPY"):
        raise ValueError("is empty" if size == 0 else "is not a .npy file")
    if start[6] not in (1, 2, 3):
        raise ValueError(f"has the unknown .npy version {start[6]}")
    preamble = struct.Struct("<8xH") if start[6] == 1 else struct.Struct("<8xI")
    offset = preamble.size
    if len(start) >= offset:
        offset += preamble.unpack_from(start)[0]
    if offset > MAX_HEADER_BYTES:
        raise ValueError(f"has a header of {offset:,} bytes; the maximum supported is {MAX_HEADER_BYTES:,}")
    if len(start) < offset:
        raise ValueError(f"is cut short in its header, after {size} bytes")
    text = start[preamble.size : offset].decode("latin-1")

    descr = _value(r"'descr'\s*:\s*('[^']*'|\[.*\])", text).strip("'")
    fortran = _value(r"'fortran_order'\s*:\s*(True|False)", text)
    shape = _value(r"'shape'\s*:\s*\(((?:\s*[0-9]{1,19}L?\s*,)*(?:\s*[0-9]{1,19}L?)?\s*)\)", text)
    if "O" in descr:
        raise ValueError("holds pickled objects, which are never loaded, because they could run any code")
    if not re.fullmatch(r"[|<>=]?u1", descr):
        raise ValueError(f"holds values of type {one_line(descr, 40)}; drawings are uint8")
    lengths = tuple(int(length.strip().rstrip("L")) for length in shape.split(",") if length.strip())
    if len(lengths) != 2 or lengths[1] != PIXELS:
        raise ValueError(f"has the shape {one_line(lengths)}; drawings are (N, {PIXELS})")
    if fortran == "True":
        raise ValueError("is stored column by column (Fortran order); save numpy.ascontiguousarray(drawings)")
    header = Header(offset, lengths[0])
    if header.size != size:
        fault = "is cut short" if size < header.size else "is too long"
        raise ValueError(
            f"{fault}: {size:,} bytes, where its header says {counted(header.rows, 'drawing')}, {header.size:,} bytes"
        )
    if header.rows > 2**31 - 1:
        raise ValueError(f"holds {header.rows:,} drawings; the maximum supported is 2**31 - 1")
    return header


def _value(pattern: str, text: str) -> str:
    values = re.findall(pattern, text)
    if len(values) != 1:
        raise ValueError("has a header that does not state its type, order and shape once each")
    return str(values[0])
