"""The blind review: the questions, and the scores of saved reviews."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stages.common.errors import StageError
from stages.reporting import blind_review
from stages.reporting.blind_review import PAIRS, SINGLES, Question

HASH = "ab" * 32
QUESTIONS = [Question(0, 0, 0, left, not left) for left in (True, False, True, True)]


def test_questions_cover_all_classes_and_use_drawings_that_are_not_shown() -> None:
    questions = blind_review.make_questions([40] * 20, [24] * 20, shown=8, seed=3)
    assert len(questions) == blind_review.MAX_QUESTIONS
    assert set(Counter(question.class_index for question in questions).values()) == {2}
    assert all(question.real >= 8 and question.generated >= 8 for question in questions)
    assert len({(question.class_index, question.real) for question in questions}) == len(questions)
    assert 8 <= sum(question.left_is_generated for question in questions) <= 32
    assert 8 <= sum(question.single_is_generated for question in questions) <= 32
    assert questions == blind_review.make_questions([40] * 20, [24] * 20, shown=8, seed=3)
    assert questions != blind_review.make_questions([40] * 20, [24] * 20, shown=8, seed=4)


def test_few_drawings_give_few_questions() -> None:
    assert len(blind_review.make_questions([1, 3], [5, 2], shown=8, seed=0)) == 3
    assert blind_review.make_questions([0], [5], shown=8, seed=0) == []
    assert len(blind_review.make_questions([9] * 345, [9] * 345, shown=8, seed=0)) == blind_review.MAX_QUESTIONS


def write(folder: Path, **changes: Any) -> Path:
    review = {"questions": HASH, "mode": PAIRS, "reviewer": "A Person", "answers": [[0, True], [1, True], [2, True]]}
    path = folder / "a.json"
    path.write_text(json.dumps(review | changes), encoding="utf-8")
    return path


def test_answers_are_scored(tmp_path: Path) -> None:
    write(tmp_path)
    [review], other_reviews = blind_review.read(HASH, QUESTIONS, tmp_path)
    assert (review.reviewer, review.mode, other_reviews) == ("A Person", PAIRS, 0)
    assert review.score[:2] == (2, 3)
    assert (round(review.score.low, 2), round(review.score.high, 2)) == (0.21, 0.94)
    write(tmp_path, mode=SINGLES)
    [review], _ = blind_review.read(HASH, QUESTIONS, tmp_path)
    assert review.score[:2] == (1, 3)


@pytest.mark.parametrize("other", ["0" * 64, "", None, [HASH]])
def test_answers_to_other_questions_are_counted_separately(tmp_path: Path, other: Any) -> None:
    write(tmp_path, questions=other, answers="anything")
    assert blind_review.read(HASH, QUESTIONS, tmp_path) == ([], 1)


def test_reviews_in_the_first_format_count_as_other_reviews(tmp_path: Path) -> None:
    review = {"samples": HASH, "mode": PAIRS, "reviewer": "A Person", "answers": [[0, True]]}
    (tmp_path / "a.json").write_text(json.dumps(review), encoding="utf-8")
    assert blind_review.read(HASH, QUESTIONS, tmp_path) == ([], 1)


def test_a_file_name_that_cannot_be_printed_is_an_error(tmp_path: Path) -> None:
    write(tmp_path).rename(tmp_path / "\x1b[2J\n.json")
    with pytest.raises(StageError, match="its name cannot be printed") as caught:
        blind_review.read(HASH, QUESTIONS, tmp_path)
    assert str(caught.value).isprintable()


def test_a_missing_folder_has_no_reviews(tmp_path: Path) -> None:
    assert blind_review.read(HASH, QUESTIONS, tmp_path / "none") == ([], 0)


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
def test_an_invalid_review_is_an_error_that_names_the_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(StageError, match="is not a review") as caught:
        blind_review.read(HASH, QUESTIONS, tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"samples": 1'])
def test_a_file_of_other_content_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StageError, match="is not a review"):
        blind_review.read(HASH, QUESTIONS, tmp_path)
