"""The time and memory that selecting the first drawings of a mirror and reading their pixels takes.

    python -m tests.benchmarks.extraction [part …]

The parts are selection, folder, network, prepared and memory; by default all run, which takes a few minutes on two
cores and 1.5 GB of a temporary folder. Prints a line per figure, and then all figures as one line of JSON.

- selection: keys per second with `hashlib` one by one, with this project in one process, and on all cores for the first
  500,000 drawings of the public bucket, which needs no network.
- folder: drawings per second from a folder of .npy files.
- network: drawings per second and bytes per drawing from a server on this machine, by ranges and by whole files, with a
  latency of 0 and of 20 ms. The files, and the number of rows requested from each, are as large as the bucket's.
- prepared: drawings per second from a directory that TensorFlow Datasets has prepared, with this project and with
  `tfds.as_numpy`.
- memory: the peak memory of a run of extract with `prefetch`: its anonymous memory, and the total with the mapped pages
  of files, which the system reclaims when it needs them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from stages.quickdraw import images, tfds_order
from stages.quickdraw.labels import BUCKET, labels
from stages.quickdraw.mirrors import Folder
from stages.quickdraw.remote import Remote
from stages.quickdraw.selection import build_index
from tests.settings import FULL, ROOT, write

ROWS = 145_000  # approximate number of drawings in a file of the public bucket
REQUESTED_ROWS = 1_449  # approximate number of them among the first 500,000
NUM_DRAWINGS = (10_000, 100_000, 500_000)

Figures = dict[str, float]

MEMORY = """
import threading, time
from pathlib import Path
from stages import extract, params

def memory(kind: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(kind)[2].split()[0])

def watch() -> None:
    global most
    while True:
        most = max(most, memory("RssAnon:"))
        time.sleep(0.01)

most = 0
threading.Thread(target=watch, daemon=True).start()
extract.main(params.load())
print(most / 1024, memory("VmHWM:") / 1024)
"""

AS_NUMPY = """
import sys, time
import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.quickdraw_bitmap import quickdraw_bitmap_dataset_builder as module

module._QUICKDRAW_BASE_URL = sys.argv[1]
builder = module.Builder(data_dir=sys.argv[2])
builder.download_and_prepare()
started = time.perf_counter()
read = sum(1 for drawing in tfds.as_numpy(builder.as_dataset(split="train")))
print(read / (time.perf_counter() - started))
"""


def main(parts: list[str]) -> None:
    """Run the given parts, or all."""
    benchmarks: dict[str, Callable[[Path], Figures]] = {
        "selection": selection,
        "folder": folder,
        "network": network,
        "prepared": prepared,
        "memory": memory,
    }
    figures: Figures = {"cores": os.cpu_count() or 1}
    for part in parts or benchmarks:
        with tempfile.TemporaryDirectory() as temporary:
            os.environ["QUICKDRAW_CACHE"] = f"{temporary}/cache"
            for name, figure in benchmarks[part](Path(temporary)).items():
                figures[name] = round(figure, 1)
                print(f"{name:60}{figure:>16,.1f}", flush=True)
    print(json.dumps(figures))


def seconds(function: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def selection(temporary: Path) -> Figures:
    """Keys per second."""
    number = 1_000_000

    def one_by_one() -> None:
        for row in range(number):
            hashlib.md5(f"trainsnowman_{row}".encode()).digest()

    def as_arrays() -> None:
        for _ in tfds_order.hashes("snowman", 0, number):
            pass

    counts = Remote(BUCKET).counts()
    index_seconds = seconds(lambda: build_index(counts, 500_000))
    return {
        "selection: hashlib, one process, keys/s": number / seconds(one_by_one),
        "selection: this project, one process, keys/s": number / seconds(as_arrays),
        "selection: this project, all cores, keys/s": sum(counts.values()) / index_seconds,
        "selection: the first 500,000 of the bucket, s": index_seconds,
    }


def write_mirror(folder: Path, classes: int, rows: int) -> Path:
    """Write a mirror of random pixels."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (rows, 784), np.uint8)
    for index, name in enumerate(labels()[:classes]):
        np.save(folder / f"{name}.npy", np.roll(noise, index, axis=0))
    return folder


