"""Run the stages of the DVC graph: commands, settings, Prefect flows and workspaces. The stages are in `stages/`.

`pipeline.load_model` gives the model of a finished run, for use from Python.
"""

from typing import TYPE_CHECKING, Any

import stages  # noqa: F401  (first: it ends the command without a traceback if an interrupt comes while modules load)

if TYPE_CHECKING:
    from pipeline.models import load_model

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    # The command needs no model, and loading its modules takes time.
    if name == "load_model":
        from pipeline.models import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
