"""The settings of a run: types, bounds and descriptions. The only reader of params.yaml.

A stage receives a checked `Params` and reads its attributes. It does not start if params.yaml has an error.
"""

import hashlib
import json
import reprlib
import types
import typing
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from stages.common.errors import SettingsError, did_you_mean, one_line
from stages.quickdraw.labels import BUCKET as BUCKET
from stages.quickdraw.labels import DIGITS, TFDS, TFDS_BITMAP, check_name, explain_unknown, is_dataset, labels
from stages.quickdraw.labels import DOODLES as DOODLES
from stages.quickdraw.labels import is_folder as is_folder

# The settings and values that source has replaced, and what to do.
FORMER_SETTINGS = {
    "mirror": "give its value to source",
    "data_dir": "set source to tfds:quickdraw_bitmap, and the environment variable TFDS_DATA_DIR to the folder",
}
FORMER_SOURCES = {"mirror": "set it to the URL or the folder", "tfds": f"set it to {TFDS_BITMAP}"}

MAX_CHARACTERS = 1_000_000  # of a settings file

_SHORT_REPR = reprlib.Repr()
_SHORT_REPR.maxlevel, _SHORT_REPR.maxstring, _SHORT_REPR.maxother = 2, 200, 200


def _reject_bool(value: object) -> object:
    """Reject `true` and `false` for a number: Python would accept them as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("expected: a number, not true or false")
    return value


# Text that is a number is accepted: YAML 1.1 writers and `-S learning_rate=2e-5` write `2e-05`, which YAML 1.2 reads as
# text.
IntSetting = Annotated[int, BeforeValidator(_reject_bool)]
FloatSetting = Annotated[float, BeforeValidator(_reject_bool)]


class Params(BaseModel):
    """The checked settings of a run. The descriptions are the comments of params.yaml, word for word."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str = Field(
        description="Where the drawings come from: a URL (https, gs, s3, file) or a folder with `<class>.npy` files; "
        "`tfds:NAME`, a dataset that TensorFlow Datasets has prepared: `tfds:mnist`, or `tfds:quickdraw_bitmap`, the "
        "drawings of the public bucket; `doodles`, stand-ins that the project generates, and `digits`, the 8×8 digits "
        "of scikit-learn, without a network. A relative path starts at the root of the repository.",
        min_length=1,
    )
    num_drawings: Annotated[int, Field(ge=1, le=2**31), BeforeValidator(_reject_bool)] | Literal["all"] = Field(
        description="Number of drawings of the source, over all its classes: the first in the fixed random order of "
        "TensorFlow Datasets, or of `tfds:NAME`, as they are stored."
    )
    prefetch: StrictBool = Field(
        description="Whether extract fetches the pixels of all these drawings, not only those of the chosen classes; "
        "from the public bucket, 500,000 drawings are 500,000 requests and 0.4 GB."
    )
    holdout: Annotated[float, Field(ge=0.01, le=0.5), BeforeValidator(_reject_bool)] | Literal["test"] = Field(
        description="Share of each class's drawings that is held out from training, to measure the likelihood on; "
        "`test` holds out the split `test` of `tfds:NAME` instead."
    )

    conditioning: Literal["one_hot", "label"] = Field(
        description="The network's class input: `one_hot`, a vector over the chosen classes, or `label`, the raw label "
        "number, as in the post."
    )
    position: Literal["none", "ones", "coordinates"] = Field(
        description="The network's position input: `none`, `ones` (a channel of ones, which shows the padding) or "
        "`coordinates` (the row and the column of each pixel)."
    )
    num_resnet: IntSetting = Field(
        description="Depth: gated residual blocks at each resolution; time and memory grow in proportion.", ge=1, le=20
    )
    num_hierarchies: IntSetting = Field(
        description="Number of resolutions, each half the previous one: 28, 14 and 7 pixels a side.", ge=1, le=3
    )
    num_filters: IntSetting = Field(
        description="Width: channels in every layer; time grows with its square.", ge=1, le=1024
    )
    num_logistic_mix: IntSetting = Field(
        description="Number of logistics in the mixture distribution of a pixel.", ge=1, le=100
    )
    dropout_p: FloatSetting = Field(
        description="Dropout in each residual block while training: the probability that a value is dropped.",
        ge=0,
        le=0.95,
    )

    epochs: IntSetting = Field(description="Passes over the training drawings.", ge=1, le=10_000)
    max_steps: IntSetting = Field(
        description="Maximum number of training steps, even if epochs remain, so that the cost does not grow with the "
        "source; 0 is no limit.",
        ge=0,
        le=2**31,
    )
    batch_size: IntSetting = Field(description="Drawings per training step.", ge=1, le=4096)
    optimizer: Literal["muon", "adam"] = Field(
        description="The update of the weights: `muon` (Muon for the hidden kernels, Adam for the rest) or `adam` "
        "(Adam for all, as in the post)."
    )
    learning_rate: FloatSetting = Field(
        description="Adam's initial learning rate. Beside Muon, a small network (num_resnet 1, num_filters 48) needs "
        "about 0.015, the full one 0.003.",
        gt=0,
        le=1,
    )
    muon_learning_rate: FloatSetting = Field(
        description="Muon's initial learning rate; not used with `optimizer: adam`. A small network needs about 0.05, "
        "the full one 0.02.",
        gt=0,
        le=1,
    )
    learning_rate_decay: FloatSetting = Field(
        description="Final learning rates as a share of the initial ones, reached along a cosine; 1 keeps them "
        "constant.",
        ge=0,
        le=1,
    )
    ema_decay: FloatSetting = Field(
        description="Decay of the exponential moving average of the weights, per step; 0 disables averaging.",
        ge=0,
        lt=1,
    )
    clip_norm: FloatSetting = Field(
        description="Maximum gradient norm (of the mean bits per dimension); 0 disables clipping.",
        ge=0,
    )
    input_noise: FloatSetting = Field(
        description="Mean share of the pixels that are replaced by those of another drawing in what the network sees, "
        "in the first three quarters of the training steps; it teaches the network to go on after its own mistakes; 0 "
        "is off.",
        ge=0,
        le=0.5,
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        description="Number format of training's convolutions; bfloat16 is faster and less precise."
    )
    device: Literal["auto", "gpu", "cpu"] = Field(
        description="Where TensorFlow computes; `auto` uses a GPU if one is available, `gpu` requires one."
    )
    deterministic: StrictBool = Field(
        description="Whether a GPU gives the same bits in every run, at the price of slower steps; `python -m "
        "tests.benchmarks.training float32 float32+deterministic` measures how much slower. A CPU always does."
    )
    seed: IntSetting = Field(description="Random seed of weights, shuffling, dropout and samples.", ge=0, le=2**31 - 1)

    samples_per_class: IntSetting = Field(
        description="Number of generated drawings of each class that the report shows.", ge=1, le=10_000
    )
    temperature: FloatSetting = Field(
        description="Sampling temperature: 1 is the model's distribution; lower is less diverse.", gt=0, le=10
    )
    guidance: FloatSetting = Field(
        description="Classifier-free guidance scale: 1 is off; higher exaggerates the class, at twice the sampling "
        "time.",
        ge=1,
        le=100,
    )
    completions_per_class: IntSetting = Field(
        description="Number of held-out drawings of each class whose lower rows the model draws again, twice; 0 is "
        "off. `evaluate` compares these completions with the drawings.",
        ge=0,
        le=10_000,
    )
    completion_rows: Annotated[int, Field(ge=0, le=4096), BeforeValidator(_reject_bool)] | Literal["half"] = Field(
        description="Number of upper rows of a drawing that its completions keep, at most its height; `half` is half "
        "of the height."
    )

    judge_steps: IntSetting = Field(
        description="Training steps, of 64 real drawings each, of the judge, which predicts the class of a drawing.",
        ge=1,
        le=1_000_000,
    )
    judge_seed: IntSetting = Field(
        description="Random seed of the judge; it is separate so that `seed` does not change the judge.",
        ge=0,
        le=2**31 - 1,
    )
    eval_samples_per_class: IntSetting = Field(
        description="Number of generated drawings of each class that are evaluated; the report shows the first ones.",
        ge=1,
        le=10_000,
    )

    # This setting is the last one because DVC drops the comments that follow a list when it rewrites the file.
    classes: tuple[str, ...] = Field(description="Names of the classes to learn, each once.", min_length=1)

    @field_validator("source")
    @classmethod
    def _check_printable(cls, text: str) -> str:
        if not text.isprintable():
            raise ValueError(f"{one_line(repr(text))} contains unprintable characters")
        return text

    @field_validator("source")
    @classmethod
    def _check_source(cls, source: str) -> str:
        if instead := FORMER_SOURCES.get(source):
            raise ValueError(f"{source!r} has another meaning than before; {instead}, or ./{source} for a folder")
        if source.startswith(TFDS) and not is_dataset(source):
            raise ValueError(f"{one_line(repr(source))} does not name a dataset; expected: such as tfds:mnist")
        scheme, separator, _ = source.partition("://")
        if separator and scheme not in ("https", "http", "gs", "s3", "file"):
            raise ValueError(f"{one_line(scheme)}:// is not supported; expected: https, http, gs, s3 or file")
        if separator and not _is_valid_url(source):  # the URL is not shown, as it may contain a password
            raise ValueError(f"the part after {scheme}:// is not an address; expected: {expected('source')}")
        return source

    @field_validator("holdout")
    @classmethod
    def _check_holdout(cls, holdout: float | str, info: Any) -> float | str:
        source = info.data.get("source", TFDS)
        if holdout == "test" and (not source.startswith(TFDS) or source == TFDS_BITMAP):
            raise ValueError("'test' needs a source with a split test, such as tfds:mnist; set it to a number")
        return holdout

    @field_validator("classes", mode="before")
    @classmethod
    def _check_text(cls, classes: object) -> object:
        """Reject names that YAML reads as numbers, for example: `007` and `7` would be the same class."""
        if isinstance(classes, list | tuple) and not all(isinstance(name, str) for name in classes):
            others = [name for name in classes if not isinstance(name, str)]
            verb = "is" if len(others) == 1 else "are"
            shown = one_line(", ".join(map(_display, others[:10])))
            raise ValueError(f'{shown} {verb} not text; put such names in quotes, as in classes=["1", "2"]')
        return classes

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: tuple[str, ...], info: Any) -> tuple[str, ...]:
        classes = tuple(map(check_name, classes))
        for name, count in Counter(classes).items():
            if count > 1:
                raise ValueError(f"{one_line(repr(name))} is listed twice; list each class once")
        # Other sources may have other classes; filter checks those when it reads the source.
        published = info.data.get("source", "").rstrip("/") in (BUCKET, DOODLES, TFDS_BITMAP)
        if published and (unknown := [name for name in classes if name not in labels()]):
            raise ValueError(explain_unknown(unknown, labels(), "Quick, Draw!"))
        return classes


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a settings file. Raises `SettingsError` for a file or a value that cannot be used."""
    return check(read(path), str(path))


def read(path: str | Path = "params.yaml") -> dict[str, Any]:
    """Read a settings file without checking its keys and values. Raises `SettingsError` if it is not YAML."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except FileNotFoundError:
        raise SettingsError(f"{path} is missing: run from the root of the repository") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text") from None
    return parse(text, str(path))


