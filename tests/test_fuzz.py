"""Fuzz tests of every parser of external input: it reads the input, or rejects it with a one-line error.

The environment variable `FUZZ` is the number of cases for each test marked `robustness`, for example `FUZZ=1000000`.
"""

import io
import json
import math
import os
import random
import re
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import run_settings, verify
from pipeline.exporting import checksums
from stages import params
from stages.common import tables
from stages.common.errors import SettingsError, StageError
from stages.quickdraw import labels, npy_header, retry, tfds
from stages.reporting import blind_review, sheets
from tests.settings import FULL

CASES = int(os.environ.get("FUZZ", "4000"))
BATCH_SIZE = 100  # cases per hypothesis example, because making an example takes longer than parsing a case

# Values that often break parsers: they replace numbers in the input, or are inserted into it.
NUMBERS = [0, 1, -1, 784, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**60, 2**63, 2**64, 10**18, 10**30, 10**4400]
TEXTS = [
    b"\0", b"\xff", b"\n", b"\r\n", b"\t", b" ", b",", b"(", b")", b"[", b"]", b"{", b"}", b"'", b'"', b":", b"#",
    b"&a ", b"*a", b"!!", b"!!python/name:os ", b"- ", b"? ", b"| ", b"> ", b"%", b"L", b"O", b"True", b"null", b"nan",
    b"1e999", b"0x", b"0o8", b"2001-99-99", b"1:60", b"\\0", b"\\ud800", b"../", b"/dev/zero", b"descr", b"shape",
    b"|u1", b"<f8", b"\xe2\x80\xae", b"\xf0\x9f\x90\x9d", b"$(x)", b"\x93NUMPY", b"\x80\x04\x95", b"<script>",
    b"</script>", b"[" * 600,
]  # fmt: skip


