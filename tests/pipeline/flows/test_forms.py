"""The parameters of the flows: what a form shows and a server checks."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.flows.forms import Grid, Settings
from stages.params import Params
from tests.settings import FULL

SHOWN: dict[str, Any] = Params.model_json_schema()["properties"]


def test_a_form_has_every_setting_with_its_bounds_and_meaning_and_none_is_required() -> None:
    schema = Settings.model_json_schema()
    assert schema["properties"] == SHOWN
    assert "required" not in schema
    assert schema["additionalProperties"] is False


def test_a_grid_has_a_list_for_every_setting() -> None:
    for key, shown in Grid.model_json_schema()["properties"].items():
        own = {"title", "description"}
        assert shown["items"] == {name: value for name, value in SHOWN[key].items() if name not in own}
        assert (shown["description"], shown["minItems"]) == (SHOWN[key]["description"], 1)


def test_the_settings_themselves_stay_required() -> None:
    assert set(Params.model_json_schema()["required"]) == FULL.keys()


def test_only_what_is_given_is_a_change() -> None:
    assert Settings.model_validate({}).changes() == {}
    given = {"num_resnet": 3, "classes": ["bee"], "prefetch": False, "mirror": "doodles"}
    assert Settings.model_validate(given).changes() == given


@pytest.mark.parametrize("wrong", [{"num_resnet": 0}, {"num_resnt": 1}, {"classes": ["bee", "bee"]}, {"seed": None}])
def test_a_change_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Settings.model_validate(wrong)