def parse(text: str, source: str) -> dict[str, Any]:
    """Parse settings in YAML 1.2 without checking their keys and values.

    Args:
      text: the YAML text, at most `MAX_CHARACTERS` long.
      source: the name of the text in error messages.

    Raises:
      SettingsError: the text is too long, is not YAML, or is not a mapping.
    """
    if len(text) > MAX_CHARACTERS:
        raise SettingsError(f"{source} has more than {MAX_CHARACTERS:,} characters, the maximum supported")
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.constructor.flatten_mapping = _reject_merge_keys
    try:
        values = yaml.load(text)
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"{source}{line}: not YAML: {one_line(error.problem or error.context)}") from None
    except YAMLError as error:
        raise SettingsError(f"{source}: not YAML: {one_line(error)}") from None
    except RecursionError:
        raise SettingsError(f"{source}: not YAML: nested too deeply") from None
    except Exception as error:  # valid YAML, but not a Python value: 2001-99-99, a number of 5,000 digits
        raise SettingsError(f"{source}: not YAML: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{source} contains no settings; expected: lines of the form `key: value`")
    if isinstance(classes := values.get("classes"), list):  # one form of Unicode, whichever the editor has written
        values["classes"] = [unicodedata.normalize("NFC", name) if isinstance(name, str) else name for name in classes]
    return values


