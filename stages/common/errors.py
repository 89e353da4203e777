"""The errors that a person is meant to read, each one line. Any other exception is a defect."""

import difflib
import sys
from collections.abc import Callable, Iterable
from typing import ClassVar


class UserError(Exception):
    """The base class: the message says what is wrong, where, and what to do. Commands print it without a traceback.

    Attributes:
      exit_code: of the command that ends with this error.
    """

    exit_code: ClassVar[int] = 1


class StageError(UserError):
    """A stage cannot do its work."""


class SettingsError(StageError):
    """A setting cannot be used: the message names its key, its value and what is expected."""

    exit_code: ClassVar[int] = 2


def reporting_errors(function: Callable[[], object]) -> int:
    """Call a function, print the error that a person can act on as one line, and return the exit code.

    The code is 0 for success, the error's own for a `UserError`, 1 for an `OSError` and 130 for an interrupt. Any other
    exception is raised.
    """
    try:
        function()
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        return print_error(str(error), error.exit_code)
    except OSError as error:
        return print_error(describe_os_error(error), 1)
    return 0


def print_error(message: str, exit_code: int) -> int:
    """Print `error: …` on standard error, and return the exit code."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    return exit_code


def describe_os_error(error: OSError) -> str:
    """The file and the reason, without an error number: `reports/index.html: No space left on device`."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else " ".join(reason.split())


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
