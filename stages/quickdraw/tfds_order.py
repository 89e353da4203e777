"""Which drawings are the first N: the order that TensorFlow Datasets stores them in, from the row counts alone.

A drawing's key is `<class>_<row>`, and its place is that of `md5(b"train" + key)`, read as a 128-bit big-endian
number, among those of all keys. So the first N are the N smallest hashes. All of them have to be computed, 50 million
for the public bucket: MD5 (RFC 1321) is done here on arrays of rows with NumPy, about eight times as fast as `hashlib`
key by key, and in as many processes as there are cores.
"""

import functools
import math
import multiprocessing
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.common.cores import usable_cores
from stages.common.errors import StageError
from stages.common.progress import progress

Words: TypeAlias = npt.NDArray[np.uint32]

SALT = b"train"  # the name of the split
WIDTH = 4  # digits that vary within an array of hashes: 10,000 keys, whose arrays fit a core's cache
SPAN = 20 * 10**WIDTH  # rows that a process takes at a time
WORTH_A_PROCESS = 2_000_000  # keys; fewer take less time than starting a process


_STARTS = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_SINES = tuple(int(2**32 * abs(math.sin(step + 1))) for step in range(64))
_TURNS = (7, 12, 17, 22) * 4 + (5, 9, 14, 20) * 4 + (4, 11, 16, 23) * 4 + (6, 10, 15, 21) * 4
_WORDS = tuple(
    (factor * step + offset) % 16 for factor, offset in ((1, 0), (5, 1), (3, 5), (7, 0)) for step in range(16)
)


class Ranked(NamedTuple):
    """Drawings in the order of their hashes."""

    group: npt.NDArray[np.int16]  # the place of the class among the counts
    row: npt.NDArray[np.int32]


class _Hashed(NamedTuple):
    group: npt.NDArray[np.int16]
    row: npt.NDArray[np.int32]
    high: npt.NDArray[np.uint64]  # the hash's first 64 bits, as a number
    low: npt.NDArray[np.uint64]


def first(counts: Mapping[str, int], number: int) -> Ranked:
    """The first `number` drawings of classes that hold `counts` drawings each, in order.

    Memory grows with `number`, about 60 bytes a drawing, and not with the number of keys.
    """
    total = sum(counts.values())
    if not 0 <= number <= total:
        raise ValueError(f"{number} of {total} drawings")
    # Hashes are uniform: this many times the share that is wanted holds enough of them but for one time in 10^9.
    excess = 1.0 + 6.0 / math.sqrt(max(number, 1)) + 20.0 / max(number, 1)
    while True:
        limit = min(int(number / max(total, 1) * excess * 2**32), 2**32 - 1)
        found = _below(counts, limit)
        if len(found.row) >= number:
            break
        excess *= 2
    order = np.lexsort((found.low, found.high))[:number]
    return Ranked(found.group[order], found.row[order])


def hashes(name: str, start: int, stop: int) -> Iterator[tuple[int, Words]]:
    """MD5 of the keys of rows `start` to `stop` of a class: for each array, its first row and words `(4, rows)`.

    The words are the digest's four 32-bit words as MD5 leaves them, little-endian.
    """
    prefix = SALT + name.encode() + b"_"
    while start < stop:
        # Rows of one array have as many digits, and differ in the last WIDTH of them alone.
        width = min(len(str(start)), WIDTH)
        leading, first_row = divmod(start, 10**width)
        end = min(10**width, first_row + stop - start)
        yield start, _md5(prefix + (str(leading).encode() if leading else b""), width, first_row, end)
        start += end - first_row


_Span: TypeAlias = tuple[int, str, int, int, int]  # group, class, its rows from and to, the limit of the hashes


def _below(counts: Mapping[str, int], limit: int) -> _Hashed:
    """The drawings whose hash's first 32 bits are `limit` or less, in no order."""
    spans = [
        (group, name, start, min(start + SPAN, count), limit)
        for group, (name, count) in enumerate(counts.items())
        for start in range(0, count, SPAN)
    ]
    total = sum(counts.values())
    found = []
    with progress("selecting drawings", total, "keys") as add, _mapping(total) as mapping:
        for (_, _, start, stop, _), part in zip(spans, mapping(_span_below, spans), strict=True):
            found.append(part)
            add(stop - start)
    columns = zip(*found, strict=True) if found else [np.empty((1, 0), dtype) for dtype in ("i2", "i4", "u8", "u8")]
    return _Hashed(*(np.concatenate(column) for column in columns))


