"""The errors of DVC and Git commands."""

from stages.common.errors import UserError


class DvcError(UserError):
    """A command of DVC or Git failed.

    Attributes:
      stage_exit_code: the exit code of the stage that failed; None if no stage failed.
    """

    def __init__(self, message: str, stage_exit_code: int | None = None) -> None:
        super().__init__(message)
        self.stage_exit_code = stage_exit_code


class NoSuchFile(DvcError):
    """A file is not in a revision, or DVC tracks it there and the cache lacks it."""


class OutOfTime(DvcError):
    """A command exceeded its time limit."""