def folder(temporary: Path) -> Figures:
    """Drawings per second of wall time and of CPU time; other load on the machine reduces only the first."""
    mirror = Folder(write_mirror(temporary / "mirror", 345, 1_500))
    drawings = build_index(mirror.counts(), 500_000)
    figures = {"folder: drawings/s": 0.0, "folder: drawings/s of processor time": 0.0}
    for _ in range(3):
        clock, processor = time.perf_counter(), time.process_time()
        block = images.BLOCK_BYTES // 784
        for start in range(0, len(drawings), block):
            mirror.pixels(drawings.iloc[start : start + block])
        seconds_spent = time.perf_counter() - clock, time.process_time() - processor
        figures = {
            name: max(best, len(drawings) / spent)
            for (name, best), spent in zip(figures.items(), seconds_spent, strict=True)
        }
    return figures


@contextmanager
def server(folder: Path, latency: float = 0) -> Iterator[str]:
    """Start a server in a separate process; yields its address."""
    command = [sys.executable, "-m", "tests.stages.quickdraw.server", str(folder), str(latency)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def network(temporary: Path) -> Figures:
    """Drawings per second, and bytes per drawing."""
    mirror = write_mirror(temporary / "mirror", 4, ROWS)
    random = np.random.default_rng(0)
    rows = {name: random.choice(ROWS, REQUESTED_ROWS, replace=False).astype(np.int32) for name in labels()[:4]}
    figures = {}
    for strategy in ("ranges", "files"):
        for latency in (0, 0.02):
            os.environ["QUICKDRAW_CACHE"] = str(temporary / f"{strategy}-{latency}")
            os.environ["QUICKDRAW_FETCH"] = strategy
            with server(mirror, latency) as address:
                spent = seconds(lambda address=address: Remote(address).fetch(rows))  # type: ignore[misc]
                with urllib.request.urlopen(f"{address}/.sent") as answer:
                    sent = int(answer.read())
            prefix = f"network: {strategy}, {latency * 1000:.0f} ms,"
            figures[f"{prefix} drawings/s"] = 4 * REQUESTED_ROWS / spent
            figures[f"{prefix} bytes/drawing"] = sent / (4 * REQUESTED_ROWS)
    return figures


def prepared(temporary: Path) -> Figures:
    """Drawings per second."""
    from stages.quickdraw.tfds import PreparedDataset

    mirror = Folder(write_mirror(temporary / "mirror", 345, 100))
    with server(mirror.path) as address:
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "no_proxy": "127.0.0.1"}
        command = [sys.executable, "-c", AS_NUMPY, address, str(temporary / "tfds")]
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    drawings = build_index(mirror.counts(), 34_500)
    spent = seconds(lambda: PreparedDataset(temporary / "tfds", mirror.counts()).pixels(drawings))
    return {
        "prepared: tfds.as_numpy, drawings/s": float(result.stdout.split()[-1]),
        "prepared: this project, drawings/s": len(drawings) / spent,
    }


def memory(temporary: Path) -> Figures:
    """Peak memory in MB."""
    figures = {}
    mirror = write_mirror(temporary / "mirror", 345, 1_500)
    os.environ.pop("QUICKDRAW_FETCH", None)
    with server(mirror) as address:
        for source, address_or_folder in (("a folder", str(mirror)), ("a server", address)):
            for number in NUM_DRAWINGS:
                write(temporary, FULL | {"source": address_or_folder, "num_drawings": number, "prefetch": True})
                environment = os.environ | {"PYTHONPATH": str(ROOT), "QUICKDRAW_CACHE": str(temporary / f"{number}")}
                command = [sys.executable, "-c", MEMORY]
                result = subprocess.run(command, cwd=temporary, env=environment, stdout=subprocess.PIPE, check=True)
                anonymous, total = map(float, result.stdout.split())
                figures[f"memory: {number:,} from {source}, anonymous, MB"] = anonymous
                figures[f"memory: {number:,} from {source}, with mapped pages, MB"] = total
    return figures


if __name__ == "__main__":
    main(sys.argv[1:])
