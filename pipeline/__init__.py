"""Run the stages of the DVC graph: commands, settings, Prefect flows and workspaces. The stages are in `stages/`."""
