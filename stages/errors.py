"""The errors a person is meant to read. Everything else that is raised is a defect."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class StageError(Exception):
    """A message for a person: what is wrong, where, and what to do. The command prints it as one line."""

    exit_code: ClassVar[int] = 1


class SettingsError(StageError):
    """A setting that cannot be used: the message names its key, its value and what is permitted."""

    exit_code: ClassVar[int] = 2


def one_line(text: object, longest: int = 100) -> str:
    """A text that may be anything as one line, no longer than that, which does nothing to a terminal but show."""
    words = "".join(sign if sign.isprintable() else "�" for sign in " ".join(str(text).split()))
    return words if len(words) <= longest else words[: longest - 1] + "…"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'bicycle'?"` for the known name nearest to `name`, or nothing where none is near."""
    if len(name) > 100:  # nobody means a name with that, and to look for the nearest would take for ever
        return ""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    folded = name.strip().casefold()
    near = difflib.get_close_matches(folded, by_folded, n=5)
    # difflib alone holds "bycicle" nearer to "circle" than to "bicycle"; of what it finds, the fewest edits win.
    return f" Did you mean {by_folded[min(near, key=lambda found: _edits(folded, found))]!r}?" if near else ""


def _edits(one: str, other: str) -> int:
    """The Levenshtein distance: how many characters are put in, taken out or changed to get from one to the other."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        left_above, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            left_above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, left_above + (a != b))
    return row[-1]
