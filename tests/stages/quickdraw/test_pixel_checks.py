from pathlib import Path

import numpy as np
import pytest

from stages.quickdraw import doodles
from stages.quickdraw.mirrors import Folder, Pixels
from stages.quickdraw.pixel_checks import PixelCheck, Problem

CLASSES = ("bee", "cat", "sun")
IMPORT = "python -m pipeline import WHAT FOLDER"


def drawn(name: str, number: int = 40) -> Pixels:
    """Doodles of a class, (number, 784)."""
    return doodles.draw(name, np.arange(number, dtype=np.int32))


def problems(changes: dict[str, Pixels]) -> list[Problem]:
    """What is found in doodles of three classes, of which some are replaced."""
    check = PixelCheck()
    for name in CLASSES:
        for part in np.array_split(changes.get(name, drawn(name)), 3):
            check.add(name, part)
    return check.problems()


def test_doodles_and_random_pixels_have_no_problem() -> None:
    assert problems({}) == []
    check = PixelCheck()
    for name in doodles.CLASSES:
        check.add(name, drawn(name, 20))
    assert check.problems() == []
    random = np.random.default_rng(0)
    assert problems({name: random.integers(0, 256, (2, 784), np.uint8) for name in CLASSES}) == []


def test_real_drawings_have_no_problem(real_mirror: Path) -> None:
    mirror = Folder(real_mirror)
    check = PixelCheck()
    for name, count in mirror.counts().items():
        count = min(count, 400)
        pixels = np.empty((count, 784), np.uint8)
        mirror.read_rows(name, np.arange(count, dtype=np.int32), pixels)
        check.add(name, pixels)
    assert check.problems() == []


@pytest.mark.parametrize(("upper", "divisor"), [(1, 255), (16, 16)])
def test_values_on_another_scale_are_an_error(upper: int, divisor: int) -> None:
    rest = f"is above {upper}, where paper is 0 and ink is 255; convert the files: {IMPORT}"
    scaled = {name: drawn(name) // divisor for name in CLASSES}
    assert problems(scaled) == [Problem(f"no pixel of all classes {rest}", True)]
    assert problems({"cat": scaled["cat"]}) == [Problem(f"no pixel of 'cat' {rest}", True)]


def test_blank_drawings_are_an_error_only_if_a_class_has_no_others() -> None:
    blank = np.zeros((40, 784), np.uint8)
    text = "all drawings of 'bee' and 'sun' are blank; replace the files, or choose other classes"
    assert problems({"bee": blank, "sun": blank}) == [Problem(text, True)]
    assert problems({"bee": np.concatenate([blank, drawn("bee", 1)])}) == []


def test_inverted_ink_is_an_error_in_all_classes_and_a_warning_in_one() -> None:
    rest = f"is ink, and people's drawings have 5% to 29%; if they are dark on light, invert them: {IMPORT} --invert"
    [everywhere] = problems({name: 255 - drawn(name) for name in CLASSES})
    assert everywhere.is_error
    assert everywhere.message.endswith(f"of the paper of all classes {rest}")
    [in_one] = problems({"cat": 255 - drawn("cat")})
    assert not in_one.is_error
    assert in_one.message.endswith(f"of the paper of 'cat' {rest}")


def test_ink_is_not_checked_in_colour_and_the_rest_is() -> None:
    bright = np.random.default_rng(0).integers(200, 256, (20, 32 * 32 * 3), np.uint8)
    dark = bright % 2

    def found(**drawings: Pixels) -> list[str]:
        check = PixelCheck(grey=False)
        for name, array in drawings.items():
            check.add(name, array)
        assert all(problem.is_error for problem in check.problems())
        return [problem.message for problem in check.problems()]

    assert found(cat=bright[:10], dog=bright[10:]) == []
    assert found(cat=bright[:10], dog=dark[10:]) == [
        f"no pixel of 'dog' is above 1, where black is 0 and white is 255; convert the files: {IMPORT}"
    ]
    assert found(cat=bright[:10], dog=bright[10:11].repeat(10, axis=0)) == [
        "all drawings of 'dog' are one picture, repeated; replace the files, or choose other classes"
    ]
    [copied] = found(cat=bright, dog=bright[:10])
    assert copied.startswith("10 of the 10 drawings of 'dog' are also in other classes, most of them in 'cat'")


def test_one_picture_repeated_is_an_error_if_it_is_no_chance() -> None:
    text = "all drawings of 'cat' are one picture, repeated; replace the files, or choose other classes"
    assert problems({"cat": drawn("cat", 1).repeat(10, axis=0)}) == [Problem(text, True)]
    assert problems({"cat": drawn("cat", 1).repeat(9, axis=0)}) == []
    assert problems({"cat": np.concatenate([drawn("cat", 2), drawn("cat", 1).repeat(20, axis=0)])}) == []


@pytest.mark.parametrize(
    ("copied", "of", "is_error"), [(10, 100, None), (11, 100, False), (49, 100, False), (50, 100, True), (9, 10, None)]
)
def test_drawings_that_are_also_in_another_class(copied: int, of: int, is_error: bool | None) -> None:
    cats = np.concatenate([drawn("sun", copied), drawn("cat", of - copied)])
    found = problems({"cat": cats, "sun": drawn("sun", 200)})
    text = (
        f"{copied} of the {of} drawings of 'cat' are also in other classes, most of them in 'sun'; one of the files is "
        "probably a copy: replace it, or leave out a class"
    )
    assert found == ([] if is_error is None else [Problem(text, is_error)])


def test_errors_come_before_warnings() -> None:
    levels = [problem.is_error for problem in problems({"bee": 255 - drawn("bee"), "sun": drawn("cat")})]
    assert levels == [True, False]
