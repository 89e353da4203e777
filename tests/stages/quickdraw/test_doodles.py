"""The embedded doodles: the same for ever, no two alike, with the pixels of real ones, and plainly what they are."""

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

# Measured on 8,493 real drawings, some 425 of each class of the full run. The greys are the pixels from 1 to 254, in
# eight equal bins.
REAL = {"ink": 0.180, "grey": 0.247, "saturated": 0.0497, "width": 23.4, "height": 22.3}
REAL_GREYS = [0.170, 0.106, 0.100, 0.100, 0.092, 0.099, 0.116, 0.216]


@pytest.fixture(scope="module")
def drawn() -> dict[str, Bitmaps]:
    """The first 160 drawings of every class."""
    return {name: doodles.draw(name, range(160)) for name in doodles.CLASSES}


def statistics(bitmaps: Bitmaps) -> dict[str, float]:
    """Mean ink, shares of grey and of saturated pixels, and the mean size of the box around the ink."""
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


def greys(bitmaps: Bitmaps) -> list[float]:
    counts = np.histogram(bitmaps[(bitmaps > 0) & (bitmaps < 255)], bins=8, range=(0, 256))[0]
    return [float(share) for share in counts / counts.sum()]


def recognised(judged: Mapping[str, Bitmaps], known: Mapping[str, Bitmaps]) -> dict[str, float]:
    """The share of each class that its five nearest known drawings, at half the size, vote for."""

    def features(bitmaps: Bitmaps) -> npt.NDArray[np.float32]:
        small = bitmaps.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196).astype(np.float32)
        return np.asarray(small / np.linalg.norm(small, axis=1, keepdims=True), np.float32)

    names = list(known)
    known_features = np.concatenate([features(known[name]) for name in names])
    known_class = np.repeat(np.arange(len(names)), [len(known[name]) for name in names])
    shares = {}
    for name, bitmaps in judged.items():
        nearest = np.argsort(-(features(bitmaps) @ known_features.T), axis=1)[:, :5]
        votes = (known_class[nearest][:, :, None] == np.arange(len(names))).sum(axis=1)
        shares[name] = float((votes.argmax(axis=1) == names.index(name)).mean())
    return shares


def test_classes_are_those_of_the_full_run_and_a_dozen_others(full_run: Params) -> None:
    assert set(full_run.classes) <= set(doodles.CLASSES) <= set(labels())
    assert len(doodles.CLASSES) >= len(full_run.classes) + 12
    assert list(doodles.CLASSES) == sorted(set(doodles.CLASSES))


def test_shape_and_type() -> None:
    assert doodles.draw("sun", [3, 1999, 3]).shape == (3, 784)
    assert doodles.draw("sun", np.arange(2, dtype=np.int32)).dtype == np.uint8
    assert doodles.draw("sun", []).shape == (0, 784)


def test_the_same_bytes_for_ever() -> None:
    """The stand-in is data: a change of it changes every result made of it, so it is to be made knowingly."""
    digest = hashlib.sha256()
    for name in doodles.CLASSES:
        digest.update(doodles.draw(name, [0, 1, 2, 77, 1999]).tobytes())
    assert digest.hexdigest() == "9b78ec4b0f13255ee2774ce2725bd8338f8ec861d7a4af86287d1828dc41ccfe"


@pytest.mark.parametrize("name", ["bee", "pizza", "tree"])
def test_a_drawing_depends_on_its_class_and_row_alone(name: str) -> None:
    together = doodles.draw(name, range(150))
    backwards = doodles.draw(name, range(149, -1, -1))
    alone = np.concatenate([doodles.draw(name, [row]) for row in (0, 7, 149)])
    assert np.array_equal(together, backwards[::-1])
    assert np.array_equal(together[[0, 7, 149]], alone)


def test_no_two_alike(drawn: dict[str, Bitmaps]) -> None:
    everything = np.concatenate(list(drawn.values()))
    assert len(np.unique(everything, axis=0)) == len(everything)


