"""Weights on the disk: safetensors, and the architecture beside them as JSON. The two rebuild the distribution.

A file is read for what it is, arrays with names: nothing in it is run, and nothing of it is believed. Names, shapes and
types are compared with what the architecture asks for before an array is read.
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

# Beyond what any machine computes, and small enough to work out the shapes of.
LARGEST = 65_536


def save(path: Path, parameters: Parameters) -> None:
    """Write parameters as float32. Equal parameters give equal bytes."""
    arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in parameters.items()}
    save_file(arrays, path)


def load(path: Path, config: Config) -> dict[str, NDArray[np.float32]]:
    """Read the parameters of an architecture.

    Raises:
      ValueError: it is no safetensors file, or not one of this architecture: a name, a shape or a type does not fit, or
        a value is not finite.
    """
    expected = network.shapes(config)
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            _refuse(path, "lacks", sorted(expected.keys() - names))
            _refuse(path, "has beside what the architecture knows", sorted(names - expected.keys()))
            for name, shape in expected.items():
                array = file.get_slice(name)
                if array.get_dtype() != "F32" or tuple(array.get_shape()) != shape:
                    raise ValueError(
                        f"{path}: {name} is {array.get_dtype()} {tuple(array.get_shape())}, "
                        f"and the architecture asks for F32 {shape}"
                    )
            found = {name: np.asarray(file.get_tensor(name)) for name in expected}
    except FileNotFoundError:
        raise
    except OSError as error:  # which names no file
        raise ValueError(f"{path} cannot be read ({error})") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from None
    for name, value in found.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{path}: {name} has values that are not finite")
    return found


def _refuse(path: Path, what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(f"{path} {what}: {', '.join(names[:3])}{more}")


def save_config(path: Path, config: Config) -> None:
    """Write an architecture as JSON, under the key `network`."""
    path.write_text(json.dumps({"network": dataclasses.asdict(config)}, indent=2) + "\n", encoding="utf-8")


def load_config(path: Path) -> Config:
    """Read the architecture from the key `network` of a JSON file; other keys may stand beside it.

    Raises:
      ValueError: it is no such file, or one of its values is not permitted.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(described, dict) or not isinstance(described.get("network"), dict):
            raise ValueError("it has no `network`")
        return config_from(described["network"])
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} does not describe a network: {error}") from None


def config_from(described: Mapping[str, Any]) -> Config:
    """The architecture that `dataclasses.asdict(config)`, or JSON made of it, describes.

    Raises:
      ValueError: a key is missing or unknown, or a value is of the wrong type or not permitted.
    """
    wanted = {field.name for field in dataclasses.fields(Config)}
    if described.keys() != wanted:
        raise ValueError(f"the keys {sorted(described.keys() ^ wanted)} are missing or unknown")
    return Config(**{name: _value(name, value) for name, value in described.items()})


def _value(name: str, value: Any) -> Any:
    """A value of a configuration, checked to be of its type."""

    def whole(number: Any, least: int = 1) -> bool:
        return type(number) is int and least <= number <= LARGEST

    match name:
        case "image_shape" | "receptive_field_dims" | "conditional_shape":
            length = {"image_shape": 3, "receptive_field_dims": 2}.get(name)
            if name == "conditional_shape" and value is None:
                return None
            fits = isinstance(value, list | tuple) and length in (None, len(value)) and all(map(whole, value))
            value = tuple(value) if fits else value
        case "num_resnet" | "num_filters" | "num_logistic_mix":
            fits = whole(value)
        case "num_hierarchies":
            fits = whole(value) and value <= 16
        case "low" | "high":
            fits = whole(value, -LARGEST)
        case "use_weight_norm" | "use_data_init":
            fits = isinstance(value, bool)
        case "dropout_p":
            fits = isinstance(value, int | float) and not isinstance(value, bool)
        case _:
            fits = isinstance(value, str)
    if not fits:
        raise ValueError(f"{name} cannot be {value!r}")
    return value
