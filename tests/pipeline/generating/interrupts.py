"""Interrupts at a chosen moment: before or after a change to a destination."""

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.generating.destination import Destination


def interrupt(patch: pytest.MonkeyPatch, kind: type[Destination], at: int) -> Callable[[], int]:
    """Raise `KeyboardInterrupt` at a moment before or after a change, the `at`th of all.

    Returns:
      A function for the number of moments that there were.
    """
    moments, depth = 0, 0

    def moment() -> None:
        nonlocal moments
        moments += not depth  # a change can call another one
        if moments == at and not depth:
            raise KeyboardInterrupt

    def interrupted(method: Callable[..., object]) -> Callable[..., None]:
        def changed(*arguments: Any) -> None:
            nonlocal depth
            moment()
            depth += 1
            method(*arguments)
            depth -= 1
            moment()

        return changed

    for name in ("write", "stream", "delete", "resize", "write_at"):
        if name in vars(kind):
            patch.setattr(kind, name, interrupted(vars(kind)[name]))
    return lambda: moments
