"""Selects the first N drawings in the order of TensorFlow Datasets, from the number of rows of each class.

A drawing's key is `<class>_<row>`. The drawings are sorted by `md5(b"train" + key)`, read as a 128-bit big-endian
number, so the first N are those with the N smallest hashes. Every hash has to be computed: 50 million for the public
bucket. MD5 (RFC 1321) is therefore computed on arrays of rows with NumPy, about eight times as fast as with `hashlib`
key by key, and in one process per core.
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
VARYING_DIGITS = 4  # of the row numbers in one array of hashes: arrays of 10,000 keys fit into a core's cache
ROWS_PER_TASK = 20 * 10**VARYING_DIGITS  # that a process hashes at a time
MIN_KEYS_PER_PROCESS = 2_000_000  # hashing fewer takes less time than starting a process

# The constants of RFC 1321: the initial state, and of each step the sine, the rotation and the word of the message.
_INITIAL_STATE = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_SINES = tuple(int(2**32 * abs(math.sin(step + 1))) for step in range(64))
_ROTATIONS = (7, 12, 17, 22) * 4 + (5, 9, 14, 20) * 4 + (4, 11, 16, 23) * 4 + (6, 10, 15, 21) * 4
_WORDS = tuple(
    (factor * step + offset) % 16 for factor, offset in ((1, 0), (5, 1), (3, 5), (7, 0)) for step in range(16)
)


class Ranked(NamedTuple):
    """Drawings in the order of their hashes.

    Attributes:
      group: the index of each drawing's class among the counts, (N,).
      row: the row of each drawing in its class's file, (N,).
    """

    group: npt.NDArray[np.int16]
    row: npt.NDArray[np.int32]


class _Hashed(NamedTuple):
    group: npt.NDArray[np.int16]
    row: npt.NDArray[np.int32]
    high: npt.NDArray[np.uint64]  # the hash's first 64 bits, as a number
    low: npt.NDArray[np.uint64]


def first(counts: Mapping[str, int], number: int) -> Ranked:
    """The first `number` drawings of classes with `counts` drawings each, in order.

    Memory grows with `number`, by about 60 bytes a drawing, and not with the number of keys.

    Raises:
      ValueError: `number` is negative, or there are fewer drawings.
    """
    total = sum(counts.values())
    if not 0 <= number <= total:
        raise ValueError(f"{number} of {total} drawings")
    # Hashes are uniform, so a limit at `excess` times the requested share is too low only once in 10^9 cases.
    excess = 1.0 + 6.0 / math.sqrt(max(number, 1)) + 20.0 / max(number, 1)
    while True:
        limit = min(int(number / max(total, 1) * excess * 2**32), 2**32 - 1)
        hashed = _below(counts, limit)
        if len(hashed.row) >= number:
            break
        excess *= 2
    order = np.lexsort((hashed.low, hashed.high))[:number]
    return Ranked(hashed.group[order], hashed.row[order])


def hashes(name: str, start: int, stop: int) -> Iterator[tuple[int, Words]]:
    """Yield the MD5 hashes of the keys of rows `start` to `stop` (exclusive) of a class, in arrays.

    Each item is the array's first row, and an array `(4, rows)` of the digests' 32-bit words in little-endian order.
    """
    prefix = SALT + name.encode() + b"_"
    while start < stop:
        # The rows of one array have the same number of digits, and differ only in the last VARYING_DIGITS of them.
        width = min(len(str(start)), VARYING_DIGITS)
        leading, first_row = divmod(start, 10**width)
        end = min(10**width, first_row + stop - start)
        yield start, _md5(prefix + (str(leading).encode() if leading else b""), width, first_row, end)
        start += end - first_row


_Span: TypeAlias = tuple[int, str, int, int, int]  # class index, class name, first row, end row, limit of the hashes


def _below(counts: Mapping[str, int], limit: int) -> _Hashed:
    """The drawings whose hash's first 32 bits are at most `limit`, in no particular order."""
    spans = [
        (group, name, start, min(start + ROWS_PER_TASK, count), limit)
        for group, (name, count) in enumerate(counts.items())
        for start in range(0, count, ROWS_PER_TASK)
    ]
    total = sum(counts.values())
    parts = []
    with progress("selecting drawings", total, "keys") as add, _parallel_map(total) as parallel_map:
        for (_, _, start, stop, _), part in zip(spans, parallel_map(_span_below, spans), strict=True):
            parts.append(part)
            add(stop - start)
    columns = zip(*parts, strict=True) if parts else [np.empty((1, 0), dtype) for dtype in ("i2", "i4", "u8", "u8")]
    return _Hashed(*(np.concatenate(column) for column in columns))


