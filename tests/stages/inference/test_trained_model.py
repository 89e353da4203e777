"""The model of a run as it is used from Python."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import evaluate, sample
from stages.common.errors import StageError
from stages.inference import trained_model
from stages.inference.trained_model import ArgumentError, TrainedModel
from stages.outputs import model, samples
from stages.outputs.dataset import Drawings
from stages.outputs.samples import Settings
from tests.stages import models

RUN = Settings(seed=3, temperature=0.8, guidance=2.0)


@pytest.fixture(scope="module")
def trained() -> model.Model:
    """A model whose output depends on the class more than that of an untrained one."""
    tiny = models.tiny()
    weights = {name: 30 * value if "condition" in name else value for name, value in tiny.weights.items()}
    return dataclasses.replace(tiny, weights=weights)


@pytest.fixture(scope="module")
def loaded(trained: model.Model) -> TrainedModel:
    return TrainedModel(trained, RUN)


@pytest.fixture(scope="module")
def generated(trained: model.Model) -> Any:
    """The run's own drawings, (3, 4, 28, 28, 1)."""
    return sample.generate(trained, 4, **vars(RUN))


def test_the_default_drawings_are_those_of_the_run(loaded: TrainedModel, generated: Any) -> None:
    assert loaded.classes == ("bee", "sea turtle", "tree")
    for name, drawings in zip(loaded.classes, generated, strict=True):
        np.testing.assert_array_equal(loaded.sample(name, 4), drawings)
    np.testing.assert_array_equal(loaded.sample("tree", 2, first=2), generated[2, 2:])
    assert (loaded.sample("tree", 4, seed=4) != generated[2]).any(axis=(1, 2, 3)).all()
    assert loaded.sample("tree", 0).shape == (0, 28, 28, 1)


def test_the_digest_is_that_of_what_the_drawings_depend_on(trained: model.Model) -> None:
    digest = TrainedModel(trained, RUN).digest
    copied = {name: trained.weights[name].copy() for name in sorted(trained.weights)}
    assert TrainedModel(dataclasses.replace(trained, weights=copied), Settings()).digest == digest
    others = (
        {"weights": {**trained.weights, "output/b": trained.weights["output/b"] + 1}},
        {"classes": tuple(reversed(trained.classes))},
        {"one_hot_scale": 1.0},
    )
    digests = {TrainedModel(dataclasses.replace(trained, **change), RUN).digest for change in others}
    assert len(digests | {digest}) == 4


def test_settings_of_a_call_replace_those_of_the_run(trained: model.Model, loaded: TrainedModel) -> None:
    expected = sample.generate(trained, 2, 9, 1.1, 1.0)[0]
    np.testing.assert_array_equal(loaded.sample("bee", 2, seed=9, temperature=1.1, guidance=1), expected)


def test_completions_keep_what_is_known(loaded: TrainedModel, generated: Any) -> None:
    drawings = generated[0, :2]
    completed = loaded.complete(drawings, "tree", 3, rows=14)
    assert completed.shape == (2, 3, 28, 28, 1)
    for kept, drawing in zip(completed, drawings, strict=True):
        assert (kept[:, :14] == drawing[:14]).all()
        assert (kept[:, 14:] != drawing[14:]).any(axis=(1, 2, 3)).all()
    for repeated in loaded.complete(drawings, "tree", 3, rows=0):
        np.testing.assert_array_equal(repeated, loaded.sample("tree", 3))
    np.testing.assert_array_equal(loaded.complete(drawings[..., 0], "tree", rows=28)[:, 0], drawings)
    mask = np.zeros((2, 28, 28), bool)
    mask[1] = True
    by_mask = loaded.complete(drawings, "tree", known=mask)
    np.testing.assert_array_equal(by_mask[0], loaded.sample("tree", 1))
    np.testing.assert_array_equal(by_mask[1, 0], drawings[1])
    assert loaded.complete(np.empty((0, 28, 28, 1)), "tree", 3, rows=1).shape == (0, 3, 28, 28, 1)