@pytest.mark.slow
@pytest.mark.parametrize("name", doodles.CLASSES)
def test_no_two_of_a_class_alike(name: str) -> None:
    assert len(np.unique(doodles.draw(name, range(doodles.ROWS_PER_CLASS)), axis=0)) == doodles.ROWS_PER_CLASS


def test_each_fills_the_bitmap_up_to_its_border(drawn: dict[str, Bitmaps]) -> None:
    inked = np.concatenate(list(drawn.values())).reshape(-1, 28, 28) > 0
    assert not inked[:, [0, -1]].any()
    assert not inked[:, :, [0, -1]].any()
    wide = inked[:, :, 1].any(axis=1) & inked[:, :, 26].any(axis=1)
    high = inked[:, 1].any(axis=1) & inked[:, 26].any(axis=1)
    assert (wide | high).all()


def test_pixels_are_those_of_real_drawings(drawn: dict[str, Bitmaps], full_run: Params) -> None:
    bitmaps = np.concatenate([drawn[name] for name in full_run.classes])
    found = statistics(bitmaps)
    for what, within in {"ink": 0.1, "grey": 0.15, "saturated": 0.15, "width": 0.05, "height": 0.05}.items():
        assert found[what] == pytest.approx(REAL[what], rel=within), what
    assert greys(bitmaps) == pytest.approx(REAL_GREYS, abs=0.01)


def test_real_drawings_are_what_was_recorded(real_mirror: Path, drawn: dict[str, Bitmaps], full_run: Params) -> None:
    real = {name: np.load(real_mirror / f"{name}.npy", mmap_mode="r")[:400] for name in full_run.classes}
    everything = np.concatenate(list(real.values()))
    assert statistics(everything) == pytest.approx(REAL, rel=0.03)
    assert greys(everything) == pytest.approx(REAL_GREYS, abs=0.01)
    for name, bitmaps in real.items():
        assert statistics(drawn[name])["ink"] == pytest.approx(statistics(bitmaps)["ink"], rel=0.25), name


def test_classes_are_told_apart(drawn: dict[str, Bitmaps]) -> None:
    known = {name: bitmaps[:120] for name, bitmaps in drawn.items()}
    shares = recognised({name: bitmaps[120:] for name, bitmaps in drawn.items()}, known)
    assert np.mean(list(shares.values())) > 0.88, shares
    assert min(shares.values()) > 0.45, shares


def test_one_who_knows_real_drawings_alone_recognises_the_doodles(
    real_mirror: Path, drawn: dict[str, Bitmaps], full_run: Params
) -> None:
    """As often as it recognises other real drawings, if not more often."""
    real = {name: np.load(real_mirror / f"{name}.npy")[:400] for name in full_run.classes}
    known = {name: bitmaps[:250] for name, bitmaps in real.items()}
    of_doodles = recognised({name: drawn[name][:40] for name in real}, known)
    of_real = recognised({name: bitmaps[360:] for name, bitmaps in real.items()}, known)
    assert np.mean(list(of_doodles.values())) > np.mean(list(of_real.values())) - 0.05, of_doodles


def test_an_unknown_class_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="bycicle"):
        doodles.draw("bycicle", [0])


@pytest.mark.parametrize("rows", [3, [-1], [0.5], [[0, 1]], ["0"]])
def test_rows_that_are_no_rows_are_a_value_error(rows: npt.ArrayLike) -> None:
    with pytest.raises(ValueError, match="whole numbers from 0 on"):
        doodles.draw("sun", rows)


def test_written_as_the_bucket_lays_them_out(tmp_path: Path) -> None:
    doodles.write(tmp_path / "mirror", ["bee", "sea turtle"], rows_per_class=7)
    assert sorted(path.name for path in (tmp_path / "mirror").iterdir()) == ["bee.npy", "sea turtle.npy"]
    found = np.load(tmp_path / "mirror" / "sea turtle.npy", allow_pickle=False)
    assert found.dtype == np.uint8
    assert np.array_equal(found, doodles.draw("sea turtle", range(7)))


def test_the_wave_is_a_sine() -> None:
    turns = np.linspace(-3, 3, 1001)
    assert wave(turns) == pytest.approx(np.sin(2 * np.pi * turns), abs=0.0011)
