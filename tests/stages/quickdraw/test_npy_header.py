import io
import struct

import numpy as np
import pytest

from stages.quickdraw import npy_header


def npy_bytes(array: object, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), version)
    return file.getvalue()


def with_header(text: str, version: int = 1, body: bytes = b"") -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode() + body


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_the_header_of_an_array_of_drawings(version: tuple[int, int], rows: int) -> None:
    content = npy_bytes(np.zeros((rows, 784), np.uint8), version)
    header = npy_header.parse(content[: npy_header.MAX_HEADER_BYTES], len(content))
    assert header.rows == rows
    assert header.size == len(content)


def test_the_header_of_the_public_bucket_is_80_bytes() -> None:
    text = "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 784), }"
    content = with_header(text.ljust(69) + "\n", body=bytes(3 * 784))
    assert npy_header.parse(content, len(content)) == npy_header.Header(80, 3, (28, 28, 1))


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [
        ((5, 64), (8, 8, 1)),
        ((5, 4096), (64, 64, 1)),
        ((0, 28, 28), (28, 28, 1)),
        ((5, 8, 64), (8, 64, 1)),
        ((5, 20, 36, 1), (20, 36, 1)),
        ((5, 32, 32, 3), (32, 32, 3)),
    ],
)
def test_drawings_of_any_shape_within_the_limits(shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
    content = npy_bytes(np.zeros(shape, np.uint8))
    header = npy_header.parse(content[: npy_header.MAX_HEADER_BYTES], len(content))
    assert (header.rows, header.image_shape, header.size) == (shape[0], image_shape, len(content))


@pytest.mark.parametrize(
    "shape",
    [(5,), (5, 49), (5, 783), (5, 65**2), (5, 3072), (5, 7, 28), (5, 28, 65), (5, 28, 28, 2), (5, 3, 28, 28),
     (5, 28, 28, 0), (5, 1, 28, 28, 1)],
)  # fmt: skip
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    content = npy_bytes(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=r"^has the shape .*; drawings are \(N, height, width\), .*8 to 64 pixels"):
        npy_header.parse(content[: npy_header.MAX_HEADER_BYTES], len(content))


def test_drawings_of_two_shapes_are_an_error_that_names_both_files() -> None:
    grey, wide, colour = (28, 28, 1), (28, 36, 1), (28, 28, 3)
    assert npy_header.common_shape({"a.npy": grey, "b.npy": grey}) == grey
    message = (
        "^a.npy has drawings of 28×28 pixels, grey, and c.npy of {}; give all of them one shape: .* FOLDER --size {}$"
    )
    for first, other, text, options in [
        (grey, wide, "28×36 pixels, grey", "28"),
        (grey, colour, "28×28 pixels, in colour", "28 --grey"),
    ]:
        with pytest.raises(ValueError, match=message.format(text, options)):
            npy_header.common_shape({"a.npy": first, "b.npy": first, "c.npy": other})
    with pytest.raises(ValueError, match=r"--size 28x36$"):
        npy_header.common_shape({"a.npy": wide, "b.npy": grey})


def test_headers_of_other_writers() -> None:
    for text in (
        "{'shape': (2L, 784L), 'fortran_order': False, 'descr': '<u1'}\n",
        "{'descr':'u1','fortran_order':False,'shape':(2,784)}",
    ):
        content = with_header(text, 1, bytes(2 * 784))
        assert npy_header.parse(content, len(content)).rows == 2


VALID = npy_bytes(np.zeros((5, 784), np.uint8))
HEADER = "{{'descr': '|u1', 'fortran_order': False, 'shape': {}, }}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"something else", "^is not a .npy file$"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer; run `git lfs pull`$"),
        (b"\n<!DOCTYPE html>", "^is not a .npy file, but a web page; copy or download the file again$"),
        (b"<HTML>", "a web page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error>", "a message of a server in XML"),
        (b"<Error><Code>NoSuchKey</Code></Error>", "a message of a server in XML"),
        (b'{"error": 404}', "JSON text"),
        (
            b"PK\x03\x04 a zip file",
            "a zip or .npz file; rename it, and convert it: python -m pipeline import WHAT FOLDER",
        ),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x1f\x8b\x08", "a gzip file; unpack it with `gunzip`"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture; convert pictures: python -m pipeline import"),
        (b"\xff\xd8\xff\xe0", "a JPEG picture"),
        (b"PAR1", "a Parquet file"),
        (b"\x93NUMPY", "^is cut short in its header, after 6 bytes; copy or download the file again$"),
        (VALID[:50], "is cut short in its header"),
        (
            VALID[:-1],
            "is cut short: 4,047 bytes, where its header says 5 drawings, 4,048 bytes; copy or download the file",
        ),
        (VALID + b"\0", "is too long"),
        (b"\x93NUMPY\x09\x00" + VALID[8:], "version 9"),
        (
            npy_bytes(np.zeros((5, 100, 100), np.uint8)),
            r"\(5, 100, 100\); drawings are .* 8 to 64 pixels each way; convert it: python -m pipeline import",
        ),
        (npy_bytes(np.zeros(784, np.uint8)), "has the shape"),
        (npy_bytes(np.zeros((), np.uint8)), "has the shape"),
        (npy_bytes(np.zeros((5, 784), np.float32)), "values of type <f4"),
        (npy_bytes(np.zeros((5, 784), np.int8)), "values of type"),
        (npy_bytes(np.zeros((5, 784), [("a", "u1")])), "values of type"),
        (npy_bytes(np.array([{}], object)), "pickled objects"),
        (npy_bytes(np.asfortranarray(np.zeros((5, 784), np.uint8))), "Fortran order"),
        (with_header(HEADER.format(f"({2**60}, 784)")), "is cut short: 8. bytes"),
        (with_header(HEADER.format(f"({'9' * 500}, 784)")), "does not state its type"),
        (with_header("(" * 900, 2), "does not state its type"),
        (with_header("__import__('os').abort()"), "does not state its type"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1), "has a header of 4,294,967,307 bytes"),
    ],
)
def test_a_file_of_anything_but_whole_drawings_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        npy_header.parse(content[: npy_header.MAX_HEADER_BYTES], len(content))
    assert len(str(caught.value)) < 300
