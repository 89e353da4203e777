"""The experiments of a sweep: which there are, and how they have ended."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from prefect import State

from pipeline.flows.artifacts import SavedRun
from pipeline.flows.forms import Grid, Settings


class Plan:
    """Experiments that are known before the first one runs.

    Args:
      changes: the settings that the sweep varies, by name of the experiment.

    Attributes:
      changes: the same, in the order of the experiments.
      done: the experiments that completed, by name.
      failed: why others failed, by name.
      unsuitable: why others showed that their settings do not work, by name. Only a search has such ones.
    """

    def __init__(self, changes: Mapping[str, dict[str, Any]]) -> None:
        self.changes = dict(changes)
        self.done: dict[str, SavedRun] = {}
        self.failed: dict[str, str] = {}
        self.unsuitable: dict[str, str] = {}

    def __iter__(self) -> Iterator[str]:
        """The experiments to run, by name."""
        return iter(list(self.changes))

    def end(self, name: str, state: State[Any]) -> None:
        """Take down how an experiment has ended.

        Args:
          name: the experiment.
          state: its final state; if it completed, with its `SavedRun`.
        """
        if state.is_completed():
            self.done[name] = state.result()
        else:
            self.failed[name] = state.message or str(state.name)


def combinations(grid: Grid, runs: list[Settings]) -> list[dict[str, Any]]:
    """The changes of each experiment: every run, combined with every combination of the grid's values.

    Without runs, the combinations alone; without a grid, the runs alone.
    """
    axes = grid.model_dump(mode="json", exclude_unset=True)
    return [
        run | dict(zip(axes, values, strict=True))
        for run in ([run.changes() for run in runs] or [{}])
        for values in itertools.product(*axes.values())
    ]