def _span_below(span: _Span) -> _Hashed:
    group, name, start, stop, limit = span
    rows, highs, lows = [], [], []
    for first_row, words in hashes(name, start, stop):
        below = np.flatnonzero(words[0].byteswap() <= limit)
        a, b, c, d = words[:, below].byteswap().astype(np.uint64)
        rows.append((below + first_row).astype(np.int32))
        highs.append(a << np.uint64(32) | b)
        lows.append(c << np.uint64(32) | d)
    row = np.concatenate(rows)
    return _Hashed(np.full(len(row), group, np.int16), row, np.concatenate(highs), np.concatenate(lows))


def _md5(prefix: bytes, width: int, start: int, stop: int) -> Words:
    """The MD5 hashes `(4, stop - start)` of `prefix` and a number, for the numbers `start` to `stop` (exclusive).

    The numbers are written with `width` digits.
    """
    digits = tuple(word[start:stop] for word in _digits(len(prefix) % 4, width))
    message = prefix + bytes(width) + b"\x80"
    message += bytes(-(len(message) + 8) % 64) + struct.pack("<Q", 8 * (len(prefix) + width))
    constant = struct.unpack(f"<{len(message) // 4}I", message)
    varying = {len(prefix) // 4 + index: word for index, word in enumerate(digits)}

    state = np.repeat(np.array(_INITIAL_STATE, np.uint32)[:, np.newaxis], stop - start, axis=1)
    mixed, rotated = np.empty((2, stop - start), np.uint32)
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
            np.left_shift(a, _ROTATIONS[step], out=rotated)
            a >>= 32 - _ROTATIONS[step]
            a |= rotated
            a += b
            a, b, c, d = d, a, b, c
        state += (a, b, c, d)
    return state


@functools.lru_cache
def _digits(alignment: int, width: int) -> tuple[Words, ...]:
    """The message words of all numbers of `width` digits, whose first digit is byte `alignment` of its word."""
    numbers = np.arange(10**width, dtype=np.uint32)
    words = [np.zeros_like(numbers) for _ in range((alignment + width + 3) // 4)]
    for position in range(width):
        word, byte = divmod(alignment + position, 4)
        words[word] |= (numbers // 10 ** (width - 1 - position) % 10 + ord("0")) << (8 * byte)
    return tuple(words)


@contextmanager
def _parallel_map(keys: int) -> Iterator[Callable[[Callable[[_Span], _Hashed], list[_Span]], Iterator[_Hashed]]]:
    """Provide a function like `map`, with one process per core, or in this process if the number of keys is small."""
    processes = min(usable_cores(), keys // MIN_KEYS_PER_PROCESS)
    if processes < 2:
        yield map
        return
    # Spawned, not forked: a fork of a process with threads (TensorFlow's, Arrow's) can hang.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_worker) as pool:
        try:
            yield pool.map
        except BrokenProcessPool:  # the kernel kills without a message when memory runs out
            raise StageError(
                "a process that selects drawings was killed, most likely because memory ran out: lower num_drawings, "
                "or free memory"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    """Set up a worker process: ignore Ctrl-C, which the parent process receives too, and end when the parent ends."""

    def end_with_parent() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(
        target=end_with_parent, daemon=True
    ).start()  # without it, a worker waits forever after its parent is killed
