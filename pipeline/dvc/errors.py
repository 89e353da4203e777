"""What DVC, or Git below it, cannot do."""

from stages.common.errors import UserError


class DvcError(UserError):
    """A command of DVC or Git has failed.

    Attributes:
      stage_exit_code: of the command of the stage that failed, if one did.
    """

    def __init__(self, message: str, stage_exit_code: int | None = None) -> None:
        super().__init__(message)
        self.stage_exit_code = stage_exit_code


class OutOfTime(DvcError):
    """A command has taken longer than permitted."""
