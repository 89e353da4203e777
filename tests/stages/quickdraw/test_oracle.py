"""The stages select the same drawings as TensorFlow Datasets, whose builder and `train[:N]` are the reference."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages import extract
from stages import filter as filter_stage
from stages.params import Params
from stages.quickdraw import sources
from stages.quickdraw.labels import PublishedFile, labels
from stages.quickdraw.mirrors import Folder
from tests.stages.drawings import noise
from tests.stages.quickdraw.server import Server

pytestmark = pytest.mark.slow

CLASSES = ("bee", "sea turtle", "The Eiffel Tower", "tree")  # with 60 rows each
ROWS = 7  # of each other class

SHARDS = (0, 1, 5, 40)  # the number of files to write; with 0 TensorFlow Datasets chooses it
NUMBERS = (1, 100, 1000, 60 * len(CLASSES) + ROWS * (345 - len(CLASSES)))

# Run in another process: the process of the stages does not import TensorFlow, and in tests warnings are errors.
REFERENCE = """
import sys
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.quickdraw_bitmap import quickdraw_bitmap_dataset_builder as module

out, module._QUICKDRAW_BASE_URL, shards, numbers = sys.argv[1:]
for count in map(int, shards.split(",")):
    builder = module.Builder(data_dir=f"{out}/{count}")
    config = tfds.download.DownloadConfig(num_shards=count or None)
    builder.download_and_prepare(download_dir=f"{out}/downloads", download_config=config)
    for number in map(int, numbers.split(",")):
        dataset = builder.as_dataset(split=f"train[:{number}]", read_config=tfds.ReadConfig(interleave_cycle_length=1))
        drawings = list(tfds.as_numpy(dataset))
        images, labels = ([drawing[key] for drawing in drawings] for key in ("image", "label"))
        np.savez(f"{out}/{count}/{number}.npz", images=images, labels=labels)
"""


@pytest.fixture(scope="module")
def counts() -> dict[str, int]:
    return {name: 60 if name in CLASSES else ROWS for name in labels()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, counts: dict[str, int]) -> Iterator[Server]:
    """A small mirror of all 345 classes on a local web server."""
    folder = tmp_path_factory.mktemp("web") / "full" / "numpy_bitmap"
    folder.mkdir(parents=True)
    for name, rows in counts.items():
        np.save(folder / f"{name}.npy", noise(name, rows))
    with Server(folder.parents[1]) as server:
        yield server


@pytest.fixture(scope="module")
def reference(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data directory for each of SHARDS, and the drawings that TensorFlow Datasets reads from it."""
    folder = tmp_path_factory.mktemp("reference")
    numbers = [",".join(map(str, values)) for values in (SHARDS, NUMBERS)]
    done = subprocess.run(
        [sys.executable, "-c", REFERENCE, str(folder), f"{server.address}/full/numpy_bitmap", *numbers],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(params=SHARDS)
def data_dir(request: pytest.FixtureRequest, reference: Path) -> Path:
    return reference / str(request.param)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("source", ["URL", "tfds:quickdraw_bitmap"])
def test_the_first_n_drawings_are_those_of_tensorflow_datasets(
    number: int,
    source: str,
    data_dir: Path,
    server: Server,
    full_run: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    if source == "URL":
        source = f"{server.address}/full/numpy_bitmap"
    counts = Folder(server.folder / "full/numpy_bitmap").counts()
    published_files = {name: PublishedFile(80 + 784 * rows, "") for name, rows in counts.items()}
    monkeypatch.setattr(sources, "published", lambda: published_files)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    changes = {"num_drawings": number, "source": source, "classes": CLASSES, "prefetch": True}
    settings = full_run.model_copy(update=changes)
    expected = np.load(data_dir / f"{number}.npz")

    extract.main(settings)
    assert np.array_equal(pd.read_parquet("data/extract/index.parquet")["label"], expected["labels"])
    assert np.array_equal(np.load("data/extract/images.npy"), expected["images"])

    if number >= 1000:
        Path("data/extract/images.npy").unlink()  # so that the filter stage reads the pixels from the source
        filter_stage.main(settings)
        chosen = np.isin(expected["labels"], [labels().index(name) for name in CLASSES])
        assert np.array_equal(pd.read_parquet("data/filter/drawings.parquet")["label"], expected["labels"][chosen])
        assert np.array_equal(np.load("data/filter/images.npy"), expected["images"][chosen])
