import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from stages import train
from stages.common import checkpoints
from stages.common.checkpoints import Checkpoint, Checkpoints
from stages.common.errors import DivergedError, SettingsError, StageError
from stages.inference.trained_model import TrainedModel
from stages.outputs import events, film, losses, model
from stages.outputs.dataset import Drawings
from stages.outputs.events import Events
from stages.outputs.log import Log
from stages.outputs.samples import Settings
from stages.params import Params
from stages.pixelcnn.network import Config
from stages.pixelcnn.training import Trainer, TrainingConfig
from stages.quickdraw.labels import labels as quickdraw_labels
from tests.stages import models

CONFIG = Config((4, 4, 1), (2,), 1, 1, 4, 2, dropout_p=0.25, position="ones")


def striped(number: int) -> Drawings:
    """Return 4×4 drawings of two classes that are easy to distinguish: horizontal and vertical stripes."""
    labels = np.arange(number, dtype=np.int16) % 2
    rows = np.tile(np.array([0, 255, 0, 255], np.uint8)[:, np.newaxis], (1, 4))
    images = np.where(labels[:, np.newaxis, np.newaxis] == 0, rows, rows.T)[..., np.newaxis].astype(np.uint8)
    return Drawings(images, labels, np.array([str(label) for label in labels], object), np.arange(number) % 5 == 0)


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(2, dtype=np.float32)[labels]


def fit(
    steps: int,
    seed: int = 0,
    learning_rate: float = 0.02,
    checkpoints: Checkpoints | None = None,
    log: Log | None = None,
    **config: Any,
) -> tuple[Trainer, list[losses.Loss]]:
    data = striped(40)
    training = data.where(~data.heldout)
    order = train.BatchOrder(len(training.labels), 8, steps * 8 // len(training.labels), seed)
    trainer = Trainer(
        CONFIG,
        TrainingConfig(order.steps, learning_rate, seed=seed, **config),
        train.initial_weights(CONFIG, seed, training.images[:], one_hot(training.labels)),
    )
    return trainer, train.fit(trainer, order, data, one_hot, checkpoints, log)


@pytest.mark.slow
def test_a_deep_network_with_dropout_starts_with_small_gradients() -> None:
    """Its norm is 1,100,000 if the weights are initialised without dropout."""
    config = Config((4, 4, 1), (2,), num_resnet=10, num_hierarchies=2, num_filters=4, num_logistic_mix=2, dropout_p=0.5)
    images = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 1)).astype(np.uint8)
    condition = one_hot(np.arange(16) % 2)
    trainer = Trainer(config, TrainingConfig(10, 0.001), train.initial_weights(config, 0, images, condition))
    _, norm = trainer.step(0, images, condition)
    assert norm < 100


def test_an_epoch_uses_every_drawing_once() -> None:
    order = train.BatchOrder(num_drawings=10, batch_size=4, epochs=2, seed=0)
    assert order.steps == 5
    indices = np.concatenate([order.batch(step) for step in range(order.steps)])
    assert sorted(indices[:10]) == sorted(indices[10:]) == list(range(10))
    assert indices[:10].tolist() != indices[10:].tolist()


def test_training_ends_after_max_steps() -> None:
    steps = [train.BatchOrder(10, 4, epochs, seed=0, max_steps=3).steps for epochs in (1, 2)]
    assert steps == [2, 3]


def test_the_order_depends_on_the_seed() -> None:
    first, again, other = (train.BatchOrder(50, 7, 3, seed) for seed in (0, 0, 1))
    assert first.batch(9).tolist() == again.batch(9).tolist() != other.batch(9).tolist()


def test_training_lowers_and_records_the_loss() -> None:
    _, losses = fit(steps=40, ema_decay=0.9)
    heldout = [row for row in losses if row.split == "heldout"]
    training = [row for row in losses if row.split == "train"]
    assert [row.step for row in training] == list(range(1, 41))
    assert (heldout[0].step, heldout[-1].step) == (0, 40)
    assert [row.drawings for row in training] == [8 * row.step for row in training]
    assert heldout[-1].bits_per_dim < 0.7 * heldout[0].bits_per_dim


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_seed_gives_others() -> None:
    first, again, other = (fit(steps=8, seed=seed)[0].averages for seed in (0, 0, 1))
    assert all(np.array_equal(first[name].numpy(), again[name].numpy()) for name in first)
    assert not all(np.array_equal(first[name].numpy(), other[name].numpy()) for name in first)


