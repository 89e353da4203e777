"""Errors that the user can fix, each printed as one line. Any other exception is a bug."""

import difflib
import signal
import sys
from collections.abc import Callable, Collection, Iterable
from typing import ClassVar


class UserError(Exception):
    """The base class. The message says what is wrong, where, and what to do; commands print it without a traceback.

    Attributes:
      exit_code: the exit code of a command that ends with this error.
    """

    exit_code: ClassVar[int] = 1


class StageError(UserError):
    """A stage cannot run, or cannot finish."""


class SettingsError(StageError):
    """A setting cannot be used. The message names its key, its value and what is expected."""

    exit_code: ClassVar[int] = 2


class DivergedError(StageError):
    """Training does not converge with these settings."""

    exit_code: ClassVar[int] = 3


def reporting_errors(function: Callable[[], object]) -> int:
    """Call a function, print an error that the user can fix as one line, and return the exit code.

    Returns:
      0 for success, `exit_code` for a `UserError`, 1 for an `OSError`, and 130 for an interrupt. Other exceptions are
      raised.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set while the modules were loaded
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
    """Return the file and the reason, without the error number: `reports/index.html: No space left on device`."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else " ".join(reason.split())


def printable(text: str) -> str:
    """Return untrusted text without characters that could control a terminal; line breaks are such characters too."""
    return "".join(char if char.isprintable() else "�" for char in text)


def one_line(text: object, max_length: int = 100) -> str:
    """Return untrusted text as one line that is safe to print: at most `max_length` printable characters."""
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= max_length else line[: max_length - 1] + "…"


def counted(number: int, noun: str) -> str:
    """Return `1 drawing`, or `1,200 drawings`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def list_names(names: Collection[str], max_names: int = 30) -> str:
    """Return `'bee', 'cat' and 'sun'`: of many names, the first `max_names` and the number of the others."""
    shown = [one_line(repr(name)) for name in list(names)[:max_names]]
    if others := len(names) - len(shown):
        shown.append(f"{others} more")
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'bicycle'?"` for the known name closest to `name`, or "" if none is close."""
    if len(name) > 100:  # longer than any known name, and the search would take too long
        return ""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    folded = name.strip().casefold()
    matches = difflib.get_close_matches(folded, by_folded, n=5)
    if not matches:
        return ""
    # For "bycicle", difflib ranks "circle" above "bicycle", so choose the match with the fewest edits.
    closest = min(matches, key=lambda match: _edit_distance(folded, match))
    return f" Did you mean {by_folded[closest]!r}?"


def _edit_distance(source: str, target: str) -> int:
    """Return the Levenshtein distance: the minimum number of inserted, deleted or changed characters."""
    row = list(range(len(target) + 1))
    for i, a in enumerate(source, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(target, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]
