"""Blind review: which drawings a reviewer is shown without being told, and what the files of answers come to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.common.errors import StageError, one_line
from stages.metrics.intervals import of_share

FOLDER = Path("reviews")
QUESTIONS = 40
MAX_BYTES = 100_000  # bytes of a file of answers, which has a few thousand
PAIRS, SINGLES = "pairs", "singles"


class Question(NamedTuple):
    """A real and a generated drawing of one class, side by side.

    Attributes:
      place: of the class among the classes.
      real, generated: which drawing of each, by its number in the class.
      left: whether the generated one is on the left, in review by pairs.
      single: whether it is the generated one that is shown, in review one by one.
    """

    place: int
    real: int
    generated: int
    left: bool
    single: bool


class Score(NamedTuple):
    """How many answers were right, and the 95% interval of the share (Wilson 1927)."""

    right: int
    answers: int
    low: float
    high: float


@dataclass(frozen=True)
class Review:
    """What one reviewer told apart."""

    reviewer: str
    mode: str
    score: Score


def questions(real: Sequence[int], generated: Sequence[int], shown: int, seed: int) -> list[Question]:
    """The questions, in the order they are put: as many of each class, at most QUESTIONS.

    Args:
      real, generated: how many drawings there are of each class. Those that the page does not show are asked about
        first; the first `shown` of each are on the page.
    """
    random = np.random.default_rng(seed)
    of_each = max(1, QUESTIONS // len(real))

    def some(there: int) -> list[int]:
        unseen = shown + random.permutation(max(there - shown, 0))
        return [int(number) for number in (*unseen, *random.permutation(min(shown, there)))][:of_each]

    pairs = [
        (place, *numbers)
        for place in range(len(real))
        for numbers in zip(some(real[place]), some(generated[place]), strict=False)
    ]
    order = random.permutation(len(pairs))[:QUESTIONS]
    coins: npt.NDArray[np.bool_] = random.random((len(order), 2)) < 0.5
    return [Question(*pairs[i], *map(bool, coin)) for i, coin in zip(order, coins, strict=True)]


def paths(folder: Path = FOLDER) -> list[Path]:
    """The files of answers."""
    return sorted(folder.glob("*.json"))


def read(asked_hash: str, asked: Sequence[Question], folder: Path = FOLDER) -> tuple[list[Review], int]:
    """The reviews of these questions, by the hash of what is asked and shown, and how many files are of other ones.

    Raises:
      StageError: a file is no review.
    """
    reviews, others = [], 0
    for path in paths(folder):
        try:
            if not path.name.isprintable():  # the page names it
                raise ValueError("its name cannot be printed")
            if not path.is_file():  # a pipe would never answer, and some devices never end
                raise ValueError("it is not a file")
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
            said: Any = json.loads(content.decode("utf-8"))
            reviewer = str(said["reviewer"])[:80].encode("utf-8", "replace").decode("utf-8")  # half a character is none
            if said.get("questions", "") != asked_hash:  # the first files named their samples alone
                others += 1
                continue
            reviews.append(Review(reviewer, said["mode"], _score(said, asked)))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else one_line(error, 200)
            raise StageError(f"{one_line(path, 200)} is no review ({reason}): take it out of {folder}") from None
    return reviews, others


def _score(said: Mapping[str, Any], asked: Sequence[Question]) -> Score:
    """The score of a review's answers, each `[question, answer]`.

    By pairs an answer is whether the left one was said to be generated, one by one whether the one shown was.
    """
    if said["mode"] not in (PAIRS, SINGLES):
        raise ValueError(f"its mode is {said['mode']!r:.40}")
    answers = dict(said["answers"])
    if not answers or not all(type(q) is int and 0 <= q < len(asked) and type(a) is bool for q, a in answers.items()):
        raise ValueError("its answers are not to the questions of this page")
    truth = [question.left if said["mode"] == PAIRS else question.single for question in asked]
    return score(sum(truth[question] == answer for question, answer in answers.items()), len(answers))


def score(right: int, answers: int) -> Score:
    """The score of so many right answers."""
    _, low, high = of_share(right / answers, answers)
    return Score(right, answers, low, high)
