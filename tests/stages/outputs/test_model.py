from pathlib import Path

import numpy as np
import pytest

from stages.common.errors import StageError
from stages.outputs import model
from tests.stages import models


def test_a_saved_model_is_loaded_unchanged(tmp_path: Path) -> None:
    saved = models.tiny()
    model.save(saved, tmp_path)
    loaded = model.load(tmp_path)
    assert (loaded.config, loaded.classes, loaded.conditioning) == (saved.config, saved.classes, saved.conditioning)
    assert loaded.weights.keys() == saved.weights.keys()
    for name, value in saved.weights.items():
        np.testing.assert_array_equal(loaded.weights[name], value)


def test_one_hot_marks_the_class_in_the_order_of_the_settings() -> None:
    assert model.encode_labels([323, 26], models.CLASSES, "one_hot").tolist() == [[0, 0, 5], [5, 0, 0]]
    assert model.conditional_shape(models.CLASSES, "one_hot") == (3,)


def test_label_conditioning_uses_the_raw_label() -> None:
    assert model.encode_labels([323, 26], models.CLASSES, "label").tolist() == [323, 26]
    assert model.conditional_shape(models.CLASSES, "label") == ()


@pytest.mark.parametrize("missing", [model.CONFIG, model.WEIGHTS])
def test_a_missing_file_names_the_stage_to_run(tmp_path: Path, missing: str) -> None:
    model.save(models.tiny(), tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(StageError, match=rf"{missing} is missing: run the stage train first"):
        model.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"network": {"image_shape": 1}}', '{"classes": [], "conditioning": "one_hot", "network": 3}'],
)
def test_an_invalid_configuration_is_rejected(tmp_path: Path, text: str) -> None:
    model.save(models.tiny(), tmp_path)
    (tmp_path / model.CONFIG).write_text(text)
    with pytest.raises(StageError, match=r"config\.json cannot be used \(.*\): run the stage train again"):
        model.load(tmp_path)


def test_weights_of_another_network_are_rejected(tmp_path: Path) -> None:
    model.save(models.tiny(num_hierarchies=1), tmp_path)
    weights = (tmp_path / model.WEIGHTS).read_bytes()
    model.save(models.tiny(), tmp_path)
    (tmp_path / model.WEIGHTS).write_bytes(weights)
    with pytest.raises(StageError, match="run the stage train again"):
        model.load(tmp_path)
