"""Says what a file is that should be a `.npy` file, from its first bytes, which are untrusted input."""

AGAIN = "copy or download the file again"
IMPORT = "python -m pipeline import WHAT FOLDER"
START_BYTES = 512  # enough to recognise a file
NPY = b"\x93NUMPY"
UTF8_MARK = b"\xef\xbb\xbf"
# In a folder whose other files are not complete yet, so that no source reads it.
UNFINISHED = b"unfinished: run the same command again\n"
# The beginnings of files that people and servers save under the name of a .npy file, in small letters.
KINDS = {
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull`",
    b"<!doctype html": f"a web page; {AGAIN}",
    b"<html": f"a web page; {AGAIN}",
    b"<?xml": f"a message of a server in XML; {AGAIN}",
    b"<error": f"a message of a server in XML; {AGAIN}",
    b"{": "JSON text",
    b"unfinished:": "the mark of an unfinished folder; run the `python -m pipeline generate` that wrote it again",
    b"pk\3\4": f"a zip or .npz file; rename it, and convert it: {IMPORT}",
    b"\x89hdf": "an HDF5 file",
    b"\x1f\x8b": "a gzip file; unpack it with `gunzip`",
    b"\x89png": f"a PNG picture; convert pictures: {IMPORT}",
    b"\xff\xd8\xff": f"a JPEG picture; convert pictures: {IMPORT}",
    b"par1": "a Parquet file",
}


def explain_no_npy(start: bytes) -> str:
    """Say what a file is instead of a `.npy` file: `is not a .npy file, but a web page; copy or download …`.

    Args:
      start: its first bytes.

    Returns:
      Words to follow the file's name; empty if the file begins as a `.npy` file does.
    """
    if start.startswith(NPY):
        return ""
    if not start:
        return f"is empty; {AGAIN}"
    text = start.removeprefix(UTF8_MARK).lstrip().lower()
    kind = next((kind for beginning, kind in KINDS.items() if text.startswith(beginning)), "")
    return f"is not a .npy file, but {kind}" if kind else "is not a .npy file"
