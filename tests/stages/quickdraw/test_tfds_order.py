import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stages.common.errors import StageError
from stages.quickdraw import tfds_order
from stages.quickdraw.labels import labels, published
from tests.settings import ROOT
from tests.stages.drawings import first_by_sorting

COUNTS = {"bee": 11_234, "sea turtle": 1_001, "none": 0, "one": 1, "é": 23, "a" * 70: 300, "鳥" * 60: 120}


@pytest.mark.parametrize("number", [0, 1, 2, 700, sum(COUNTS.values())])
def test_the_first_drawings_have_the_smallest_hashes(number: int) -> None:
    ranked = tfds_order.first(COUNTS, number)
    names = list(COUNTS)
    selected = [(names[group], row) for group, row in zip(ranked.group.tolist(), ranked.row.tolist(), strict=True)]
    assert selected == first_by_sorting(COUNTS, number)


def test_more_drawings_than_exist_raise_value_error() -> None:
    with pytest.raises(ValueError, match="13 of 12"):
        tfds_order.first({"bee": 12}, 13)


@pytest.mark.parametrize("length", range(40, 70))  # the key fills one block of 64 bytes, or needs a second
@pytest.mark.parametrize(("start", "stop"), [(0, 11), (98, 102), (9_999, 10_001), (123_456, 123_460)])
def test_hashes_equal_those_of_hashlib(length: int, start: int, stop: int) -> None:
    name, digests = "n" * length, b""
    for _, words in tfds_order.hashes(name, start, stop):
        digests += words.T.tobytes()
    assert digests == b"".join(hashlib.md5(f"train{name}_{row}".encode()).digest() for row in range(start, stop))


def test_several_processes_select_the_same_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"bee": 30_000, "tree": 10_000}
    expected = tfds_order.first(counts, 500)
    monkeypatch.setattr(tfds_order, "MIN_KEYS_PER_PROCESS", 20_000)
    monkeypatch.setattr(tfds_order, "usable_cores", lambda: 2)
    actual = tfds_order.first(counts, 500)
    assert np.array_equal(actual.group, expected.group)
    assert np.array_equal(actual.row, expected.row)


def is_running(process: Path) -> bool:
    """Whether a process, given by its folder in /proc, exists and is not a zombie."""
    try:
        return ") Z " not in (process / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads processes from /proc")
def test_workers_end_when_their_parent_is_killed() -> None:
    code = (
        "import multiprocessing, time\n"
        "from stages.quickdraw import tfds_order\n"
        "tfds_order.usable_cores = lambda: 2\n"
        "with tfds_order._parallel_map(10 * tfds_order.MIN_KEYS_PER_PROCESS) as parallel_map:\n"
        "    list(parallel_map(abs, range(10)))\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        workers = [Path("/proc") / pid for pid in run.stdout.readline().split()]
        assert workers and all(map(is_running, workers))
        run.kill()
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def test_a_killed_worker_is_one_error_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_order, "usable_cores", lambda: 2)
    with (
        pytest.raises(
            StageError, match=r"^a process that selects drawings was killed, .*: lower num_drawings, or free"
        ),
        tfds_order._parallel_map(10 * tfds_order.MIN_KEYS_PER_PROCESS) as parallel_map,
    ):
        list(parallel_map(os._exit, [9]))  # type: ignore[arg-type, list-item]


def test_the_limit_is_raised_if_too_few_hashes_are_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def below(counts: dict[str, int], limit: int) -> tfds_order._Hashed:
        limits.append(limit)
        return real(counts, limit if len(limits) > 1 else 0)

    real = tfds_order._below
    monkeypatch.setattr(tfds_order, "_below", below)
    assert len(tfds_order.first({"bee": 1000}, 100).row) == 100
    assert limits[1] > limits[0]


@pytest.mark.slow
def test_the_first_500_000_of_the_public_bucket() -> None:
    counts = {name: (published()[name].size - 80) // 784 for name in labels()}
    started = time.monotonic()
    ranked = tfds_order.first(counts, 500_000)
    print(f"selected in {time.monotonic() - started:.1f} s on {os.cpu_count()} cores")
    first_drawings = [
        (labels()[group], row) for group, row in zip(ranked.group[:7], ranked.row[:7].tolist(), strict=True)
    ]
    assert first_drawings == [
        ("backpack", 45675),
        ("telephone", 124066),
        ("toaster", 97572),
        ("floor lamp", 90892),
        ("camera", 126313),
        ("broccoli", 126670),
        ("rain", 85678),
    ]
    digest = hashlib.sha256(ranked.group.astype("<i2").tobytes() + ranked.row.astype("<i4").tobytes()).hexdigest()
    assert digest == "fb1ab232530bc44bf9a10f744490ef3dc3c4909a04bb66881aa304b21abce6a5"
