"""The parameters of the flows: the schema that forms show and the server checks."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.flows.forms import Grid, Settings
from stages.params import Params
from tests.settings import FULL

PROPERTIES: dict[str, Any] = Params.model_json_schema()["properties"]


def test_a_form_has_every_setting_with_its_bounds_and_description_and_none_is_required() -> None:
    schema = Settings.model_json_schema()
    assert schema["properties"] == PROPERTIES
    assert "required" not in schema
    assert schema["additionalProperties"] is False


def test_a_grid_has_a_list_for_every_setting() -> None:
    for key, schema in Grid.model_json_schema()["properties"].items():
        item_schema = {name: value for name, value in PROPERTIES[key].items() if name not in ("title", "description")}
        assert schema["items"] == item_schema
        assert (schema["description"], schema["minItems"]) == (PROPERTIES[key]["description"], 1)


def test_the_settings_of_a_run_remain_required() -> None:
    assert set(Params.model_json_schema()["required"]) == FULL.keys()


def test_only_the_given_settings_are_changes() -> None:
    assert Settings.model_validate({}).changes() == {}
    changes = {"num_resnet": 3, "classes": ["bee"], "prefetch": False, "mirror": "doodles"}
    assert Settings.model_validate(changes).changes() == changes


@pytest.mark.parametrize("changes", [{"num_resnet": 0}, {"num_resnt": 1}, {"classes": ["bee", "bee"]}, {"seed": None}])
def test_an_invalid_change_is_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        Settings.model_validate(changes)