def check(values: Mapping[str, Any], source: str) -> Params:
    """Check the keys and values of settings.

    Args:
      values: the settings by key.
      source: the name of the settings in error messages.

    Raises:
      SettingsError: with one line for each key or value that cannot be used.
      StageError: the class names cannot be read because tensorflow-datasets is not installed.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = dict.fromkeys(_explain(detail) for detail in error.errors())  # a union has one error for each member
        raise SettingsError("\n".join(f"{source}: {line}" for line in lines)) from None


def fingerprint(values: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of a hash of settings, independent of their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def expected(key: str) -> str:
    """Describe the values that a setting can have: `"a whole number from 1 to 20"`."""
    field = Params.model_fields[key]
    return (
        _expected(field.annotation, field.metadata)
        or {
            "source": f"a URL, a folder, {TFDS}NAME, {DOODLES} or {DIGITS}",
            "classes": "a list of one or more class names",
        }[key]
    )


def explain_no_setting(key: str) -> str:
    """Say what to do about a key that is not a setting, in words to follow the key."""
    if instead := FORMER_SETTINGS.get(key):
        return f"is no longer a setting: {instead}"
    return f"is not a setting.{did_you_mean(key, Params.model_fields)}"


def _expected(kind: Any, metadata: Iterable[object]) -> str:
    """Describe the values of a type with bounds; "" for a text or a list."""
    members = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Literal:
            *others, last = members
            return f"{', '.join(others)} or {last}" if others else str(last)
        case typing.Annotated:
            return _expected(members[0], members[1:])
        case typing.Union | types.UnionType:
            return ", or ".join(_expected(member, ()) for member in members)
    if kind is bool:
        return "true or false"
    if kind is not int and kind is not float:
        return ""
    number = "a whole number" if kind is int else "a number"
    match dict(_bounds(metadata)):
        case {"ge": low, "le": high}:
            return f"{number} from {low} to {high}"
        case {"gt": low, "le": high}:
            return f"{number} above {low} and at most {high}"
        case {"ge": low, "lt": high}:
            return f"{number} of at least {low} and below {high}"
        case {"ge": low}:
            return f"{number} of at least {low}"
    return number


def _is_valid_url(url: str) -> bool:
    """Whether a URL has a path (file), a valid host and port (http, https), or a bucket (gs, s3)."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "file":
            return bool(parts.path) and unquote(parts.path).isprintable()
        if parts.scheme in ("http", "https"):
            return bool((parts.hostname or "").encode("idna")) and parts.port != 0
        return bool(parts.netloc)
    except ValueError:
        return False


