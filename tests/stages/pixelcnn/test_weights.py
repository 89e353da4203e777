"""Weights and architecture on disk: saving, loading, and the rejection of invalid files."""

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from stages.pixelcnn import PixelCNN, network, weights
from stages.pixelcnn.network import Config

CONFIG = Config((4, 4, 1), (2,), 1, 1, 4, 2)
PARAMETERS = {name: value.numpy() for name, value in network.initialise(CONFIG, 0).items()}
NAME = "vertical/conv1/v"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    weights.save(tmp_path / weights.WEIGHTS, PARAMETERS)
    return tmp_path / weights.WEIGHTS


def test_weights_are_loaded_as_they_were_saved(path: Path) -> None:
    loaded = weights.load(path, CONFIG)
    assert list(loaded) == list(network.shapes(CONFIG))
    for name, value in PARAMETERS.items():
        assert loaded[name].dtype == np.float32
        np.testing.assert_array_equal(loaded[name], value)


def test_equal_weights_give_equal_bytes(path: Path, tmp_path: Path) -> None:
    backwards = dict(reversed([(name, tf.Variable(value)) for name, value in PARAMETERS.items()]))
    weights.save(tmp_path / "again", backwards)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_the_distribution_is_loaded_from_its_folder(tmp_path: Path) -> None:
    """Architectures with every kind of value; nothing but the folder is needed."""
    x = np.random.default_rng(0).integers(0, 8, (2, 4, 4, 1)).astype(np.float32)
    for number, config in enumerate((CONFIG, Config((4, 4, 1), None, 1, 1, 4, 2, use_weight_norm=False, high=7))):
        condition = {} if config.conditional_shape is None else {"conditional_input": np.eye(2, dtype=np.float32)}
        dist = PixelCNN(**dataclasses.asdict(config), seed=4)
        expected = dist.log_prob(x, **condition)
        dist.save(tmp_path / str(number) / "new")
        loaded = PixelCNN.load(tmp_path / str(number) / "new")
        assert loaded.config == config
        assert loaded.network.initialised
        np.testing.assert_array_equal(loaded.log_prob(x, **condition), expected)
        assert PixelCNN.load(tmp_path / str(number) / "new", name="mine", dtype=tf.float64).dtype == tf.float64


def test_other_keys_in_the_configuration_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    weights.save_config(file, CONFIG)
    described = json.loads(file.read_text())
    file.write_text(json.dumps({"classes": [1, 2], **described}))
    assert weights.load_config(file) == CONFIG


def test_a_missing_file_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        weights.load(tmp_path / "none", CONFIG)
    with pytest.raises(FileNotFoundError):
        PixelCNN.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NAME: None}, rf"weights.safetensors lacks: {NAME}$"),
        ({"evil/v": np.zeros(3, np.float32)}, "has unknown arrays: evil/v$"),
        ({f"evil/{n}": np.zeros(1, np.float32) for n in range(9)}, "evil/0, evil/1, evil/2 and 6 more"),
        (
            {NAME: np.zeros((2, 2), np.float32)},
            rf"{NAME} is F32 \(2, 2\), expected: F32 \(2, 2, 3, 8, 4\)",
        ),
        ({NAME: PARAMETERS[NAME].astype(np.float64)}, f"{NAME} is F64"),
        ({NAME: PARAMETERS[NAME].astype(np.int32)}, f"{NAME} is I32"),
        ({NAME: np.full_like(PARAMETERS[NAME], np.nan)}, f"{NAME} has values that are not finite"),
        ({NAME: np.full_like(PARAMETERS[NAME], np.inf)}, f"{NAME} has values that are not finite"),
    ],
)
def test_weights_of_another_network_are_rejected(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({name: value for name, value in (PARAMETERS | change).items() if value is not None}, path)
    with pytest.raises(ValueError, match=message):
        weights.load(path, CONFIG)


def header(described: Any) -> bytes:
    text = json.dumps(described).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04\x95 a pickle",
        b"\x93NUMPY\x01\x00",
        struct.pack("<Q", 2**60) + b"{}",
        header([]),
        header({NAME: {"dtype": "F32", "shape": [2, 2, 3, 8, 4], "data_offsets": [0, 10**12]}}),
        header({NAME: {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}}) + b"12345678",
        header({NAME: {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + b"1234",
        header({NAME: {"dtype": "PYTHON", "shape": [1], "data_offsets": [0, 4]}}) + b"1234",
    ],
)
def test_malicious_files_are_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        weights.load(path, CONFIG)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 10**6), value=st.integers(0, 255), truncate=st.booleans())
def test_a_damaged_file_is_rejected_or_has_finite_weights(position: int, value: int, truncate: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        weights.save(path, PARAMETERS)
        content = bytearray(path.read_bytes())
        position %= len(content)
        content[position] = value
        path.write_bytes(content[:position] if truncate else content)
        try:
            loaded = weights.load(path, CONFIG)
        except ValueError as error:
            assert "weights.safetensors" in str(error)
        else:
            assert {name: array.shape for name, array in loaded.items()} == network.shapes(CONFIG)
            assert all(np.isfinite(array).all() for array in loaded.values())


def test_a_configuration_is_restored_from_json() -> None:
    for config in (
        CONFIG,
        Config((12, 8, 3), None, 5, 3, 128, 10, (4, 5), 0.0, "elu", False, False, 15, -3, "coordinates"),
        Config((4, 4, 1), (), num_hierarchies=1),
    ):
        assert weights.config_from(json.loads(json.dumps(dataclasses.asdict(config)))) == config
        assert weights.config_from(dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "extra"),
        ({"image_shape": [4, 4]}, "image_shape"),
        ({"image_shape": [4, 4, 0]}, "image_shape"),
        ({"image_shape": [4, 4, 10**9]}, "image_shape"),
        ({"image_shape": "441"}, "image_shape"),
        ({"conditional_shape": [True]}, "conditional_shape"),
        ({"num_resnet": 10**9}, "num_resnet"),
        ({"num_resnet": 1.0}, "num_resnet"),
        ({"num_resnet": True}, "num_resnet"),
        ({"num_hierarchies": 99}, "num_hierarchies"),
        ({"num_filters": -4}, "num_filters"),
        ({"num_logistic_mix": None}, "num_logistic_mix"),
        ({"receptive_field_dims": [3, 4]}, "odd"),
        ({"use_weight_norm": 1}, "use_weight_norm"),
        ({"dropout_p": "0.5"}, "dropout_p"),
        ({"dropout_p": float("nan")}, "dropout_p"),
        ({"resnet_activation": "__import__"}, "resnet_activation"),
        ({"position": 3}, "position"),
        ({"high": 0}, "high"),
    ],
)
def test_an_invalid_configuration_is_rejected(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"network": dataclasses.asdict(CONFIG) | change}))
    with pytest.raises(ValueError, match=rf"config\.json does not describe a network: .*{message}"):
        weights.load_config(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"network": 3}', '{"network": {}}', "[" * 100_000, "\x00"])
def test_json_without_a_configuration_is_rejected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json does not describe a network"):
        weights.load_config(path)
