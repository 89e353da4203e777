"""Doodles are reproducible, distinct, recognisable, and similar to real drawings in their pixels."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from stages.params import Params
from stages.quickdraw import doodles
from stages.quickdraw.doodles.pen import wave
from stages.quickdraw.labels import labels

Bitmaps = npt.NDArray[np.uint8]

# Measured on 8,493 real drawings, about 425 of each class of the full run. REAL_GREYS is the histogram of the pixels
# from 1 to 254 in eight equal bins.
REAL = {"ink": 0.180, "grey": 0.247, "saturated": 0.0497, "width": 23.4, "height": 22.3}
REAL_GREYS = [0.170, 0.106, 0.100, 0.100, 0.092, 0.099, 0.116, 0.216]


@pytest.fixture(scope="module")
def doodle_bitmaps() -> dict[str, Bitmaps]:
    """The first 160 drawings of every class."""
    return {name: doodles.draw(name, range(160)) for name in doodles.CLASSES}


def statistics(bitmaps: Bitmaps) -> dict[str, float]:
    """Mean ink, shares of grey and of saturated pixels, and the mean size of the ink's bounding box."""
    inked = bitmaps.reshape(-1, 28, 28).astype(bool)
    sides = [np.asarray(inked.any(axis=axis)) for axis in (1, 2)]
    width, height = (28 - side.argmax(axis=1) - side[:, ::-1].argmax(axis=1) for side in sides)
    return {
        "ink": float(bitmaps.mean()) / 255,
        "grey": float(((bitmaps > 0) & (bitmaps < 255)).mean()),
        "saturated": float((bitmaps == 255).mean()),
        "width": float(width.mean()),
        "height": float(height.mean()),
    }


def grey_histogram(bitmaps: Bitmaps) -> list[float]:
    counts = np.histogram(bitmaps[(bitmaps > 0) & (bitmaps < 255)], bins=8, range=(0, 256))[0]
    return [float(share) for share in counts / counts.sum()]


def knn_accuracy(test: Mapping[str, Bitmaps], train: Mapping[str, Bitmaps]) -> dict[str, float]:
    """How often the five nearest training drawings, at half the resolution, predict the right class, by class."""

    def features(bitmaps: Bitmaps) -> npt.NDArray[np.float32]:
        small = bitmaps.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196).astype(np.float32)
        return np.asarray(small / np.linalg.norm(small, axis=1, keepdims=True), np.float32)

    names = list(train)
    train_features = np.concatenate([features(train[name]) for name in names])
    train_classes = np.repeat(np.arange(len(names)), [len(train[name]) for name in names])
    accuracies = {}
    for name, bitmaps in test.items():
        nearest = np.argsort(-(features(bitmaps) @ train_features.T), axis=1)[:, :5]
        votes = (train_classes[nearest][:, :, None] == np.arange(len(names))).sum(axis=1)
        accuracies[name] = float((votes.argmax(axis=1) == names.index(name)).mean())
    return accuracies


def test_classes_include_those_of_the_full_run_and_at_least_twelve_others(full_run: Params) -> None:
    assert set(full_run.classes) <= set(doodles.CLASSES) <= set(labels())
    assert len(doodles.CLASSES) >= len(full_run.classes) + 12
    assert list(doodles.CLASSES) == sorted(set(doodles.CLASSES))


def test_shape_and_type() -> None:
    assert doodles.draw("sun", [3, 1999, 3]).shape == (3, 784)
    assert doodles.draw("sun", np.arange(2, dtype=np.int32)).dtype == np.uint8
    assert doodles.draw("sun", []).shape == (0, 784)


def test_the_bytes_do_not_change() -> None:
    """Doodles are data: if they change, so do all results that use them, so change this hash only on purpose."""
    digest = hashlib.sha256()
    for name in doodles.CLASSES:
        digest.update(doodles.draw(name, [0, 1, 2, 77, 1999]).tobytes())
    assert digest.hexdigest() == "9b78ec4b0f13255ee2774ce2725bd8338f8ec861d7a4af86287d1828dc41ccfe"


@pytest.mark.parametrize("name", ["bee", "pizza", "tree"])
def test_a_drawing_depends_only_on_its_class_and_row(name: str) -> None:
    batch = doodles.draw(name, range(150))
    reversed_batch = doodles.draw(name, range(149, -1, -1))
    single = np.concatenate([doodles.draw(name, [row]) for row in (0, 7, 149)])
    assert np.array_equal(batch, reversed_batch[::-1])
    assert np.array_equal(batch[[0, 7, 149]], single)


def test_drawings_differ(doodle_bitmaps: dict[str, Bitmaps]) -> None:
    everything = np.concatenate(list(doodle_bitmaps.values()))
    assert len(np.unique(everything, axis=0)) == len(everything)


