"""The judge: what it learns, from which drawings, and that it is saved and loaded unchanged."""

from pathlib import Path

import numpy as np
import pytest

from stages import judge as stage
from stages.common import classes
from stages.common.errors import StageError
from stages.outputs import classifier
from stages.outputs.dataset import Drawings
from stages.outputs.model import Class
from stages.params import Params
from tests.settings import write

CLASSES = (Class(300, "bar"), Class(7, "ring"))


def bars_and_rings(number: int, seed: int) -> Drawings:
    """Return drawings that are half bars (label 300), half hollow squares (label 7), at random positions."""
    random = np.random.default_rng(seed)
    images = np.zeros((number, 28, 28, 1), np.uint8)
    labels = np.where(np.arange(number) % 2, 7, 300).astype(np.int16)
    for image, label in zip(images, labels, strict=True):
        row, column = random.integers(2, 14, 2)
        image[row : row + 11, column : column + 11] = 255
        if label == 7:
            image[row + 2 : row + 9, column + 2 : column + 9] = 0
        else:
            image[row + 3 : row + 11, column : column + 11] = 0
    names = np.array(["ring" if label == 7 else "bar" for label in labels], object)
    return Drawings(images, labels, names, np.zeros(number, bool))


@pytest.fixture(scope="module")
def trained() -> classifier.Judge:
    return stage.train(bars_and_rings(200, 0), CLASSES, steps=25, seed=0)


def test_it_predicts_the_classes_of_new_drawings(trained: classifier.Judge) -> None:
    new = bars_and_rings(60, 1)
    predictions = trained.predict(new.images[:])
    assert predictions.probabilities.shape == (60, 2)
    assert predictions.probabilities.sum(axis=1) == pytest.approx(1)
    assert predictions.features.shape == (60, 128)
    correct = predictions.probabilities.argmax(axis=1) == classes.class_indices(new.labels, CLASSES)
    assert correct.mean() > 0.9


def test_the_same_seed_gives_the_same_judge(trained: classifier.Judge) -> None:
    again = stage.train(bars_and_rings(200, 0), CLASSES, steps=25, seed=0)
    for weights, same_weights in zip(trained.network.get_weights(), again.network.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, same_weights)


def test_a_judge_of_one_class() -> None:
    data = bars_and_rings(20, 0)
    judge = stage.train(data.where(data.labels == 7), CLASSES[1:], steps=1, seed=0)
    assert judge.predict(data.images[:3]).probabilities.tolist() == [[1], [1], [1]]


def test_it_is_saved_and_loaded_unchanged(trained: classifier.Judge, tmp_path: Path) -> None:
    classifier.save(trained, tmp_path)
    loaded = classifier.load((28, 28, 1), tmp_path)
    assert loaded.classes == CLASSES
    images = bars_and_rings(5, 2).images[:]
    np.testing.assert_array_equal(loaded.predict(images).features, trained.predict(images).features)


@pytest.mark.parametrize("name", [classifier.WEIGHTS, classifier.CONFIG])
@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"classes": [{"label": 1, "name": "a"}]}'])
def test_an_invalid_file_is_rejected(
    trained: classifier.Judge, tmp_path: Path, name: str, content: bytes | None
) -> None:
    classifier.save(trained, tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StageError, match="run the stage judge"):
        classifier.load((28, 28, 1), tmp_path)


def test_a_judge_of_drawings_with_other_channels_is_rejected(trained: classifier.Judge, tmp_path: Path) -> None:
    classifier.save(trained, tmp_path)
    with pytest.raises(StageError, match=r"cannot be used .*: run the stage judge again"):
        classifier.load((28, 28, 3), tmp_path)


def test_drawings_are_shifted() -> None:
    drawings = bars_and_rings(4, 3).images[:]
    shifted = stage.shift_images(drawings, np.array([[0, 0], [2, 0], [0, -1], [-2, 2]]))
    np.testing.assert_array_equal(shifted[0], drawings[0])
    np.testing.assert_array_equal(shifted[1], np.roll(drawings[1], 2, 0))
    np.testing.assert_array_equal(shifted[2], np.roll(drawings[2], -1, 1))
    np.testing.assert_array_equal(shifted[3], np.roll(drawings[3], (-2, 2), (0, 1)))


def test_the_judge_is_not_trained_on_held_out_drawings(
    full_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    data = bars_and_rings(40, 4)
    heldout = np.arange(40) % 4 == 3
    settings = full_run.model_copy(
        update={"source": "x", "classes": ("bar", "ring"), "judge_steps": 1, "device": "cpu"}
    )
    monkeypatch.chdir(tmp_path)
    write(tmp_path, settings.model_dump(mode="json"))
    (tmp_path / "data/filter").mkdir(parents=True)
    np.save("data/filter/images.npy", data.images[:])
    table = pd.DataFrame({"label": data.labels, "name": pd.Categorical(data.names), "heldout": heldout})
    table.to_parquet("data/filter/drawings.parquet")
    trained_on = []

    def train(training: Drawings, *_: object) -> classifier.Judge:
        trained_on.append(training)
        return classifier.Judge(CLASSES, (28, 28, 1))

    monkeypatch.setattr(stage, "train", train)
    stage.main(settings)
    np.testing.assert_array_equal(trained_on[0].images, data.images[~heldout])
    assert sorted(path.name for path in (tmp_path / "data/judge").iterdir()) == [classifier.CONFIG, classifier.WEIGHTS]
