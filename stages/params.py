"""Every setting of a run: its type, its bounds and its meaning. The only reader of params.yaml.

A stage is handed a `Params` and reads attributes of it; a file with anything wrong in it never reaches a stage.
"""

import reprlib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError, field_validator
from pydantic_core import ErrorDetails

from stages.common.errors import SettingsError, did_you_mean, one_line
from stages.quickdraw.labels import BUCKET as BUCKET
from stages.quickdraw.labels import DOODLES as DOODLES
from stages.quickdraw.labels import check_name, labels

MAX_CHARACTERS = 1_000_000  # characters of a file of settings

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 200, 200


def _reject_bool(value: object) -> object:
    """Python counts `true` as 1; a person who writes it where a number belongs has made a mistake."""
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not true or false")
    return value


# Text is read as a number where it is one: YAML 1.1 writers and `-S learning_rate=2e-5` leave `2e-05` behind.
Whole = Annotated[int, BeforeValidator(_reject_bool)]
Number = Annotated[float, BeforeValidator(_reject_bool)]


class Params(BaseModel):
    """The settings of a run, checked. The descriptions are the comments of params.yaml, word for word."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mirror: str = Field(
        description="Where the drawings are: a URL (https, gs, s3, file) or a folder that holds `<class>.npy` files; "
        "`doodles` draws stand-ins, with no network. A relative folder starts at the root of the repository.",
        min_length=1,
    )
    source: Literal["mirror", "tfds"] = Field(
        description="Where their pixels are read: `mirror`, or `tfds`, which reads the mirror's drawings where "
        "TensorFlow Datasets has prepared quickdraw_bitmap."
    )
    data_dir: str = Field(
        description="The data directory of TensorFlow Datasets, for `source: tfds`. A relative one starts at the root "
        "of the repository.",
        min_length=1,
    )
    num_drawings: Whole = Field(
        description="How many drawings of the mirror, all classes together: the first in the fixed random order of "
        "TensorFlow Datasets.",
        ge=1,
        le=2**31,
    )
    prefetch: StrictBool = Field(
        description="Whether to fetch the pixels of all of these drawings at once, not only those of the chosen "
        "classes; from the public bucket 500,000 are as many requests, and 0.4 GB."
    )
    holdout: Number = Field(
        description="The share of each class's drawings kept from training, to measure likelihood on.", ge=0.01, le=0.5
    )

    conditioning: Literal["one_hot", "label"] = Field(
        description="How the network is told the class: `one_hot`, a vector over the chosen classes, or `label`, the "
        "raw label number, as in the post."
    )
    position: Literal["none", "ones", "coordinates"] = Field(
        description="How it is told where a pixel lies: not at all, by a channel of ones that shows the padding, or by "
        "the row and the column."
    )
    num_resnet: Whole = Field(
        description="Depth: gated residual blocks at each resolution; time and memory grow in step.", ge=1, le=20
    )
    num_hierarchies: Whole = Field(
        description="Resolutions, each half the one before: 28, 14 and 7 pixels a side.", ge=1, le=3
    )
    num_filters: Whole = Field(description="Width: channels in every layer; time grows with its square.", ge=1, le=1024)
    num_logistic_mix: Whole = Field(description="Logistics mixed in the distribution of a pixel.", ge=1, le=100)
    dropout_p: Number = Field(
        description="Dropout in each residual block while training: the probability that a value is dropped.",
        ge=0,
        le=0.95,
    )

    epochs: Whole = Field(description="Passes over the training drawings.", ge=1, le=10_000)
    max_steps: Whole = Field(
        description="Steps after which training ends even where epochs are left, for a run whose cost does not grow "
        "with the mirror; 0 is no limit.",
        ge=0,
        le=2**31,
    )
    batch_size: Whole = Field(description="Drawings in a step of training.", ge=1, le=4096)
    learning_rate: Number = Field(description="Adam's learning rate at the start.", gt=0, le=1)
    learning_rate_decay: Number = Field(
        description="The learning rate at the end as a share of that at the start, reached along a cosine; 1 keeps it "
        "constant.",
        ge=0,
        le=1,
    )
    ema_decay: Number = Field(
        description="Averaging of the weights over steps, as the share of the average kept at each; 0 is no averaging.",
        ge=0,
        lt=1,
    )
    clip_norm: Number = Field(
        description="The norm that the gradient of a step (of the mean bits per dimension) is cut to; 0 never cuts.",
        ge=0,
    )
    precision: Literal["float32", "bfloat16"] = Field(
        description="The numbers that training's convolutions compute in; bfloat16 is faster and coarser."
    )
    device: Literal["auto", "gpu", "cpu"] = Field(
        description="Where TensorFlow computes; `auto` takes a GPU where there is one, `gpu` insists on it."
    )
    deterministic: StrictBool = Field(
        description="Whether a GPU repeats itself to the bit, at the price of slower steps; `python -m "
        "tests.benchmarks.training float32 float32+deterministic` says how much slower. A CPU does so at any rate."
    )
    seed: Whole = Field(
        description="Where every random number starts: weights, shuffling, dropout, samples.", ge=0, le=2**31 - 1
    )

    samples_per_class: Whole = Field(description="Drawings generated of each class.", ge=1, le=10_000)
    temperature: Number = Field(
        description="How freely a pixel is drawn: 1 follows the model, less keeps to what is likely.", gt=0, le=10
    )
    guidance: Number = Field(
        description="How far a drawing is led from what the model would make of the average class to what it makes of "
        "its own, and beyond: 1 follows the model; more exaggerates what sets a class apart, at twice the time.",
        ge=1,
        le=100,
    )

    judge_steps: Whole = Field(
        description="Steps of 64 real drawings that the judge learns from; it says what class a drawing shows.",
        ge=1,
        le=1_000_000,
    )
    judge_seed: Whole = Field(
        description="Where the judge's random numbers start; with a seed of its own it stays the same between runs.",
        ge=0,
        le=2**31 - 1,
    )
    eval_samples_per_class: Whole = Field(
        description="Drawings generated of each class to measure on; those that are shown are the first of them.",
        ge=1,
        le=10_000,
    )

    # The last, because DVC drops the comments that follow a list when it rewrites the file.
    classes: tuple[str, ...] = Field(description="What to learn to draw: class names, each once.", min_length=1)

    @field_validator("mirror", "data_dir")
    @classmethod
    def _isone_line(cls, place: str) -> str:
        if not place.isprintable():
            raise ValueError(f"{one_line(repr(place))} has characters that no address of a place has")
        return place

    @field_validator("mirror")
    @classmethod
    def _is_a_place(cls, mirror: str) -> str:
        scheme, separator, _ = mirror.partition("://")
        if separator and scheme not in ("https", "http", "gs", "s3", "file"):
            raise ValueError(f"{one_line(scheme)}:// is none of https://, http://, gs://, s3://, file://")
        if separator and not _is_address(mirror):  # and is not shown: what cannot be read may hold a password
            raise ValueError(f"what follows {scheme}:// is no address; permitted: {expected('mirror')}")
        return mirror

    @field_validator("classes")
    @classmethod
    def _are_classes(cls, classes: tuple[str, ...], info: Any) -> tuple[str, ...]:
        seen: set[str] = set()
        for name in classes:
            if check_name(name) in seen:
                raise ValueError(f"{one_line(repr(name))} is there twice; name each class once")
            seen.add(name)
        # Another mirror may hold whatever classes its owner drew: what it lacks is found when it is read.
        if info.data.get("mirror", "").rstrip("/") in (BUCKET, DOODLES):
            for name in classes:
                if name not in labels():
                    near = did_you_mean(name, labels())
                    raise ValueError(f"{one_line(repr(name))} is no class of Quick, Draw!.{near}")
        return classes


def load(path: str | Path = "params.yaml") -> Params:
    """The settings in a file. Raises `SettingsError` for a file that cannot be read or holds what cannot be used."""
    return check(read(path), str(path))


def read(path: str | Path = "params.yaml") -> dict[str, Any]:
    """The keys and values of a file as they stand there, not yet checked."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except FileNotFoundError:
        raise SettingsError(f"{path} is not here; run from the root of the repository") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not text in UTF-8") from None
    return parse(text, str(path))


