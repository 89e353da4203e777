"""The parameters of the flows: the settings' own schema, with every one optional, as a form and a server check it."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from pipeline.settings import profiles
from stages.common.errors import did_you_mean
from stages.params import Params


def _without_default(schema: dict[str, Any]) -> None:
    """A form starts empty, and what is left empty is not sent."""
    schema.pop("default", None)


class Settings(Params):
    """Changes to the settings of a profile; what is left out stays as it is there."""

    def changes(self) -> dict[str, Any]:
        """The keys and values that were given, as params.yaml holds them."""
        return self.model_dump(mode="json", exclude_unset=True)


for _field in Settings.model_fields.values():
    _field.default = "" if _field.annotation is str else None  # never read: `changes` takes what was given
    _field.json_schema_extra = _without_default
Settings.model_rebuild(force=True)


if TYPE_CHECKING:

    class Grid(BaseModel):
        """For each of some settings, the values to try."""
else:
    Grid = create_model(
        "Grid",
        __doc__="For each of some settings, the values to try: every combination of them is an experiment.",
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
        raise ValueError(f"{name!r} is no profile.{did_you_mean(name, profiles())}")
    return name


Profile = Annotated[str, AfterValidator(_is_profile), WithJsonSchema({"type": "string", "enum": list(profiles())})]