class Parser(NamedTuple):
    """A parser of external bytes.

    Attributes:
      read: parses the bytes, and checks the result.
      seeds: inputs to mutate.
      error: the exceptions that it may raise.
      fast: whether a case takes much less than a millisecond.
    """

    read: Callable[[bytes], object]
    seeds: Sequence[bytes]
    error: type[Exception] | tuple[type[Exception], ...]
    fast: bool = False


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of the seeds with up to eight random changes."""
    content = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(content) + 1)
        match rng.randrange(8):
            case 0 if content:
                content[at % len(content)] = rng.randrange(256)
            case 1 if content:
                content[at % len(content)] ^= 1 << rng.randrange(8)
            case 2:
                content[at:at] = rng.choice(TEXTS)
            case 3:
                del content[at : at + rng.choice((1, 1, 2, 5, 20, 1000))]
            case 4:
                source = rng.choice(seeds)
                start = rng.randrange(len(source) + 1)
                content[at:at] = source[start : start + rng.choice((1, 5, 20, 200))]
            case 5:
                content[at : at + 8] = rng.choice(NUMBERS[:-2]).to_bytes(9, "little", signed=True)[:8]
            case 6:
                if numbers := list(re.finditer(rb"-?\d+", content)):
                    number = rng.choice(numbers)
                    content[number.start() : number.end()] = _to_text(rng.choice(NUMBERS)).encode()
            case _:
                content[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))
    return bytes(content)


def _to_text(number: int) -> str:
    return str(number) if abs(number) < 10**100 else "1" + "0" * 4400


def attempt(parser: Parser, content: bytes) -> None:
    """Check that the parser reads the content or rejects it with short lines, within ten seconds of processor time."""
    started = time.process_time()
    try:
        parser.read(content)
    except parser.error as error:
        lines = str(error).splitlines()
        assert lines and all(len(line) < 600 and line.isprintable() for line in lines), str(error)[:2000]
    except Exception as error:
        raise AssertionError(f"{content!r} raised {type(error).__name__}: {error}"[:5000]) from error
    assert time.process_time() - started < 10, content[:5000]


# --- Parsers ---


def read_npy(content: bytes) -> None:
    header = npy_header.parse(content[: npy_header.MAX_HEADER_BYTES], len(content))
    assert 0 <= header.rows < 2**31 and header.offset <= npy_header.MAX_HEADER_BYTES
    assert header.offset + header.rows * math.prod(header.image_shape) == len(content), (
        "the header matches the length of the file"
    )


def read_settings(content: bytes) -> None:
    checked = params.check(params.parse(content.decode("utf-8", "replace"), "params.yaml"), "params.yaml")
    assert 1 <= checked.num_resnet <= 20 and math.isfinite(checked.learning_rate) and checked.classes
    assert checked.source.isprintable() and not any("/" in name or "\0" in name for name in checked.classes)


def read_override(content: bytes) -> None:
    key, _ = run_settings.parse_override(content.decode("utf-8", "replace"))
    assert key in params.Params.model_fields


def read_name(content: bytes) -> None:
    name = labels.check_name(content.decode("utf-8", "surrogateescape"))
    assert Path("/folder", f"{name}.npy").resolve().parent == Path("/folder")


def read_checksums(content: bytes) -> None:
    for path, digest in checksums.parse(content, Path("SHA256SUMS")).items():
        assert path.isprintable() and ".." not in Path(path).parts and not Path(path).is_absolute()
        assert re.fullmatch("[0-9a-f]{64}", digest)


def read_page(content: bytes) -> None:
    files, _ = verify.read_provenance(content, Path("a.html"))
    assert all((Path("/root") / path).resolve().is_relative_to("/root") for path in files)


def read_record(content: bytes) -> None:
    image, label = tfds._example(content)
    assert len(tfds._lines(image)) == 28 * 29 and label >= 0


def read_retry_after(content: bytes) -> None:
    seconds = retry.retry_after(content.decode("latin-1"))
    assert seconds is None or seconds >= 0


def read_sheet(content: bytes) -> None:
    real, generated = sheets.read_sheet(content)
    assert real and all(drawing.shape == (28, 28) for drawing in (*real, *generated))


def file_reader(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def write_and_read(content: bytes) -> None:
        path.write_bytes(content)
        read(path)

    return write_and_read


# --- Seeds ---


def npy_bytes(array: Any, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def png_bytes(width: int, height: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def record_bytes() -> bytes:
    """Return a record as TensorFlow Datasets writes it."""

    def field(number: int, content: bytes) -> bytes:
        length = len(content)
        return bytes([number << 3 | 2, *([length] if length < 128 else [length & 127 | 128, length >> 7])]) + content

    image, label = png_bytes(28, 28), bytes([26])
    entries = [
        field(1, field(1, b"image") + field(2, field(1, field(1, image)))),
        field(1, field(1, b"label") + field(2, field(3, field(1, label)))),
    ]
    return field(1, b"".join(entries))


def parquet_bytes() -> bytes:
    names = pd.Categorical(["bee", "tree"] * 20)
    table = {"label": np.arange(40, dtype=np.int16), "name": names, "heldout": np.arange(40) % 2 == 0}
    file = io.BytesIO()
    pd.DataFrame(table).to_parquet(file, index=False)
    return file.getvalue()


HEADERS = [
    "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 784), }",
    "{'shape': (3L, 784L), 'fortran_order': False, 'descr': '<u1'}",
    "{'descr': '|O', 'fortran_order': True, 'shape': (), }",
]
NPY = [
    *(npy_bytes(np.zeros((rows, 784), np.uint8), version) for rows in (0, 3) for version in ((1, 0), (2, 0), (3, 0))),
    *(b"\x93NUMPY\x01\x00" + bytes([len(text), 0]) + text.encode() + bytes(3 * 784) for text in HEADERS),
    npy_bytes(np.zeros((2, 28, 28), np.float32)),
    npy_bytes(np.zeros((2, 8, 64, 3), np.uint8)),
]
YAML_TEXT = "".join(f"{key}: {json.dumps(value)}\n" for key, value in FULL.items()).encode()
SMALL_YAML = [
    b"seed: 1\nsource: doodles\nclasses: [bee, sun]\n",
    b"learning_rate: 1e-3\nclasses:\n- bee\n- The Eiffel Tower\nprefetch: true\n",
    b"a: &a {b: 1}\nc: {<<: *a, d: 2}\n",
    b"a: &a [1, *a]\nb: {c: ? d}\n--- \n...\n%YAML 1.1\n",
    b'source: "a\\x41"\ndate: 2001-01-01 10:00:00\nf: .inf\ng: !!set {a, b}\nh: !!binary aGk=\n',
]
REVIEW = json.dumps({"questions": "", "mode": "pairs", "reviewer": "one", "answers": [[0, True], [1, False]]}).encode()
PAGE = b'<html><script type="application/json" id="provenance">{"files": {"data/a": "00"}, "settings": {}}</script>'
CHECKSUMS = b"%s  README.md\n%s  savedmodel/saved_model.pb\n" % (b"0" * 64, b"f" * 64)
OVERRIDES = [b"num_resnet=3", b"classes=[bee, cat]", b"source=/a b", b"learning_rate=2e-5", b"prefetch=true"]
DATES = [b"120", b"Wed, 21 Oct 2015 07:28:00 GMT", b"Fri, 31 Dec 9999 23:59:59 -9999", b"1e400"]


def parsers(folder: Path) -> dict[str, Parser]:
    """Return every parser, by name."""
    questions = [blind_review.Question(0, 0, 0, left, left) for left in (True, False)]
    review = file_reader(folder / "a.json", lambda path: blind_review.read("", questions, path.parent))
    record_errors = (ValueError, IndexError, OverflowError, struct.error, zlib.error)  # Prepared.read handles these
    columns = {"label": "int16", "name": "category", "heldout": "bool"}
    table = file_reader(folder / "a.parquet", lambda path: tables.read(path, columns))
    return {
        "npy": Parser(read_npy, NPY, ValueError, fast=True),
        "settings": Parser(read_settings, SMALL_YAML, SettingsError),
        "all settings": Parser(read_settings, [YAML_TEXT], SettingsError),
        "override": Parser(read_override, OVERRIDES, SettingsError),
        "name": Parser(read_name, [b"bee", b"The Eiffel Tower", b"a"], ValueError, fast=True),
        "review": Parser(review, [REVIEW], StageError),
        "page": Parser(read_page, [PAGE], verify.VerifyError),
        "checksums": Parser(read_checksums, [CHECKSUMS], checksums.ExportError, fast=True),
        "record": Parser(read_record, [record_bytes()], record_errors, fast=True),
        "retry-after": Parser(read_retry_after, DATES, (), fast=True),
        "sheet": Parser(read_sheet, [png_bytes(280, 560)], ValueError),
        "array": Parser(file_reader(folder / "a.npy", tables.open_memmap), NPY, ValueError),
        "table": Parser(table, [parquet_bytes()], ValueError),
    }


NAMES = (
    "npy",
    "settings",
    "all settings",
    "override",
    "name",
    "review",
    "page",
    "checksums",
    "record",
    "retry-after",
    "sheet",
    "array",
    "table",
)


def fuzz(parser: Parser, cases: int) -> None:
    """Try `cases` mutated inputs, in batches. Hypothesis chooses the seed of each batch, and reports one that fails."""
    batch_size = BATCH_SIZE if parser.fast else 10

    @hypothesis_settings(
        max_examples=max(cases // batch_size, 1),
        deadline=None,
        database=None,
        derandomize="FUZZ" not in os.environ,  # by hand, each time other cases
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 2**64 - 1))
    def batch(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(batch_size):
            attempt(parser, mutate(rng, parser.seeds))

    batch()


def test_names_lists_every_parser(tmp_path: Path) -> None:
    assert tuple(parsers(tmp_path)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_parser_reads_or_rejects_in_one_line(tmp_path: Path, name: str) -> None:
    parser = parsers(tmp_path)[name]
    for content in parser.seeds:
        attempt(parser, content)
    fuzz(parser, 1000 if parser.fast else 60)


@pytest.mark.robustness
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", NAMES)
def test_a_parser_reads_or_rejects_many_cases(tmp_path: Path, name: str) -> None:
    fuzz(parsers(tmp_path)[name], CASES)


# --- Values of settings, instead of YAML text ---

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(NUMBERS[:-1])  # the last cannot be printed by hypothesis
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=5)
    | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


def check(changes: dict[Any, Any]) -> None:
    try:
        checked = params.check(FULL | changes, "params.yaml")
    except SettingsError as error:
        assert all(len(line) < 600 and line.isprintable() for line in str(error).splitlines())
    else:
        assert changes.keys() <= params.Params.model_fields.keys()
        for key, bounds in {"num_resnet": (1, 20), "holdout": (0.01, 0.5), "seed": (0, 2**31 - 1)}.items():
            assert bounds[0] <= getattr(checked, key) <= bounds[1]


@hypothesis_settings(max_examples=300, deadline=None, database=None)
@given(
    st.dictionaries(st.sampled_from(list(FULL)) | st.integers() | st.text(max_size=5), VALUES, min_size=1, max_size=3)
)
def test_a_value_is_accepted_or_rejected_in_one_line(changes: dict[Any, Any]) -> None:
    check(changes)


def any_value(rng: random.Random, depth: int = 0) -> Any:
    """Return a random value of the types that YAML can yield."""
    match rng.randrange(12 if depth < 3 else 8):
        case 0:
            return None
        case 1:
            return rng.random() < 0.5
        case 2:
            return rng.choice(NUMBERS)
        case 3:
            return rng.randrange(-5, 30)
        case 4:
            return rng.choice((math.nan, math.inf, -math.inf, 5e-324, 1e308, rng.uniform(-2, 2)))
        case 5:
            return rng.choice(("one_hot", "auto", "doodles", "digits", "bfloat16", "none", "1e-3", "0x10", "", " 3 "))
        case 6:
            return "".join(chr(rng.randrange(0, 0x3000)) for _ in range(rng.randrange(12)))
        case 7:
            return rng.choice((b"x", "\ud800", "../x", "s3://b", "ftp://x", "\0", "a" * 5000))
        case 8 | 9:
            return [any_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case 10:
            return {any_value(rng, 8) if rng.random() < 0.2 else "a": any_value(rng, depth + 1)}
        case _:
            return rng.sample(["bee", "sun", "tree", "bycicle", "my dog", "/x"], 3)


@pytest.mark.robustness
@pytest.mark.timeout(0)
def test_many_values_are_accepted_or_rejected_in_one_line() -> None:
    @hypothesis_settings(max_examples=max(CASES // BATCH_SIZE, 1), deadline=None, database=None)
    @given(seed=st.integers(0, 2**64 - 1))
    def batch(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(BATCH_SIZE):
            keys = rng.choices([*FULL, "num_resnt", 7, None], k=rng.choice((1, 1, 2, 4)))
            check({key: any_value(rng) for key in keys})

    batch()