def _reject_merge_keys(node: Any) -> None:
    """Reject merge keys, which YAML 1.2 lacks: a few lines of them, each merging the previous one, take hours."""
    if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
        raise ValueError("merge keys (<<) are not supported")


def _bounds(metadata: Iterable[object]) -> Iterator[tuple[str, float]]:
    for constraint in metadata:
        if isinstance(constraint, FieldInfo):  # of a member of a union
            yield from _bounds(constraint.metadata)
        for name in ("ge", "gt", "le", "lt"):
            if (bound := getattr(constraint, name, None)) is not None:
                yield name, bound


def _explain(detail: ErrorDetails) -> str:
    """Describe an error of pydantic in one line: the key, the value and what is expected."""
    key, value = detail["loc"][0], detail["input"]
    key = one_line(key) if isinstance(key, str) else _display(key)
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        return f"{key} {explain_no_setting(key)}"
    if detail["type"] == "missing":
        return f"{key} is missing; expected: {expected(key)}"
    if detail["type"] == "value_error" and detail["loc"] in (("source",), ("holdout",), ("classes",)):
        return f"{key}: {detail['ctx']['error']}"
    if isinstance(value, list | tuple) and not value:
        return f"{key} is empty; expected: {expected(key)}"
    entry = detail["loc"][1] if len(detail["loc"]) > 1 else None  # of a list; the name of a type in a union
    location = f"{key}, entry {entry + 1}," if isinstance(entry, int) else key
    return f"{location} is {_display(value)}; expected: {expected(key)}"


def _display(value: object) -> str:
    """Return a short representation of any value. A full one could fill the memory: YAML's aliases expand."""
    try:
        return one_line(_SHORT_REPR.repr(value))
    except ValueError:  # a number with more digits than Python converts to text
        return "a number too long to show"
