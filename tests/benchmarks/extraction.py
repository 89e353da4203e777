"""What it costs to find the first drawings of a mirror, and to read their pixels.

    python -m tests.benchmarks.extraction [part …]

The parts are selection, folder, network, prepared and memory; without one all of them run, a few minutes on two cores
and 1.5 GB of a temporary folder. Prints a line for each figure, and then all of them as one line of JSON.

- selection: keys a second, by `hashlib` one by one, by this project in one process, and in all: the first 500,000 of
  the public bucket, which needs no network.
- folder: drawings a second out of a folder of .npy files.
- network: drawings a second and bytes a drawing from a server on this machine, by ranges and by whole files, with
  answers that take 0 and 20 ms. The files are as long as the bucket's, and as many rows of each are wanted.
- prepared: drawings a second out of a directory that TensorFlow Datasets has prepared, by this project and by
  `tfds.as_numpy`.
- memory: the most that a run of extract with `prefetch` takes: of memory of its own, and with the pages of files that
  it has mapped, which the system takes back when it needs them.
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

from stages import extract
from stages.quickdraw import images, tfds_order
from stages.quickdraw.labels import BUCKET, labels
from stages.quickdraw.mirrors import Folder
from stages.quickdraw.remote import Remote
from tests.settings import FULL, ROOT, write

CLASS = 145_000  # drawings in a file of the public bucket, about
WANTED = 1_449  # of them among the first 500,000, about
NUMBERS = (10_000, 100_000, 500_000)

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
    """Run some parts, or all."""
    known: dict[str, Callable[[Path], Figures]] = {
        "selection": selecting,
        "folder": folder,
        "network": network,
        "prepared": prepared,
        "memory": memory,
    }
    figures: Figures = {"cores": os.cpu_count() or 1}
    for part in parts or known:
        with tempfile.TemporaryDirectory() as temporary:
            os.environ["QUICKDRAW_CACHE"] = f"{temporary}/cache"
            for name, figure in known[part](Path(temporary)).items():
                figures[name] = round(figure, 1)
                print(f"{name:60}{figure:>16,.1f}", flush=True)
    print(json.dumps(figures))


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def selecting(temporary: Path) -> Figures:
    """Keys a second."""
    number = 1_000_000

    def one_by_one() -> None:
        for row in range(number):
            hashlib.md5(f"trainsnowman_{row}".encode()).digest()

    def as_arrays() -> None:
        for _ in tfds_order.hashes("snowman", 0, number):
            pass

    counts = Remote(BUCKET).counts()
    all_of_them = seconds(lambda: extract.build_index(counts, 500_000))
    return {
        "selection: hashlib, one process, keys/s": number / seconds(one_by_one),
        "selection: ours, one process, keys/s": number / seconds(as_arrays),
        "selection: ours, all cores, keys/s": sum(counts.values()) / all_of_them,
        "selection: the first 500,000 of the bucket, s": all_of_them,
    }


def make(folder: Path, classes: int, rows: int) -> Path:
    """A mirror of noise."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (rows, 784), np.uint8)
    for place, name in enumerate(labels()[:classes]):
        np.save(folder / f"{name}.npy", np.roll(noise, place, axis=0))
    return folder


def folder(temporary: Path) -> Figures:
    """Drawings a second, of the clock and of the processor: the first is less where a machine does other things too."""
    mirror = Folder(make(temporary / "mirror", 345, 1_500))
    drawings = extract.build_index(mirror.counts(), 500_000)
    figures = {"folder: drawings/s": 0.0, "folder: drawings/s of processor time": 0.0}
    for _ in range(3):
        clock, processor = time.perf_counter(), time.process_time()
        for start in range(0, len(drawings), images.BLOCK):
            mirror.pixels(drawings.iloc[start : start + images.BLOCK])
        spent = time.perf_counter() - clock, time.process_time() - processor
        figures = {
            name: max(best, len(drawings) / took) for (name, best), took in zip(figures.items(), spent, strict=True)
        }
    return figures


@contextmanager
def server(folder: Path, latency: float = 0) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "tests.stages.quickdraw.server", str(folder), str(latency)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def network(temporary: Path) -> Figures:
    """Drawings a second, and bytes a drawing."""
    mirror = make(temporary / "mirror", 4, CLASS)
    random = np.random.default_rng(0)
    wanted = {name: random.choice(CLASS, WANTED, replace=False).astype(np.int32) for name in labels()[:4]}
    figures = {}
    for way in ("ranges", "files"):
        for latency in (0, 0.02):
            os.environ["QUICKDRAW_CACHE"] = str(temporary / f"{way}-{latency}")
            os.environ["QUICKDRAW_FETCH"] = way
            with server(mirror, latency) as address:
                took = seconds(lambda address=address: Remote(address).fetch(wanted))  # type: ignore[misc]
                with urllib.request.urlopen(f"{address}/.sent") as answer:
                    sent = int(answer.read())
            what = f"network: {way}, {latency * 1000:.0f} ms,"
            figures[f"{what} drawings/s"] = 4 * WANTED / took
            figures[f"{what} bytes/drawing"] = sent / (4 * WANTED)
    return figures


def prepared(temporary: Path) -> Figures:
    """Drawings a second."""
    from stages.quickdraw.tfds import PreparedDataset

    mirror = Folder(make(temporary / "mirror", 345, 100))
    with server(mirror.path) as address:
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "no_proxy": "127.0.0.1"}
        command = [sys.executable, "-c", AS_NUMPY, address, str(temporary / "tfds")]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    drawings = extract.build_index(mirror.counts(), 34_500)
    ours = seconds(lambda: PreparedDataset(temporary / "tfds", mirror.counts()).pixels(drawings))
    return {
        "prepared: tfds.as_numpy, drawings/s": float(done.stdout.split()[-1]),
        "prepared: ours, drawings/s": len(drawings) / ours,
    }


def memory(temporary: Path) -> Figures:
    """MB."""
    figures = {}
    mirror = make(temporary / "mirror", 345, 1_500)
    os.environ.pop("QUICKDRAW_FETCH", None)
    with server(mirror) as address:
        for place, at in (("a folder", str(mirror)), ("a server", address)):
            for number in NUMBERS:
                write(temporary, FULL | {"mirror": at, "num_drawings": number, "prefetch": True})
                environment = os.environ | {"PYTHONPATH": str(ROOT), "QUICKDRAW_CACHE": str(temporary / f"{number}")}
                command = [sys.executable, "-c", MEMORY]
                done = subprocess.run(command, cwd=temporary, env=environment, stdout=subprocess.PIPE, check=True)
                own, mapped = map(float, done.stdout.split())
                figures[f"memory: {number:,} from {place}, own, MB"] = own
                figures[f"memory: {number:,} from {place}, with mapped pages, MB"] = mapped
    return figures


if __name__ == "__main__":
    main(sys.argv[1:])
