"""The types of the flows' parameters, from the schema of the settings. Prefect's forms and server check them."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from pipeline.run_settings import profiles
from stages.common.errors import did_you_mean
from stages.params import Params


def _without_default(schema: dict[str, Any]) -> None:
    """Remove the default: a form then starts empty and does not send the fields that are left empty."""
    schema.pop("default", None)


class Settings(Params):
    """Changes to the settings of a profile. Settings left empty keep the profile's value."""

    def changes(self) -> dict[str, Any]:
        """The settings that were given, with their values as in params.yaml."""
        return self.model_dump(mode="json", exclude_unset=True)


for _field in Settings.model_fields.values():
    _field.default = "" if _field.annotation is str else None  # never used: `changes` returns only the given values
    _field.json_schema_extra = _without_default
Settings.model_rebuild(force=True)


if TYPE_CHECKING:

    class Grid(BaseModel):
        """The values to try for each setting."""
else:
    Grid = create_model(
        "Grid",
        __doc__="The values to try for each setting. Every combination of them is an experiment.",
        __config__=ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False),
        **{
            name: (
                list[field.rebuild_annotation()],
                Field(default=None, min_length=1, description=field.description, json_schema_extra=_without_default),
            )
            for name, field in Params.model_fields.items()
        },
    )


def _is_profile(name: str) -> str:
    if name not in profiles():
        raise ValueError(f"{name!r} is not a profile.{did_you_mean(name, profiles())}")
    return name


Profile = Annotated[str, AfterValidator(_is_profile), WithJsonSchema({"type": "string", "enum": list(profiles())})]
