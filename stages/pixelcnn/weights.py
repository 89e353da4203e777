"""Weights on disk as safetensors, with the architecture as JSON. Both together define the distribution.

A file is untrusted input: it can only hold named arrays, and nothing in it is executed. Names, shapes and dtypes are
compared with those of the architecture before an array is read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stages.pixelcnn import network
from stages.pixelcnn.network import Config, Parameters

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"

# Larger than any machine can compute with, and small enough to compute the shapes.
MAX_INTEGER = 65_536


def save(path: Path, parameters: Parameters) -> None:
    """Write parameters as float32. Equal parameters give equal bytes."""
    arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in parameters.items()}
    save_file(arrays, path)


def load(path: Path, config: Config) -> dict[str, NDArray[np.float32]]:
    """Read the parameters of an architecture.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file cannot be read, is not a safetensors file, does not match the architecture (in a name, a
        shape or a dtype), or has a value that is not finite.
    """
    expected = network.shapes(config)
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            _reject(path, "lacks", sorted(expected.keys() - names))
            _reject(path, "has unknown arrays", sorted(names - expected.keys()))
            for name, shape in expected.items():
                array = file.get_slice(name)
                if array.get_dtype() != "F32" or tuple(array.get_shape()) != shape:
                    raise ValueError(
                        f"{path}: {name} is {array.get_dtype()} {tuple(array.get_shape())}, expected: F32 {shape}"
                    )
            arrays = {name: np.asarray(file.get_tensor(name)) for name in expected}
    except FileNotFoundError:
        raise
    except OSError as error:  # its message does not name the file
        raise ValueError(f"{path} cannot be read ({error})") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from None
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{path}: {name} has values that are not finite")
    return arrays


def _reject(path: Path, problem: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(f"{path} {problem}: {', '.join(names[:3])}{more}")


def save_config(path: Path, config: Config) -> None:
    """Write an architecture as JSON, under the key `network`."""
    path.write_text(json.dumps({"network": dataclasses.asdict(config)}, indent=2) + "\n", encoding="utf-8")


def load_config(path: Path) -> Config:
    """Read the architecture from the key `network` of a JSON file; other keys are ignored.

    Raises:
      ValueError: the file does not hold an architecture, or one of its values is invalid.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(described, dict) or not isinstance(described.get("network"), dict):
            raise ValueError("the key `network` is missing")
        return config_from(described["network"])
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} does not describe a network: {error}") from None


def config_from(described: Mapping[str, Any]) -> Config:
    """The `Config` from a dictionary made by `dataclasses.asdict`, also after a round trip through JSON.

    Raises:
      ValueError: a key is missing or unknown, or a value is invalid or of the wrong type.
    """
    expected = {field.name for field in dataclasses.fields(Config)}
    if described.keys() != expected:
        raise ValueError(f"the keys {sorted(described.keys() ^ expected)} are missing or unknown")
    return Config(**{name: _validated(name, value) for name, value in described.items()})


def _validated(name: str, value: Any) -> Any:
    """The value of a configuration's key; raises `ValueError` if it is invalid or of the wrong type."""

    def is_integer(number: Any, minimum: int = 1) -> bool:
        return type(number) is int and minimum <= number <= MAX_INTEGER

    match name:
        case "image_shape" | "receptive_field_dims" | "conditional_shape":
            length = {"image_shape": 3, "receptive_field_dims": 2}.get(name)
            if name == "conditional_shape" and value is None:
                return None
            valid = isinstance(value, list | tuple) and length in (None, len(value)) and all(map(is_integer, value))
            value = tuple(value) if valid else value
        case "num_resnet" | "num_filters" | "num_logistic_mix":
            valid = is_integer(value)
        case "num_hierarchies":
            valid = is_integer(value) and value <= 16
        case "low" | "high":
            valid = is_integer(value, -MAX_INTEGER)
        case "use_weight_norm" | "use_data_init":
            valid = isinstance(value, bool)
        case "dropout_p":
            valid = isinstance(value, int | float) and not isinstance(value, bool)
        case _:
            valid = isinstance(value, str)
    if not valid:
        raise ValueError(f"{name} cannot be {value!r}")
    return value