@pytest.mark.slow
@pytest.mark.parametrize("name", doodles.CLASSES)
def test_all_drawings_of_a_class_differ(name: str) -> None:
    assert len(np.unique(doodles.draw(name, range(doodles.ROWS_PER_CLASS)), axis=0)) == doodles.ROWS_PER_CLASS


def test_each_drawing_fills_the_bitmap_up_to_its_border(doodle_bitmaps: dict[str, Bitmaps]) -> None:
    inked = np.concatenate(list(doodle_bitmaps.values())).reshape(-1, 28, 28) > 0
    assert not inked[:, [0, -1]].any()
    assert not inked[:, :, [0, -1]].any()
    wide = inked[:, :, 1].any(axis=1) & inked[:, :, 26].any(axis=1)
    high = inked[:, 1].any(axis=1) & inked[:, 26].any(axis=1)
    assert (wide | high).all()


def test_pixel_statistics_match_real_drawings(doodle_bitmaps: dict[str, Bitmaps], full_run: Params) -> None:
    bitmaps = np.concatenate([doodle_bitmaps[name] for name in full_run.classes])
    actual = statistics(bitmaps)
    tolerances = {"ink": 0.1, "grey": 0.15, "saturated": 0.15, "width": 0.05, "height": 0.05}
    for statistic, tolerance in tolerances.items():
        assert actual[statistic] == pytest.approx(REAL[statistic], rel=tolerance), statistic
    assert grey_histogram(bitmaps) == pytest.approx(REAL_GREYS, abs=0.01)


def test_recorded_statistics_match_real_drawings(
    real_mirror: Path, doodle_bitmaps: dict[str, Bitmaps], full_run: Params
) -> None:
    real = {name: np.load(real_mirror / f"{name}.npy", mmap_mode="r")[:400] for name in full_run.classes}
    everything = np.concatenate(list(real.values()))
    assert statistics(everything) == pytest.approx(REAL, rel=0.03)
    assert grey_histogram(everything) == pytest.approx(REAL_GREYS, abs=0.01)
    for name, bitmaps in real.items():
        assert statistics(doodle_bitmaps[name])["ink"] == pytest.approx(statistics(bitmaps)["ink"], rel=0.25), name


def test_classes_can_be_distinguished(doodle_bitmaps: dict[str, Bitmaps]) -> None:
    train = {name: bitmaps[:120] for name, bitmaps in doodle_bitmaps.items()}
    accuracies = knn_accuracy({name: bitmaps[120:] for name, bitmaps in doodle_bitmaps.items()}, train)
    assert np.mean(list(accuracies.values())) > 0.88, accuracies
    assert min(accuracies.values()) > 0.45, accuracies


def test_a_classifier_of_real_drawings_recognises_doodles(
    real_mirror: Path, doodle_bitmaps: dict[str, Bitmaps], full_run: Params
) -> None:
    """About as often as it recognises other real drawings, or more often."""
    real = {name: np.load(real_mirror / f"{name}.npy")[:400] for name in full_run.classes}
    train = {name: bitmaps[:250] for name, bitmaps in real.items()}
    doodle_accuracies = knn_accuracy({name: doodle_bitmaps[name][:40] for name in real}, train)
    real_accuracies = knn_accuracy({name: bitmaps[360:] for name, bitmaps in real.items()}, train)
    real_mean = np.mean(list(real_accuracies.values()))
    assert np.mean(list(doodle_accuracies.values())) > real_mean - 0.05, doodle_accuracies


def test_an_unknown_class_raises_key_error() -> None:
    with pytest.raises(KeyError, match="bycicle"):
        doodles.draw("bycicle", [0])


@pytest.mark.parametrize("rows", [3, [-1], [0.5], [[0, 1]], ["0"]])
def test_invalid_rows_raise_value_error(rows: npt.ArrayLike) -> None:
    with pytest.raises(ValueError, match="integers from 0"):
        doodles.draw("sun", rows)


def test_files_have_the_layout_of_the_bucket(tmp_path: Path) -> None:
    doodles.write(tmp_path / "mirror", ["bee", "sea turtle"], rows_per_class=7)
    assert sorted(path.name for path in (tmp_path / "mirror").iterdir()) == ["bee.npy", "sea turtle.npy"]
    written = np.load(tmp_path / "mirror" / "sea turtle.npy", allow_pickle=False)
    assert written.dtype == np.uint8
    assert np.array_equal(written, doodles.draw("sea turtle", range(7)))


def test_wave_approximates_the_sine() -> None:
    turns = np.linspace(-3, 3, 1001)
    assert wave(turns) == pytest.approx(np.sin(2 * np.pi * turns), abs=0.0011)
