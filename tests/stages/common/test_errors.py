import pytest

from stages.common.errors import SettingsError, StageError, did_you_mean
from stages.quickdraw.labels import labels


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("bycicle", "bicycle"),  # difflib alone suggests "circle"
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
def test_the_closest_class_is_suggested(name: str, suggestion: str) -> None:
    assert did_you_mean(name, labels()) == f" Did you mean {suggestion!r}?"


@pytest.mark.parametrize("name", ["", "qqqqqqq", "grandmother's house on the hill"])
def test_nothing_is_suggested_if_no_class_is_close(name: str) -> None:
    assert did_you_mean(name, labels()) == ""


def test_exit_codes() -> None:
    assert (StageError.exit_code, SettingsError.exit_code) == (1, 2)
    assert issubclass(SettingsError, StageError)
