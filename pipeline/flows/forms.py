"""The types of the flows' parameters, from the schema of the settings. Prefect's forms and server check them."""

import contextlib
import functools
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo

from pipeline import dvc
from pipeline.run_settings import profiles
from stages import params
from stages.common.errors import UserError, did_you_mean, one_line
from stages.common.urls import hide_secrets
from stages.params import Params
from stages.reporting.html import format_setting

ROOT = Path(__file__).resolve().parents[2]
FIRST = ("source", "classes", "num_drawings")  # the settings that people change most, at the top of a form


@functools.cache
def _values_by_profile() -> dict[str, dict[str, Any]]:
    """The settings of each profile. Without the repository, as in an image of Docker: only its own changes."""
    committed: dict[str, Any] = {}
    with contextlib.suppress(UserError):
        committed = params.parse(dvc.read_committed(ROOT, "params.yaml"), "params.yaml as committed")
    return {name: committed | changes for name, changes in profiles().items()}


def describe_values(key: str) -> str:
    """The value of a setting in each profile: `Profiles: 500000 (full, post), 40000 (quick, laptop).`"""
    names: dict[str, list[str]] = {}
    for profile, values in _values_by_profile().items():
        if key in values:
            names.setdefault(hide_secrets(format_setting(values[key])), []).append(profile)
    if len(names) == 1 and len(*names.values()) == len(profiles()):
        return f"All profiles: {next(iter(names))}."
    values_of_profiles = [f"{value} ({', '.join(of)})" for value, of in names.items()]
    return f"Profiles: {', '.join(values_of_profiles)}." if names else ""


def _as_form(schema: dict[str, Any]) -> None:
    """Adapt the schema of the settings to a form.

    A field without a default starts empty, and is not sent if it stays empty. Its description says which value that is.
    The positions order the fields, as the server does not keep the order of the schema. A setting that is a list, such
    as the classes, lists each value once.
    """
    properties = schema["properties"]
    for position, key in enumerate([*FIRST, *(key for key in properties if key not in FIRST)]):
        properties[key].pop("default", None)
        properties[key]["description"] = f"{properties[key]['description']} {describe_values(key)}".strip()
        properties[key]["position"] = position
        field = properties[key] if schema["title"] == "Settings" else properties[key].get("items", {})  # of a list
        if field.get("type") == "array":
            field["uniqueItems"] = True


class Settings(Params):
    """Changes to the settings of a profile. Settings left empty keep the profile's value."""

    model_config = ConfigDict(json_schema_extra=_as_form)

    def changes(self) -> dict[str, Any]:
        """The settings that were given, with their values as in params.yaml."""
        return self.model_dump(mode="json", exclude_unset=True)


for _field in Settings.model_fields.values():
    _field.default = "" if _field.annotation is str else None  # never used: `changes` returns only the given values
Settings.model_rebuild(force=True)


if TYPE_CHECKING:

    class Grid(BaseModel):
        """The values to try for each setting."""
else:
    Grid = create_model(
        "Grid",
        __doc__="The values to try for each setting. Every combination of them is an experiment.",
        __config__=ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, json_schema_extra=_as_form),
        **{
            name: (
                list[field.rebuild_annotation()],
                Field(default=None, min_length=1, description=field.description),
            )
            for name, field in Params.model_fields.items()
        },
    )


class Range(BaseModel):
    """The numbers to search for a setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    low: Any
    high: Any
    log: StrictBool = Field(False, description="Whether to search in powers, as for a learning rate.")

    @model_validator(mode="after")
    def _check_order(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low is {self.low}, above high, {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log is true, and low is {self.low}; expected: above 0")
        return self


def _number_of(field: FieldInfo) -> Any:
    """The type of the numbers that a setting can be, with their bounds; None if it is never a number."""
    for kind in (field.rebuild_annotation(), *typing.get_args(field.annotation)):
        plain = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
        if plain in (int, float):
            return kind
    return None


def _range_of(key: str, number: Any) -> type[Range]:
    """The range of a setting. A number out of its bounds is refused with the message of the setting."""

    def check(value: object, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise ValueError(f"{key} is {one_line(repr(value))}; expected: {params.expected(key)}") from None

    bound = Annotated[number, WrapValidator(check)]
    return create_model(f"Range of {key}", __base__=Range, low=(bound, ...), high=(bound, ...))


if TYPE_CHECKING:

    class Search(BaseModel):
        """The values to search for each setting."""
else:
    Search = create_model(
        "Search",
        __doc__="The values to search for each setting: a range of numbers, or a list of values to choose from.",
        __config__=ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, json_schema_extra=_as_form),
        **{
            key: (
                _range_of(key, number)
                if (number := _number_of(field)) is not None
                else Annotated[list[field.rebuild_annotation()], Field(min_length=1)],
                Field(default=None, description=field.description),
            )
            for key, field in Params.model_fields.items()
        },
    )


def _is_profile(name: str) -> str:
    if name not in profiles():
        raise ValueError(f"{name!r} is not a profile.{did_you_mean(name, profiles())}")
    return name


Profile = Annotated[str, AfterValidator(_is_profile), WithJsonSchema({"type": "string", "enum": list(profiles())})]
