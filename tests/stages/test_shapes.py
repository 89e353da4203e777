"""The stages after filter on drawings of other shapes than 28 by 28 pixels of one channel."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from stages import evaluate, judge, sample, train
from stages.inference import trained_model
from stages.outputs import dataset, evaluation, model
from stages.params import Params
from stages.pixelcnn import PixelCNN
from tests.settings import write

NAMES = ("bar", "box")
PER_CLASS = 30


def write_drawings(shape: tuple[int, int, int]) -> None:
    """Write what filter writes: noisy pictures, dark on the left or at the top, a third of them held out."""
    random = np.random.default_rng(0)
    labels = np.arange(2 * PER_CLASS, dtype=np.int16) % 2
    images = random.integers(128, 256, (len(labels), *shape), np.uint8)
    images[labels == 0, :, : shape[1] // 2] //= 4
    images[labels == 1, : shape[0] // 2] //= 4
    dataset.FOLDER.mkdir(parents=True)
    np.save(dataset.FOLDER / dataset.IMAGES, images)
    names = pd.Categorical([NAMES[label] for label in labels])
    table = pd.DataFrame({"label": labels, "name": names, "heldout": np.arange(len(labels)) // 2 % 3 == 2})
    table.to_parquet(dataset.FOLDER / dataset.TABLE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "position"),
    [
        ((9, 14, 3), "coordinates"),  # padded to 12 by 16
        ((8, 8, 1), "ones"),
        ((8, 12, 3), "none"),
    ],
)
def test_a_run_on_drawings_of_any_shape(
    shape: tuple[int, int, int], position: str, full_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = full_run.model_copy(
        update={
            "classes": NAMES, "position": position, "num_resnet": 1, "num_filters": 4, "num_logistic_mix": 2,
            "dropout_p": 0.0, "batch_size": 8, "epochs": 1, "judge_steps": 2, "samples_per_class": 1,
            "eval_samples_per_class": 3, "device": "cpu",
        }
    )  # fmt: skip
    write(tmp_path, settings.model_dump(mode="json"))
    write_drawings(shape)
    for stage in (train, sample, judge, evaluate):
        stage.main(settings)

    generated = np.load("data/sample/samples.npy")
    assert generated.shape == (2, 3, *shape)
    assert len(np.unique(generated)) > 5
    loaded = trained_model.load()
    np.testing.assert_array_equal(loaded.sample("box", 3), generated[1])

    data = dataset.load()
    heldout = data.where(data.heldout)
    bits = np.concatenate([loaded.bits_per_dim(heldout.images[heldout.labels == i], NAMES[i]) for i in range(2)])
    measured = json.loads(Path("reports/metrics.json").read_text())["heldout_bits_per_dim"]
    assert measured == pytest.approx(bits.mean(), rel=1e-5)
    assert 3 < measured < 30
    assert load_file(evaluation.FOLDER / evaluation.ARRAYS)["pixel_bits"].shape == (2, *shape[:2])
    if position == "none":  # the architecture of TFP
        trained = model.load()
        tfp_dist = PixelCNN.from_parameters(trained.config, trained.weights).to_tfp()
        images = tf.cast(heldout.images, tf.float32)
        nats = -tfp_dist.log_prob(images, conditional_input=trained.condition(heldout.labels)).numpy()
        assert measured == pytest.approx(nats.mean() / math.log(2) / math.prod(shape), rel=1e-4)
