import pytest

from stages.common.errors import SettingsError, StageError, did_you_mean
from stages.quickdraw.labels import labels


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("bycicle", "bicycle"),  # by difflib alone: "circle"
        ("bicyle", "bicycle"),
        ("eiffel tower", "The Eiffel Tower"),
        ("Bee", "bee"),
        (" tree ", "tree"),
        ("seaturtle", "sea turtle"),
        ("rollerskate", "rollerskates"),
        ("snow flake", "snowflake"),
        ("lightening", "lightning"),
    ],
)
def test_the_nearest_class_is_suggested(typed: str, meant: str) -> None:
    assert did_you_mean(typed, labels()) == f" Did you mean {meant!r}?"


@pytest.mark.parametrize("typed", ["", "qqqqqqq", "grandmother's house on the hill"])
def test_nothing_is_suggested_where_nothing_is_near(typed: str) -> None:
    assert did_you_mean(typed, labels()) == ""


def test_exit_codes() -> None:
    assert (StageError.exit_code, SettingsError.exit_code) == (1, 2)
    assert issubclass(SettingsError, StageError)
