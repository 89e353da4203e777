"""Datasets that TensorFlow Datasets has prepared are read as `tfds.load` reads them. Tiny ones are prepared here."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds

from stages import command, extract
from stages import filter as filter_stage
from stages.common.errors import StageError
from stages.inference import trained_model
from stages.params import Params
from stages.quickdraw import sources
from stages.quickdraw.labels import numbered
from stages.quickdraw.mirrors import Pixels
from stages.quickdraw.tfds_sets import class_names
from tests.settings import write
from tests.stages import tiny_run

pytestmark = pytest.mark.filterwarnings("ignore")  # those of TensorFlow Datasets
NAMES = ["T-shirt/top", "Bag", "bee"]


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Random images, whose labels are 0, 1, 2 in turn."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE: tuple[int | None, ...] = (28, 28, 1)
    SPLITS: ClassVar = {"train": 30, "test": 9}
    FEATURES: ClassVar[dict[str, Any]] = {}

    def _info(self) -> Any:
        features = {"image": tfds.features.Image(shape=self.SHAPE), "label": tfds.features.ClassLabel(names=NAMES)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features | self.FEATURES))

    def _split_generators(self, _: Any) -> dict[str, Iterator[tuple[int, dict[str, object]]]]:
        return {name: self._generate_examples(count) for name, count in self.SPLITS.items()}

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict[str, object]]]:
        for number in range(count):
            image = np.random.default_rng([number, count]).integers(0, 256, [n or 8 for n in self.SHAPE], np.uint8)
            yield number, {"image": image, "label": number % 3} | dict.fromkeys(self.FEATURES, number)


class TinyGrey(Tiny):
    pass


class TinyColour(Tiny):
    SHAPE = (32, 32, 3)
    SPLITS: ClassVar = {"train": 20, "test": 6}
    FEATURES: ClassVar = {"id": np.int64}


class TinySharded(Tiny):
    """Stored in several files."""


class TinyUnsplit(Tiny):
    SPLITS: ClassVar = {"train": 9}


class TinyVarying(Tiny):
    SHAPE = (None, None, 3)


class TinyTwoLabels(Tiny):
    FEATURES: ClassVar = {"coarse_label": tfds.features.ClassLabel(num_classes=40)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("prepared")
    tfds.display_progress_bar(False)
    for builder in (TinyGrey, TinyColour, TinyUnsplit, TinyVarying, TinyTwoLabels):
        builder(data_dir=data_dir).download_and_prepare()
    TinySharded(data_dir=data_dir).download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
    return data_dir


@pytest.fixture(autouse=True)
def data_dir(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return prepared


def loaded(name: str, split: str, data_dir: Path) -> tuple[Pixels, "np.typing.NDArray[np.int64]"]:
    examples = list(tfds.as_numpy(tfds.load(name, split=split, data_dir=data_dir)))
    return np.stack([example["image"] for example in examples]), np.array([example["label"] for example in examples])


@pytest.mark.parametrize(("name", "shape"), [("tiny_grey", (28, 28, 1)), ("tiny_colour", (32, 32, 3))])
def test_the_first_drawings_are_those_of_tensorflow_datasets(name: str, shape: tuple[int, ...], data_dir: Path) -> None:
    images, labels = loaded(name, "train[:17]", data_dir)
    source = sources.open_source(f"tfds:{name}", Path())
    assert source.image_shape() == shape
    assert source.counts() == {
        "bee": {"tiny_grey": 10, "tiny_colour": 6}[name],
        "Bag": {"tiny_grey": 10, "tiny_colour": 7}[name],
        "T-shirt-top": {"tiny_grey": 10, "tiny_colour": 7}[name],
    }
    index = source.index(17)
    assert index["name"].tolist() == [class_names(NAMES)[label] for label in labels]
    published = numbered(class_names(NAMES))
    assert index["label"].tolist() == [published[name] for name in index["name"]]
    assert np.array_equal(source.pixels(index).reshape(17, *shape), images)
    some = index.iloc[[16, 3, 3, 9]]
    assert np.array_equal(source.pixels(some).reshape(4, *shape), images[[16, 3, 3, 9]])


def test_the_first_drawings_of_several_files_are_the_same_ones(data_dir: Path) -> None:
    assert len(list((data_dir / "tiny_sharded").rglob("*train.tfrecord*"))) == 3
    images, _ = loaded("tiny_sharded", "train[:17]", data_dir)
    source = sources.open_source("tfds:tiny_sharded", Path())
    pixels = source.pixels(source.index(17))
    assert sorted(pixels.tolist()) == sorted(images.reshape(17, -1).tolist())
    assert np.array_equal(source.pixels(source.index(30))[:17], pixels)


def run_stages(full_run: Params, **changes: object) -> tuple[pd.DataFrame, Pixels]:
    settings = full_run.model_copy(update={"source": "tfds:tiny_grey", "classes": ("bee", "T-shirt-top"), **changes})
    extract.main(settings)
    filter_stage.main(settings)
    return pd.read_parquet("data/filter/drawings.parquet"), np.load("data/filter/images.npy")


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_run_holds_out_the_split_test(prefetch: bool, full_run: Params, data_dir: Path) -> None:
    table, images = run_stages(full_run, num_drawings=20, holdout="test", prefetch=prefetch)
    expected = []
    for split in ("train[:20]", "test"):
        of_split, labels = loaded("tiny_grey", split, data_dir)
        expected.append(of_split[labels != 1])
    assert np.array_equal(images, np.concatenate(expected))
    assert table["heldout"].tolist() == [False] * len(expected[0]) + [True] * len(expected[1])
    assert table["position"].is_unique and set(table["name"]) == {"bee", "T-shirt-top"}
    assert table.dtypes.astype(str).to_dict() == {
        "position": "int64",
        "label": "int16",
        "name": "category",
        "row": "int32",
        "heldout": "bool",
    }


def test_a_run_can_hold_out_a_share(full_run: Params, capfd: pytest.CaptureFixture[str]) -> None:
    table, images = run_stages(full_run, num_drawings="all", holdout=0.5)
    assert len(images) == 20 and table["heldout"].sum() == 10
    assert capfd.readouterr().err == "what will be learned: reports/drawings.png\n", "no warnings of TensorFlow"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("tiny_grey", (28, 28, 1)), ("tiny_colour", (32, 32, 3))])
def test_a_whole_run_measures_the_likelihood_of_the_split_test(
    name: str, shape: tuple[int, ...], full_run: Params, data_dir: Path, tmp_path: Path
) -> None:
    changes = {"source": f"tfds:{name}", "classes": ("bee", "T-shirt-top"), "num_drawings": "all", "holdout": "test"}
    tiny_run.run(tmp_path, tiny_run.settings(full_run).model_copy(update=changes))

    images, labels = loaded(name, "test", data_dir)
    model = trained_model.load()
    bits = [model.bits_per_dim(images[labels == label], class_names(NAMES)[label]) for label in (0, 2)]
    metrics = json.loads(Path("reports/metrics.json").read_text())
    assert metrics["heldout_bits_per_dim"] == pytest.approx(np.concatenate(bits).mean(), rel=1e-5)
    assert np.load("data/sample/samples.npy").shape[2:] == shape
    page = Path("reports/index.html").read_text()
    assert f"<title>quickdraw-pixelcnn: {name}, " in page and f"--shape: {shape[1]} / {shape[0]}" in page


def test_a_source_without_a_split_test_is_a_one_line_error(
    full_run: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"source": "tfds:tiny_unsplit", "num_drawings": "all", "holdout": "test", "classes": ("bee",)}
    write(Path(), full_run.model_copy(update=changes).model_dump(mode="json"))
    assert command.run(extract.main, extract.__doc__, []) == 0
    assert command.run(filter_stage.main, filter_stage.__doc__, []) == 1
    message = "error: holdout is test, but tfds:tiny_unsplit has no split test; set holdout to a number"
    assert capsys.readouterr().err.splitlines()[-1] == message


def test_a_dataset_that_cannot_be_used_is_one_error_line(data_dir: Path, tmp_path: Path) -> None:
    def error_of(name: str) -> str:
        with pytest.raises(StageError) as caught:
            sources.open_source(f"tfds:{name}", Path()).counts()
        assert "\n" not in str(caught.value)
        return str(caught.value).removeprefix(f"source: tfds:{name} ")

    prepare = "python -c \"import tensorflow_datasets as tfds; tfds.load('{}')\""
    assert error_of("emnist/letters") == (
        f"is not prepared in {data_dir}; prepare it: {prepare.format('emnist/letters')}"
    )
    assert error_of("tiny_varying").startswith(
        "has images of the shape (None, None, 3) and type uint8; expected: uint8"
    )
    assert error_of("tiny_two_labels").startswith("is not a dataset of images with one label each: it has ")
    copy = data_dir / "damaged"
    shutil.copytree(data_dir / "tiny_grey", copy)
    for file in copy.rglob("*.json"):
        file.write_text(file.read_text().replace("tiny_grey", "damaged"))
    for file in copy.rglob("tiny_grey-*"):
        file.rename(file.with_name(file.name.replace("tiny_grey", "damaged")))
    [records] = copy.rglob("damaged-train.tfrecord*")
    records.write_bytes(records.read_bytes()[:-100])
    remedy = f"; delete its folder, and prepare it again: {prepare.format('damaged')}"
    assert (message := error_of("damaged")).startswith("cannot be read (") and message.endswith(remedy)
    [info] = copy.rglob("features.json")
    info.write_text("{")
    assert (message := error_of("damaged")).startswith("cannot be read (") and message.endswith(remedy)
    shutil.rmtree(copy)


def test_a_dataset_that_was_prepared_again_with_other_labels_is_one_error_line() -> None:
    source = sources.open_source("tfds:tiny_grey", Path())
    index = source.index(5)
    index.loc[2, "label"] = 0
    with pytest.raises(StageError, match="has changed since extract ran: run the stage extract again"):
        source.pixels(index)
    index.loc[2, "row"] = 39
    with pytest.raises(StageError, match="holds 39 drawings, and row 39 was requested"):
        source.pixels(index)


def test_names_of_labels_become_names_of_classes() -> None:
    assert class_names(["T-shirt/top", "T-shirt:top", "a", "", "..", " b\t", "?"]) == [
        "T-shirt-top", "T-shirt-top 1", "a", "class 3", "class 4", "b", "-",
    ]  # fmt: skip