def _span_below(span: _Span) -> _Hashed:
    group, name, start, stop, limit = span
    rows, highs, lows = [], [], []
    for first_row, words in hashes(name, start, stop):
        near = np.flatnonzero(words[0].byteswap() <= limit)
        a, b, c, d = words[:, near].byteswap().astype(np.uint64)
        rows.append((near + first_row).astype(np.int32))
        highs.append(a << np.uint64(32) | b)
        lows.append(c << np.uint64(32) | d)
    row = np.concatenate(rows)
    return _Hashed(np.full(len(row), group, np.int16), row, np.concatenate(highs), np.concatenate(lows))


def _md5(prefix: bytes, width: int, start: int, stop: int) -> Words:
    """MD5 of `prefix` followed by each of the numbers `start` to `stop`, written with `width` digits."""
    digits = tuple(word[start:stop] for word in _digits(len(prefix) % 4, width))
    message = prefix + bytes(width) + b"\x80"
    message += bytes(-(len(message) + 8) % 64) + struct.pack("<Q", 8 * (len(prefix) + width))
    constant = struct.unpack(f"<{len(message) // 4}I", message)
    varying = {len(prefix) // 4 + place: digits[place] for place in range(len(digits))}

    state = np.repeat(np.array(_STARTS, np.uint32)[:, np.newaxis], stop - start, axis=1)
    mixed, turned = np.empty((2, stop - start), np.uint32)
    for block in range(0, len(constant), 16):
        a, b, c, d = state.copy()
        for step in range(64):
            if step < 16:
                np.bitwise_xor(c, d, out=mixed)
                mixed &= b
                mixed ^= d
            elif step < 32:
                np.bitwise_xor(b, c, out=mixed)
                mixed &= d
                mixed ^= c
            elif step < 48:
                np.bitwise_xor(b, c, out=mixed)
                mixed ^= d
            else:
                np.invert(d, out=mixed)
                mixed |= b
                mixed ^= c
            word = block + _WORDS[step]
            a += mixed
            a += np.uint32((_SINES[step] + constant[word]) % 2**32)
            if word in varying:
                a += varying[word]
            np.left_shift(a, _TURNS[step], out=turned)
            a >>= 32 - _TURNS[step]
            a |= turned
            a += b
            a, b, c, d = d, a, b, c
        state += (a, b, c, d)
    return state


@functools.lru_cache
def _digits(alignment: int, width: int) -> tuple[Words, ...]:
    """The words that all numbers of `width` digits make, where the first digit is byte `alignment` of its word."""
    numbers = np.arange(10**width, dtype=np.uint32)
    words = [np.zeros_like(numbers) for _ in range((alignment + width + 3) // 4)]
    for place in range(width):
        word, byte = divmod(alignment + place, 4)
        words[word] |= (numbers // 10 ** (width - 1 - place) % 10 + ord("0")) << (8 * byte)
    return tuple(words)


@contextmanager
def _mapping(keys: int) -> Iterator[Callable[[Callable[[_Span], _Hashed], list[_Span]], Iterator[_Hashed]]]:
    """`map`, in as many processes as there are cores where there is enough to do."""
    processes = min(usable_cores(), keys // WORTH_A_PROCESS)
    if processes < 2:
        yield map
        return
    # Spawned, not forked: a fork of a process with threads (TensorFlow's, Arrow's) can hang.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _serve) as pool:
        try:
            yield pool.map
        except BrokenProcessPool:  # without a word, as the kernel kills where memory ends
            raise StageError(
                "a process that selects drawings was killed, most likely for want of memory: lower num_drawings, or "
                "free some"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _serve() -> None:
    """Be a process that works for another: leave Ctrl-C to it, which reaches both, and end when it does."""

    def end_with_parent() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()  # a killed parent leaves the pool waiting for ever