def test_a_loss_that_is_not_finite_stops_training_and_names_settings_to_change() -> None:
    message = r"the loss of step 2 of 8 is nan, on the rows \(from 0\) [\d ]+ of .* Lower"
    with pytest.raises(DivergedError, match=message):
        fit(steps=8, learning_rate=math.inf)


def test_a_loss_that_is_not_finite_names_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path))
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "MAX_TIME_SHARE", math.inf)
    run, step = Checkpoints("run"), Trainer.step

    def diverge(trainer: Trainer, number: int, images: Any, condition: Any) -> object:
        if number == 5:
            weights = trainer.weights["output/b"]
            weights.assign(weights * math.inf)
        return step(trainer, number, images, condition)

    monkeypatch.setattr(Trainer, "step", diverge)
    training = np.flatnonzero(~striped(40).heldout)
    rows = " ".join(map(str, training[train.BatchOrder(32, 8, 2, 0).batch(5)]))
    with pytest.raises(DivergedError, match=r"^training: the loss of step 6 of 8 is (nan|inf)") as caught:
        fit(steps=8, checkpoints=run)
    assert f" {rows} of data/filter/drawings.parquet;" in str(caught.value), "the rows of the batch of that step"
    assert "the last checkpoint is of step 5" in str(caught.value)
    assert (last := run.newest()) is not None and last.step == 5, "a valid one, to resume from"
    assert all(np.isfinite(array).all() for array in last.arrays.values())


def test_a_gradient_that_is_not_finite_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path))
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "MAX_TIME_SHARE", math.inf)
    run, step = Checkpoints("run"), Trainer.step

    def diverge(trainer: Trainer, number: int, images: Any, condition: Any) -> object:
        loss, norm = step(trainer, number, images, condition)
        return loss, norm * math.inf if number == 5 else norm

    monkeypatch.setattr(Trainer, "step", diverge)
    with pytest.raises(DivergedError, match=r"^training: the gradient norm of step 6 of 8 is inf, .* is of step 5\."):
        fit(steps=8, checkpoints=run)
    assert (last := run.newest()) is not None and last.step == 5


@pytest.mark.slow
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_many_logistics_and_raw_labels_stay_finite(clip_norm: float, full_run: Params, real_mirror: Path) -> None:
    """30 logistics, and the raw label as the conditional input, as in the post, on real drawings."""
    settings = full_run.model_copy(
        update={
            "conditioning": "label", "num_logistic_mix": 30, "num_resnet": 1, "num_hierarchies": 2, "num_filters": 8,
            "batch_size": 8, "clip_norm": clip_norm, "position": "none", "learning_rate_decay": 1.0, "ema_decay": 0.0,
        }
    )  # fmt: skip
    images, labels = [], []
    for path in sorted(real_mirror.glob("*.npy"))[-6:]:  # with the largest labels
        images.append(np.load(path, mmap_mode="r", allow_pickle=False)[:120].reshape(-1, 28, 28, 1))
        labels += [quickdraw_labels().index(path.stem)] * len(images[-1])
    data = Drawings(
        np.concatenate(images), np.array(labels, np.int16), np.array(labels, object), np.arange(len(labels)) % 10 == 0
    )
    training = data.where(~data.heldout)
    order = train.BatchOrder(len(training.labels), settings.batch_size, 10, 0, max_steps=300)
    config = train.network_config(settings, (), (28, 28, 1))

    def condition(labels: np.ndarray) -> np.ndarray:
        return model.encode_labels(labels, (), "label")

    first = order.drawings(0, train.INITIAL_DRAWINGS)
    weights = train.initial_weights(config, 0, training.images[first], condition(training.labels[first]))
    trainer = Trainer(config, train.training_config(settings, order.steps), weights)
    losses = train.fit(trainer, order, data, condition)
    assert losses[-1].step == 300
    assert all(math.isfinite(row.bits_per_dim) for row in losses)
    assert all(np.isfinite(value).all() for value in trainer.state().values())
    assert losses[-1].bits_per_dim < losses[0].bits_per_dim


