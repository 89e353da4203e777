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
def test_the_first_are_those_with_the_smallest_hashes(number: int) -> None:
    ranked = tfds_order.first(COUNTS, number)
    names = list(COUNTS)
    found = [(names[group], row) for group, row in zip(ranked.group.tolist(), ranked.row.tolist(), strict=True)]
    assert found == first_by_sorting(COUNTS, number)


def test_more_than_there_are_is_a_defect_of_the_caller() -> None:
    with pytest.raises(ValueError, match="13 of 12"):
        tfds_order.first({"bee": 12}, 13)


@pytest.mark.parametrize("length", range(40, 70))  # a key's block of 64 bytes fills up, and spills over
@pytest.mark.parametrize(("start", "stop"), [(0, 11), (98, 102), (9_999, 10_001), (123_456, 123_460)])
def test_md5_is_md5(length: int, start: int, stop: int) -> None:
    name, digests = "n" * length, b""
    for _, words in tfds_order.hashes(name, start, stop):
        digests += words.T.tobytes()
    assert digests == b"".join(hashlib.md5(f"train{name}_{row}".encode()).digest() for row in range(start, stop))


def test_processes_find_what_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"bee": 30_000, "tree": 10_000}
    alone = tfds_order.first(counts, 500)
    monkeypatch.setattr(tfds_order, "WORTH_A_PROCESS", 20_000)
    monkeypatch.setattr(tfds_order, "usable_cores", lambda: 2)
    together = tfds_order.first(counts, 500)
    assert np.array_equal(alone.group, together.group)
    assert np.array_equal(alone.row, together.row)


def runs(process: Path) -> bool:
    """Whether a process, named by its folder in /proc, is there and not merely unburied."""
    try:
        return ") Z " not in (process / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_processes_end_with_the_one_that_started_them() -> None:
    code = (
        "import multiprocessing, time\n"
        "from stages.quickdraw import tfds_order\n"
        "tfds_order.usable_cores = lambda: 2\n"
        "with tfds_order._mapping(10 * tfds_order.WORTH_A_PROCESS) as mapping:\n"
        "    list(mapping(abs, range(10)))\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        workers = [Path("/proc") / pid for pid in run.stdout.readline().split()]
        assert workers and all(map(runs, workers))
        run.kill()
    ended = time.monotonic() + 20
    while any(map(runs, workers)) and time.monotonic() < ended:
        time.sleep(0.05)
    assert not any(map(runs, workers))


def test_a_process_that_is_killed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_order, "usable_cores", lambda: 2)
    with (
        pytest.raises(
            StageError, match=r"^a process that selects drawings was killed, .*: lower num_drawings, or free"
        ),
        tfds_order._mapping(10 * tfds_order.WORTH_A_PROCESS) as mapping,
    ):
        list(mapping(os._exit, [9]))  # type: ignore[arg-type, list-item]


def test_too_few_below_the_first_limit_are_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
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
    beginning = [(labels()[group], row) for group, row in zip(ranked.group[:7], ranked.row[:7].tolist(), strict=True)]
    assert beginning == [
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
