"""The blind review: choose the questions, and score the answers that reviewers saved.

A reviewer sees drawings without knowing whether they are real or generated, and answers which are generated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.errors import StageError, one_line
from stages.metrics.intervals import estimate_share

FOLDER = Path("reviews")
MAX_QUESTIONS = 40
MAX_BYTES = 100_000  # of a review file; a real one has a few thousand
PAIRS, SINGLES = "pairs", "singles"


class Question(NamedTuple):
    """A real and a generated drawing of one class.

    Attributes:
      class_index: the class's position among the run's classes.
      real, generated: the index of each drawing within the class.
      left_is_generated: whether the generated drawing is on the left, in the mode PAIRS.
      single_is_generated: whether the drawing shown is the generated one, in the mode SINGLES.
    """

    class_index: int
    real: int
    generated: int
    left_is_generated: bool
    single_is_generated: bool


class Score(NamedTuple):
    """The number of correct answers, and Wilson's 95% interval (1927) of their share."""

    correct: int
    answers: int
    low: float
    high: float


@dataclass(frozen=True)
class Review:
    """The score of one saved review."""

    reviewer: str
    mode: str
    score: Score


def make_questions(real: Sequence[int], generated: Sequence[int], shown: int, seed: int) -> list[Question]:
    """Choose the questions in random order: equally many of each class, at most MAX_QUESTIONS in total.

    Args:
      real, generated: the number of drawings of each class.
      shown: how many drawings of each class the page shows. The questions prefer drawings that it does not show.
      seed: random seed.
    """
    random = np.random.default_rng(seed)
    per_class = max(1, MAX_QUESTIONS // len(real))

    def choose(number: int) -> list[int]:
        not_shown = shown + random.permutation(max(number - shown, 0))
        return [int(index) for index in (*not_shown, *random.permutation(min(shown, number)))][:per_class]

    pairs = [
        (class_index, *indices)
        for class_index in range(len(real))
        for indices in zip(choose(real[class_index]), choose(generated[class_index]), strict=False)
    ]
    order = random.permutation(len(pairs))[:MAX_QUESTIONS]
    coin_flips: npt.NDArray[np.bool_] = random.random((len(order), 2)) < 0.5
    return [Question(*pairs[i], *map(bool, flips)) for i, flips in zip(order, coin_flips, strict=True)]


def review_files(folder: Path = FOLDER) -> list[Path]:
    """The saved reviews."""
    return sorted(folder.glob("*.json"))


def read(review_hash: str, questions: Sequence[Question], folder: Path = FOLDER) -> tuple[list[Review], int]:
    """Read and score the saved reviews.

    Args:
      review_hash: identifies the questions and the drawings that they show.
      questions: the questions of this run.
      folder: where the reviews are.

    Returns:
      The reviews of these questions, and the number of reviews of other questions.

    Raises:
      StageError: a file is not a review.
    """
    reviews, other_reviews = [], 0
    for path in review_files(folder):
        try:
            if not path.name.isprintable():  # the page shows the name
                raise ValueError("its name cannot be printed")
            if not path.is_file():  # reading a pipe may block, and some devices have no end
                raise ValueError("it is not a file")
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
            saved: Any = json.loads(content.decode("utf-8"))
            # Replace lone surrogates, which UTF-8 cannot encode.
            reviewer = str(saved["reviewer"])[:80].encode("utf-8", "replace").decode("utf-8")
            if saved.get("questions", "") != review_hash:  # the first version saved a hash of the samples alone
                other_reviews += 1
                continue
            reviews.append(Review(reviewer, saved["mode"], _score_answers(saved, questions)))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else one_line(error, 200)
            raise StageError(f"{one_line(path, 200)} is not a review ({reason}): remove it from {folder}") from None
    return reviews, other_reviews


def _score_answers(saved: Mapping[str, Any], questions: Sequence[Question]) -> Score:
    """The score of a review's answers, each `[question index, answer]`.

    The answer True means "the left drawing is generated" (PAIRS) or "this drawing is generated" (SINGLES).
    """
    if saved["mode"] not in (PAIRS, SINGLES):
        raise ValueError(f"its mode is {saved['mode']!r:.40}")
    answers = dict(saved["answers"])
    valid = all(type(q) is int and 0 <= q < len(questions) and type(a) is bool for q, a in answers.items())
    if not answers or not valid:
        raise ValueError("its answers do not match the questions of this page")
    is_pairs = saved["mode"] == PAIRS
    truth = [question.left_is_generated if is_pairs else question.single_is_generated for question in questions]
    return score(sum(truth[question] == answer for question, answer in answers.items()), len(answers))


def score(correct: int, answers: int) -> Score:
    """The score of a number of correct answers."""
    _, low, high = estimate_share(correct / answers, answers)
    return Score(correct, answers, low, high)
