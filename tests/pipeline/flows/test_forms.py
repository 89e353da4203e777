"""The parameters of the flows: the schema that forms show and the server checks."""

import re
from typing import Any

import pytest
from prefect.utilities import schema_tools
from pydantic import BaseModel, ValidationError

from pipeline.flows import sweep
from pipeline.flows.forms import Grid, Search, Settings
from pipeline.run_settings import profiles
from stages.params import Params
from stages.reporting.html import format_setting
from tests.settings import FULL

PROPERTIES: dict[str, Any] = Params.model_json_schema()["properties"]


ADDED = ("position", "uniqueItems")  # by the forms


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field without what only forms have."""
    description = re.sub(r" (All profiles|Profiles): .+", "", schema["description"])
    return {key: value for key, value in schema.items() if key not in ADDED} | {"description": description}


def test_a_form_has_every_setting_with_its_bounds_and_description_and_none_is_required() -> None:
    schema = Settings.model_json_schema()
    assert {key: plain(field) for key, field in schema["properties"].items()} == PROPERTIES
    assert "required" not in schema
    assert schema["additionalProperties"] is False


def test_a_grid_has_a_list_for_every_setting() -> None:
    for key, schema in Grid.model_json_schema()["properties"].items():
        item_schema = {name: value for name, value in PROPERTIES[key].items() if name not in ("title", "description")}
        assert {name: value for name, value in schema["items"].items() if name not in ADDED} == item_schema
        assert (plain(schema)["description"], schema["minItems"]) == (PROPERTIES[key]["description"], 1)


@pytest.mark.parametrize("form", [Settings, Grid, Search])
def test_a_field_says_the_value_of_each_profile(form: type[BaseModel]) -> None:
    fields = form.model_json_schema()["properties"]
    assert fields["num_drawings"]["description"].endswith(" Profiles: 500000 (full, post), 40000 (quick, laptop).")
    assert fields["holdout"]["description"].endswith(" All profiles: 0.1.")
    assert fields["prefetch"]["description"].endswith(" All profiles: false.")
    assert fields["classes"]["description"].endswith(f" All profiles: {', '.join(FULL['classes'])}.")
    for key, field in fields.items():
        for profile, changes in profiles().items():
            value = format_setting((FULL | changes)[key])
            assert re.search(
                rf"All profiles: {re.escape(value)}\.|[ :]{re.escape(value)} \([^)]*\b{profile}\b", field["description"]
            )


@pytest.mark.parametrize("form", [Settings, Grid, Search])
def test_what_people_change_most_is_at_the_top(form: type[BaseModel]) -> None:
    fields = form.model_json_schema()["properties"]
    order = sorted(fields, key=lambda key: fields[key]["position"])
    assert order == ["source", "classes", "num_drawings", *(key for key in FULL if key not in order[:3])]


def test_the_settings_of_a_run_remain_required() -> None:
    assert set(Params.model_json_schema()["required"]) == FULL.keys()


def test_only_the_given_settings_are_changes() -> None:
    assert Settings.model_validate({}).changes() == {}
    changes = {"num_resnet": 3, "classes": ["bee"], "prefetch": False, "source": "doodles"}
    assert Settings.model_validate(changes).changes() == changes


@pytest.mark.parametrize("parameter", ["settings", "grid", "runs", "search"])
def test_the_server_rejects_a_class_that_is_listed_twice(parameter: str) -> None:
    def validate(classes: list[str]) -> None:
        value: Any = {
            "settings": {"classes": classes},
            "grid": {"classes": [["bee"], classes]},
            "search": {"classes": [["bee"], classes]},
        }.get(parameter)
        parameters = {parameter: value or [{"classes": classes}]}
        schema_tools.validate(parameters, sweep.sweep.parameters.model_dump_for_openapi(), raise_on_error=True)

    validate(["bee", "cat"])
    with pytest.raises(schema_tools.ValidationError, match="non-unique"):
        validate(["bee", "bee"])


@pytest.mark.parametrize("changes", [{"num_resnet": 0}, {"num_resnt": 1}, {"classes": ["bee", "bee"]}, {"seed": None}])
def test_an_invalid_change_is_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        Settings.model_validate(changes)


def test_a_search_has_a_range_for_every_number_and_a_list_for_every_choice() -> None:
    schema = Search.model_json_schema()
    for key, field in schema["properties"].items():
        numbers = [
            kind for kind in PROPERTIES[key].get("anyOf", [PROPERTIES[key]]) if kind["type"] in ("integer", "number")
        ]
        if not numbers:
            assert field["minItems"] == 1 and field["items"]["type"] == PROPERTIES[key]["type"]
            continue
        limits = schema["$defs"][field["$ref"].rpartition("/")[2]]["properties"]
        for name in ("low", "high"):
            bounds = {word: value for word, value in numbers[0].items() if word not in ("title", "description")}
            assert {word: value for word, value in limits[name].items() if word != "title"} == bounds
        assert limits["log"]["type"] == "boolean"


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"num_resnet": {"low": 1, "high": 21}}, "num_resnet is 21; expected: a whole number from 1 to 20"),
        ({"num_resnet": {"low": 1.5, "high": 2}}, "num_resnet is 1.5; expected: a whole number from 1 to 20"),
        ({"learning_rate": {"low": 0, "high": 1}}, "learning_rate is 0; expected: a number above 0 and at most 1"),
        ({"holdout": {"low": True, "high": 0.5}}, "holdout is True; expected: a number from 0.01 to 0.5, or test"),
        ({"num_resnet": {"low": 3, "high": 2}}, "low is 3, above high, 2"),
        ({"dropout_p": {"low": 0, "high": 0.5, "log": True}}, "log is true, and low is 0.0; expected: above 0"),
        ({"num_resnet": {"low": 1}}, "num_resnet.high\n  Field required"),
        ({"optimizer": []}, "optimizer\n  List should have at least 1 item"),
        ({"optimizer": ["sgd"]}, "Input should be 'muon' or 'adam'"),
        ({"num_resnt": {"low": 1, "high": 2}}, "num_resnt\n  Extra inputs are not permitted"),
    ],
)
def test_a_search_outside_what_a_setting_takes_is_rejected(ranges: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Search.model_validate(ranges)
