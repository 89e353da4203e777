"""Run the stages of the DVC graph: commands, settings, Prefect flows and workspaces. The stages are in `stages/`."""

import stages  # noqa: F401  (first: it ends the command without a traceback if an interrupt comes while modules load)