def parse(text: str, source: str) -> dict[str, Any]:
    """The keys and values of a text in YAML 1.2, which an error calls `source`."""
    if len(text) > MAX_CHARACTERS:
        raise SettingsError(f"{source} has more than {MAX_CHARACTERS:,} characters, which no settings need")
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.constructor.flatten_mapping = _refuse_merging
    try:
        values = yaml.load(text)
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"{source}{line}: not YAML: {one_line(error.problem or error.context)}") from None
    except YAMLError as error:
        raise SettingsError(f"{source}: not YAML: {one_line(error)}") from None
    except RecursionError:
        raise SettingsError(f"{source}: not YAML: it is nested too deeply") from None
    except Exception as error:  # of a value that YAML permits and Python does not: 2001-99-99, a number of 5,000 digits
        raise SettingsError(f"{source}: not YAML: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{source} holds no settings; each line of it is `key: value`")
    return values


def check(values: Mapping[str, Any], source: str) -> Params:
    """The settings in `values`. Raises `SettingsError` with a line for each that is wrong, naming `source`."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(f"{source}: {_explain(detail)}" for detail in error.errors())) from None


def expected(key: str) -> str:
    """What a setting can be, in words: `"a whole number from 1 to 20"`."""
    field = Params.model_fields[key]
    if typing.get_origin(field.annotation) is Literal:
        return " or ".join(typing.get_args(field.annotation))
    if field.annotation is bool:
        return "true or false"
    if field.annotation is int or field.annotation is float:
        bounds = {name: value for item in field.metadata for name, value in _bounds(item)}
        words = "a whole number" if field.annotation is int else "a number"
        low = f"from {bounds['ge']}" if "ge" in bounds else f"above {bounds['gt']}"
        high = f" to {bounds['le']}" if "le" in bounds else f" to below {bounds['lt']}" if "lt" in bounds else " up"
        return f"{words} {low}{high}"
    return {
        "mirror": "a URL, a folder, or doodles",
        "data_dir": "a folder",
        "classes": "a list of class names, one or more",
    }[key]


def _is_address(url: str) -> bool:
    """Whether a URL names a folder, a bucket, or a host and a port that can be."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "file":
            return bool(parts.path) and unquote(parts.path).isprintable()
        if parts.scheme in ("http", "https"):
            return bool((parts.hostname or "").encode("idna")) and parts.port != 0
        return bool(parts.netloc)
    except ValueError:
        return False


