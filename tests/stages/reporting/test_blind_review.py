"""The questions of a blind review, and what the files of answers come to."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stages.common.errors import StageError
from stages.reporting import blind_review
from stages.reporting.blind_review import PAIRS, SINGLES, Question

HASH = "ab" * 32
ASKED = [Question(0, 0, 0, left, not left) for left in (True, False, True, True)]


def test_questions_are_of_all_classes_and_of_drawings_that_are_not_shown() -> None:
    asked = blind_review.questions([40] * 20, [24] * 20, shown=8, seed=3)
    assert len(asked) == blind_review.QUESTIONS
    assert set(Counter(question.place for question in asked).values()) == {2}
    assert all(question.real >= 8 and question.generated >= 8 for question in asked)
    assert len({(question.place, question.real) for question in asked}) == len(asked)
    assert 8 <= sum(question.left for question in asked) <= 32
    assert 8 <= sum(question.single for question in asked) <= 32
    assert asked == blind_review.questions([40] * 20, [24] * 20, shown=8, seed=3)
    assert asked != blind_review.questions([40] * 20, [24] * 20, shown=8, seed=4)


def test_few_drawings_make_few_questions() -> None:
    assert len(blind_review.questions([1, 3], [5, 2], shown=8, seed=0)) == 3
    assert blind_review.questions([0], [5], shown=8, seed=0) == []
    assert len(blind_review.questions([9] * 345, [9] * 345, shown=8, seed=0)) == blind_review.QUESTIONS


def write(folder: Path, **changes: Any) -> Path:
    said = {"questions": HASH, "mode": PAIRS, "reviewer": "one", "answers": [[0, True], [1, True], [2, True]]}
    path = folder / "a.json"
    path.write_text(json.dumps(said | changes), encoding="utf-8")
    return path


def test_answers_are_held_against_the_questions(tmp_path: Path) -> None:
    write(tmp_path)
    [review], others = blind_review.read(HASH, ASKED, tmp_path)
    assert (review.reviewer, review.mode, others) == ("one", PAIRS, 0)
    assert review.score[:2] == (2, 3)
    assert (round(review.score.low, 2), round(review.score.high, 2)) == (0.21, 0.94)
    write(tmp_path, mode=SINGLES)
    [review], _ = blind_review.read(HASH, ASKED, tmp_path)
    assert review.score[:2] == (1, 3)


@pytest.mark.parametrize("other", ["0" * 64, "", None, [HASH]])
def test_answers_to_other_questions_are_set_aside(tmp_path: Path, other: Any) -> None:
    write(tmp_path, questions=other, answers="anything")
    assert blind_review.read(HASH, ASKED, tmp_path) == ([], 1)


def test_so_are_files_that_name_their_samples_alone(tmp_path: Path) -> None:
    said = {"samples": HASH, "mode": PAIRS, "reviewer": "one", "answers": [[0, True]]}
    (tmp_path / "a.json").write_text(json.dumps(said), encoding="utf-8")
    assert blind_review.read(HASH, ASKED, tmp_path) == ([], 1)


def test_a_file_whose_name_cannot_be_printed(tmp_path: Path) -> None:
    write(tmp_path).rename(tmp_path / "\x1b[2J\n.json")
    with pytest.raises(StageError, match="its name cannot be printed") as caught:
        blind_review.read(HASH, ASKED, tmp_path)
    assert str(caught.value).isprintable()


def test_no_folder_is_no_review(tmp_path: Path) -> None:
    assert blind_review.read(HASH, ASKED, tmp_path / "none") == ([], 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "guesses"},
        {"answers": []},
        {"answers": [[4, True]]},
        {"answers": [[-1, True]]},
        {"answers": [[0, "left"]]},
        {"answers": [[True, True]]},
        {"answers": [0]},
        {"answers": [[[], True]]},
        {"answers": None},
        {"mode": []},
    ],
)
def test_a_file_that_is_no_review_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(StageError, match="is no review") as caught:
        blind_review.read(HASH, ASKED, tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"samples": 1'])
def test_neither_is_anything_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StageError, match="is no review"):
        blind_review.read(HASH, ASKED, tmp_path)