def test_completions_can_be_followed_row_by_row(loaded: TrainedModel, generated: Any) -> None:
    drawings, seen = generated[0, :2], np.zeros((6, 28, 28, 1), np.uint8)
    order: list[int] = []

    def row_done(part: slice, row: int, pixels: Any) -> None:
        assert (seen[part, row:] == 0).all()
        seen[part, row] = pixels
        order.extend(np.arange(6)[part])

    completed = loaded.complete(drawings, "tree", 3, rows=14, row_done=row_done)
    np.testing.assert_array_equal(seen.reshape(completed.shape), completed)
    assert sorted(order) == sorted([*range(6)] * 28), "each row of each completion once"

    def stop(*_: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        loaded.complete(drawings, "tree", rows=14, row_done=stop)


def test_bits_are_those_of_the_distribution(loaded: TrainedModel, generated: Any) -> None:
    drawings = generated[1]
    by_pixel = loaded.bits_by_pixel(drawings, "sea turtle")
    assert by_pixel.shape == (4, 28, 28)
    per_dim = loaded.bits_per_dim(drawings[..., 0], "sea turtle")
    np.testing.assert_allclose(per_dim, by_pixel.mean(axis=(1, 2)))
    condition = np.tile(loaded.condition("sea turtle"), (4, 1))
    log_prob = loaded.distribution.log_prob(drawings.astype(np.float32), conditional_input=condition)
    np.testing.assert_allclose(per_dim, -log_prob.numpy() / np.log(2) / 784, rtol=1e-5)
    assert loaded.bits_per_dim(drawings[:0], "bee").shape == (0,)


def test_the_likeliest_class_is_that_of_label_accuracy(
    trained: model.Model, loaded: TrainedModel, generated: Any
) -> None:
    labels = np.repeat([entry.label for entry in models.CLASSES], 4).astype(np.int16)
    images = generated.reshape(-1, 28, 28, 1)
    probabilities = loaded.classify(images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    by_class = loaded.bits_by_class(images)
    for index, name in enumerate(loaded.classes):
        np.testing.assert_allclose(by_class[:, index], loaded.bits_by_pixel(images, name), rtol=1e-5)
    bits = np.stack([loaded.bits_per_dim(images, name) for name in loaded.classes], axis=1)
    expected = np.exp2(-784 * (bits - bits.min(axis=1, keepdims=True)))
    np.testing.assert_allclose(probabilities, expected / expected.sum(axis=1, keepdims=True), atol=1e-9)
    data = Drawings(images, labels, np.array(["?"] * 12, object), np.ones(12, bool))
    correct = np.array([26, 255, 323])[probabilities.argmax(axis=1)] == labels
    np.testing.assert_array_equal(correct, evaluate.own_label_is_likeliest(trained, data))


IMAGES = np.zeros((1, 28, 28, 1), np.uint8)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("sample", {"name": "be"}, "'be' is not a class of the model. Did you mean 'bee'?"),
        (
            "sample",
            {"name": "zorro"},
            "'zorro' is not a class of the model. Its classes are 'bee', 'sea turtle' and 'tree'.",
        ),
        ("sample", {"name": "bee", "number": -1}, "number is -1; expected: at least 0"),
        ("sample", {"name": "bee", "temperature": -0.5}, "temperature is -0.5; expected: at least 0"),
        ("sample", {"name": "bee", "guidance": float("nan")}, "guidance is nan; expected: at least 0"),
        ("sample", {"name": "bee", "seed": -1}, "seed is -1; expected: at least 0"),
        (
            "complete",
            {"images": IMAGES, "name": "bee", "rows": 29},
            "rows is 29; expected: a whole number from 0 to 28",
        ),
        (
            "complete",
            {"images": IMAGES, "name": "bee"},
            "give either rows, the number of upper rows to keep, or known, a mask",
        ),
        (
            "complete",
            {"images": IMAGES, "name": "bee", "known": np.ones((2, 28, 28))},
            "known has the shape (2, 28, 28); expected: (28, 28), or (1, 28, 28)",
        ),
        ("classify", {"images": IMAGES[0]}, "images has the shape (28, 28, 1); expected: ('N', 28, 28, 1)"),
        ("classify", {"images": IMAGES + 0.5}, "images: expected: whole numbers from 0 to 255"),
        ("classify", {"images": IMAGES - 1.0}, "images: expected: whole numbers from 0 to 255"),
    ],
)
def test_an_argument_that_cannot_be_used_is_an_error(
    loaded: TrainedModel, method: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        getattr(loaded, method)(**arguments)
    assert str(caught.value) == message


def test_a_folder_gives_the_model_and_the_settings_of_its_run(tmp_path: Path, trained: model.Model) -> None:
    with pytest.raises(StageError, match="run the stage train first"):
        trained_model.load(tmp_path)
    for folder in (model.FOLDER, samples.FOLDER):
        (tmp_path / folder).mkdir(parents=True)
    model.save(trained, tmp_path / model.FOLDER)
    assert trained_model.load(tmp_path).settings == Settings()
    (tmp_path / "params.yaml").write_text("seed: 5\ntemperature: 0.5\nguidance: 3\nepochs: 1\n")
    assert trained_model.load(tmp_path).settings == Settings(5, 0.5, 3), "a run from before settings.json"
    samples.write_settings(tmp_path / samples.FOLDER / samples.SETTINGS, RUN)
    loaded = trained_model.load(tmp_path)
    assert loaded.settings == RUN
    assert repr(loaded) == f"TrainedModel(3 classes, 28×28×1, {RUN})"

    for text in ("", "{}", '{"seed": null, "temperature": 1, "guidance": 1}'):
        (tmp_path / samples.FOLDER / samples.SETTINGS).write_text(text)
        with pytest.raises(StageError, match=r"settings\.json cannot be used .*run the stage sample again"):
            trained_model.load(tmp_path)


def test_the_length_of_a_one_hot_vector_is_that_of_the_file(tmp_path: Path, trained: model.Model) -> None:
    model.save(dataclasses.replace(trained, one_hot_scale=2.0), tmp_path)
    assert model.load(tmp_path).condition([323]).tolist() == [[0, 0, 2]]
    values = json.loads((tmp_path / model.CONFIG).read_text())
    assert values["format"] == 1
    for key in ("format", "one_hot_scale"):
        del values[key]
    (tmp_path / model.CONFIG).write_text(json.dumps(values))
    assert model.load(tmp_path).condition([323]).tolist() == [[0, 0, 5]], "a file from before the number of the format"
    (tmp_path / model.CONFIG).write_text(json.dumps(values | {"format": 2}))
    with pytest.raises(StageError, match="its format is 2, and this version reads up to 1"):
        model.load(tmp_path)