def test_too_few_drawings_for_a_batch_are_an_error() -> None:
    data = striped(10)
    with pytest.raises(SettingsError, match="batch_size is 64"):
        train.fit(None, train.BatchOrder(10, 64, 2, 0), data, one_hot)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stop_after", "options"),
    [
        pytest.param(1, {"ema_decay": 0.9}, marks=pytest.mark.slow),
        (4, {"ema_decay": 0.9, "muon_learning_rate": 0.02, "input_noise": 0.2, "clip_norm": 1.0}),
        pytest.param(7, {"ema_decay": 0.9}, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_resumes_and_ends_with_the_same_bits(
    stop_after: int,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path))
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "MAX_TIME_SHARE", math.inf)
    uninterrupted, losses = fit(steps=8, **options)

    def stop(checkpoint: Checkpoint) -> None:
        Checkpoints.save(run, checkpoint)
        if checkpoint.step == stop_after:
            raise KeyboardInterrupt

    run = Checkpoints("run")
    monkeypatch.setattr(run, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(steps=8, **options, checkpoints=run)
    resumed, same_losses = fit(steps=8, **options, checkpoints=Checkpoints("run"))
    assert f"resumes after step {stop_after} of 8" in capsys.readouterr().err
    assert same_losses == losses
    for name, value in uninterrupted.state().items():
        np.testing.assert_array_equal(resumed.state()[name], value, err_msg=name)


def test_losses_are_written_as_csv(tmp_path: Path) -> None:
    losses.write(tmp_path / "loss.csv", [losses.Loss(0, 0, "heldout", 8.25), losses.Loss(5, 160, "train", 1 / 3)])
    text = (tmp_path / "loss.csv").read_text()
    assert text == "step,drawings,split,bits_per_dim\n0,0,heldout,8.250000\n5,160,train,0.333333\n"


def test_the_settings_configure_the_network_and_the_training(full_run: Params) -> None:
    settings = full_run.model_copy(update={"conditioning": "label", "num_resnet": 2, "clip_norm": 1.5})
    config = train.network_config(settings, (), (28, 28, 1))
    assert (config.conditional_shape, config.num_resnet, config.num_filters) == ((), 2, settings.num_filters)
    training = train.training_config(settings, 100)
    assert (training.steps, training.clip_norm, training.learning_rate) == (100, 1.5, settings.learning_rate)
    assert (training.muon_learning_rate, training.input_noise) == (settings.muon_learning_rate, settings.input_noise)
    adam = train.training_config(settings.model_copy(update={"optimizer": "adam"}), 100)
    assert adam.muon_learning_rate is None


# --- What is recorded while the network learns ---


def logged(folder: Path, events: Events | None = None) -> Log:
    """A log whose frames are the number of times that one was drawn."""
    drawn: list[int] = []

    def draw() -> np.ndarray:
        drawn.append(1)
        return np.full((2, 4, 4, 1), len(drawn), np.uint8)

    folder.mkdir(exist_ok=True)
    return Log(folder, [0, 4, 8], draw, events)


def test_losses_and_film_grow_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, step = [], Trainer.step

    def look(trainer: Trainer, number: int, images: Any, condition: Any) -> object:
        rows = (tmp_path / losses.FILE).read_text().splitlines()
        sizes.append((len(rows), film.read(tmp_path / film.FILE).steps.tolist()))
        return step(trainer, number, images, condition)

    monkeypatch.setattr(Trainer, "step", look)
    monkeypatch.setattr(train, "HELDOUT_REPORTS", 2)
    fit(steps=8, log=logged(tmp_path))
    assert sizes[0] == (2, [0]) and sizes[3] == (5, [0]) and sizes[4] == (7, [0, 4])
    last = film.read(tmp_path / film.FILE)
    assert last.steps.tolist() == [0, 4, 8]
    assert last.drawings[:, 0, 0, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "stop_after", [pytest.param(3, marks=pytest.mark.slow), 4, pytest.param(8, marks=pytest.mark.slow)]
)
def test_a_resumed_run_leaves_the_same_losses_and_film(
    stop_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path))
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "MAX_TIME_SHARE", math.inf)
    monkeypatch.setattr(train, "HELDOUT_REPORTS", 2)

    def run(name: str, checkpoints: Checkpoints) -> dict[str, bytes]:
        trainer: list[Trainer] = []
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)

        def draw() -> np.ndarray:
            value = trainer[0].averages["output/b"].numpy().flat[0]
            return np.full((2, 4, 4, 1), abs(value) * 1e4 % 256, np.uint8)

        def remember(self: Trainer, *arguments: Any) -> None:
            init(self, *arguments)
            trainer.append(self)

        monkeypatch.setattr(Trainer, "__init__", remember)
        fit(steps=8, checkpoints=checkpoints, log=Log(folder, [0, 4, 8], draw))
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    init, resumed = Trainer.__init__, Checkpoints("resumed")

    def stop(checkpoint: Checkpoint) -> bool:
        saved = Checkpoints.save(resumed, checkpoint)
        if checkpoint.step == stop_after:
            raise KeyboardInterrupt
        return saved

    expected = run("whole", Checkpoints("whole"))
    with monkeypatch.context() as patched:
        patched.setattr(resumed, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            run("killed", resumed)
    assert run("resumed", Checkpoints("resumed")) == expected
    assert set(expected) == {losses.FILE, film.FILE}


def test_tensorboard_gets_losses_norms_rates_and_drawings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "HELDOUT_REPORTS", 2)
    assert events.open_log("run") is None
    monkeypatch.setenv("QUICKDRAW_LOGDIR", str(tmp_path / "logs"))
    fit(steps=8, log=logged(tmp_path, events.open_log("run")))
    (file,) = (tmp_path / "logs/run").iterdir()
    found: dict[str, dict[int, Any]] = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = tf.make_ndarray(value.tensor)
    assert list(found["bits_per_dim/heldout"]) == [0, 4, 8]
    with open(tmp_path / losses.FILE) as text:
        rows = [row.split(",") for row in text.read().splitlines()[1:]]
    for split in ("train", "heldout"):
        expected = {int(row[0]): float(row[3]) for row in rows if row[2] == split}
        assert {step: float(value) for step, value in found[f"bits_per_dim/{split}"].items()} == pytest.approx(
            expected, abs=1e-6
        )
    assert all(found["drawings_per_second"][step] > 0 and found["gradient_norm"][step] > 0 for step in range(1, 9))
    assert found["learning_rate"][1] == pytest.approx(0.02)
    width, height, png = found["drawings"][8]
    assert (width, height) == (b"8", b"4")
    assert np.asarray(Image.open(BytesIO(png))).tolist() == [[3] * 8] * 4


@pytest.mark.parametrize(
    ("steps", "gpu", "expected"),
    [
        (40, False, []),  # 320 drawings in training afford no frame of 20
        (250, False, [0, 250]),
        (2000, False, list(range(0, 2001, 200))),
        (8000, True, []),
        (30_000, True, list(range(0, 30_001, 6000))),
    ],
)
def test_a_film_has_as_many_frames_as_fit_into_its_share_of_the_time(
    steps: int, gpu: bool, expected: list[int]
) -> None:
    order = train.BatchOrder(num_drawings=steps * 8, batch_size=8, epochs=1, seed=0)
    assert train.film_steps(order, 20, gpu=gpu) == expected


def test_a_frame_has_the_drawings_of_the_trained_model() -> None:
    trained = models.tiny()
    frame = train.draw_each_class(trained, seed=3)
    sampled = TrainedModel(trained, Settings(seed=3))
    for index, entry in enumerate(trained.classes):
        np.testing.assert_array_equal(frame[index], sampled.sample(entry.name, 1)[0])


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_film_that_cannot_be_read_names_the_stage(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / film.FILE).write_bytes(content)
    with pytest.raises(StageError, match="run the stage train"):
        film.read(tmp_path / film.FILE)
