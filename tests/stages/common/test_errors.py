import pytest

from stages.common.errors import DivergedError, SettingsError, StageError, counted, did_you_mean, list_names
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


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 drawings"), (1, "1 drawing"), (2, "2 drawings"), (1200, "1,200 drawings")]
)
def test_a_number_has_its_noun_in_the_singular_or_the_plural(number: int, text: str) -> None:
    assert counted(number, "drawing") == text


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["bee"], "'bee'"),
        (["bee", "cat"], "'bee' and 'cat'"),
        (["bee", "cat", "sun"], "'bee', 'cat' and 'sun'"),
        (["bee", "cat", "sun", "tree", "swan"], "'bee', 'cat', 'sun' and 2 more"),
    ],
)
def test_names_are_listed_in_one_line(names: list[str], text: str) -> None:
    assert list_names(names, max_names=3) == text


def test_exit_codes() -> None:
    assert (StageError.exit_code, SettingsError.exit_code, DivergedError.exit_code) == (1, 2, 3)
    assert issubclass(SettingsError, StageError)