def _refuse_merging(node: Any) -> None:
    """YAML 1.2 has no merge keys, and a few lines of them, each with several of the line before, take hours."""
    if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
        raise ValueError("a merge key (<<) is not read")


def _bounds(constraint: object) -> Iterator[tuple[str, float]]:
    for name in ("ge", "gt", "le", "lt"):
        if (bound := getattr(constraint, name, None)) is not None:
            yield name, bound


def _explain(detail: ErrorDetails) -> str:
    """One line for one error of pydantic's: the key, the value, and what is permitted."""
    key, value = detail["loc"][0], detail["input"]
    key = one_line(key) if isinstance(key, str) else _display(key)
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        return f"{key} is not a setting.{did_you_mean(key, Params.model_fields)}"
    if detail["type"] == "missing":
        return f"{key} is missing; permitted: {expected(key)}"
    if detail["type"] == "value_error" and key in ("mirror", "data_dir", "classes"):
        return f"{key}: {detail['ctx']['error']}"
    if isinstance(value, list | tuple) and not value:
        return f"{key} is empty; permitted: {expected(key)}"
    where = f"{key}, entry {detail['loc'][1] + 1}," if len(detail["loc"]) > 1 else key  # type: ignore[operator]
    return f"{where} is {_display(value)}; permitted: {expected(key)}"


def _display(value: object) -> str:
    """A value that may be anything, in a few words: YAML's aliases make of a short text one that fills the memory."""
    try:
        return one_line(_SHORT.repr(value))
    except ValueError:  # a number of more digits than Python writes
        return "a number too long to be shown"
