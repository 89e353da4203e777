"""TensorFlow Datasets is the oracle: its own builder downloads and writes, and `train[:N]` is compared with ours."""

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
from stages.quickdraw.labels import labels
from tests.stages.drawings import noise
from tests.stages.quickdraw.server import Server

pytestmark = pytest.mark.slow

ROWS = 7  # of each class but the twenty
MORE = ("bee", "sea turtle", "The Eiffel Tower", "tree")

SHARDS = (0, 1, 5, 40)  # files to write; 0 lets it choose
NUMBERS = (1, 100, 1000, 60 * len(MORE) + ROWS * (345 - len(MORE)))

# In a process of its own: TensorFlow is not imported where the stages run, and its warnings are its own.
ORACLE = """
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
    return {name: 60 if name in MORE else ROWS for name in labels()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, counts: dict[str, int]) -> Iterator[Server]:
    """A small mirror of all 345 classes, on the web of this machine."""
    folder = tmp_path_factory.mktemp("web") / "full" / "numpy_bitmap"
    folder.mkdir(parents=True)
    for name, rows in counts.items():
        np.save(folder / f"{name}.npy", noise(name, rows))
    with Server(folder.parents[1]) as server:
        yield server


@pytest.fixture(scope="module")
def oracle(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What TensorFlow Datasets makes of it and reads of that: a data directory a number of files."""
    folder = tmp_path_factory.mktemp("oracle")
    numbers = [",".join(map(str, several)) for several in (SHARDS, NUMBERS)]
    done = subprocess.run(
        [sys.executable, "-c", ORACLE, str(folder), f"{server.address}/full/numpy_bitmap", *numbers],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(params=SHARDS)
def data_dir(request: pytest.FixtureRequest, oracle: Path) -> Path:
    return oracle / str(request.param)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("source", ["mirror", "tfds"])
def test_train_n_is_what_tensorflow_datasets_reads(
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
    # On the web where that is read, and from its folder where the prepared files are.
    mirror = f"{server.address}/full/numpy_bitmap" if source == "mirror" else str(server.folder / "full/numpy_bitmap")
    changes = {"num_drawings": number, "mirror": mirror, "source": source, "data_dir": str(data_dir)}
    settings = full_run.model_copy(update=changes | {"classes": MORE, "prefetch": True})
    theirs = np.load(data_dir / f"{number}.npz")

    extract.main(settings)
    assert np.array_equal(pd.read_parquet("data/extract/index.parquet")["label"], theirs["labels"])
    assert np.array_equal(np.load("data/extract/images.npy"), theirs["images"])

    if number >= 1000:
        Path("data/extract/images.npy").unlink()  # so that filter reads the pixels itself
        filter_stage.main(settings)
        chosen = np.isin(theirs["labels"], [labels().index(name) for name in MORE])
        assert np.array_equal(pd.read_parquet("data/filter/drawings.parquet")["label"], theirs["labels"][chosen])
        assert np.array_equal(np.load("data/filter/images.npy"), theirs["images"][chosen])
