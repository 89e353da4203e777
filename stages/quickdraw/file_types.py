"""Says what a file is that should be a `.npy` file, from its first bytes, which are untrusted input."""

IMPORT = "python -m pipeline import WHAT FOLDER"
START_BYTES = 512  # enough to recognise a file
NPY = b"\x93NUMPY"
UTF8_MARK = b"\xef\xbb\xbf"
# The beginnings of files that people and servers save under the name of a .npy file, in small letters.
KINDS = {
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull`",
    b"<!doctype html": "a web page; download the file again",
    b"<html": "a web page; download the file again",
    b"<?xml": "a message of a server in XML; download the file again",
    b"<error": "a message of a server in XML; download the file again",
    b"{": "JSON text",
    b"pk\3\4": f"a zip or .npz file; rename it, and convert it: {IMPORT}",
    b"\x89hdf": "an HDF5 file",
    b"\x1f\x8b": "a gzip file; unpack it with `gunzip`",
    b"\x89png": f"a PNG picture; convert pictures: {IMPORT}",
    b"\xff\xd8\xff": f"a JPEG picture; convert pictures: {IMPORT}",
    b"par1": "a Parquet file",
}


def explain_no_npy(start: bytes) -> str:
    """Say what a file is instead of a `.npy` file: `is not a .npy file, but a web page; download the file again`.

    Args:
      start: its first bytes.

    Returns:
      Words to follow the file's name; empty if the file begins as a `.npy` file does.
    """
    if start.startswith(NPY):
        return ""
    if not start:
        return "is empty"
    text = start.removeprefix(UTF8_MARK).lstrip().lower()
    kind = next((kind for beginning, kind in KINDS.items() if text.startswith(beginning)), "")
    return f"is not a .npy file, but {kind}" if kind else "is not a .npy file"
