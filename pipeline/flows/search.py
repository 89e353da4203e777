"""A search for good settings: Optuna proposes them, one experiment after another, and learns from each result.

A proposal depends on the seed, on its number and on the results until then. So with one experiment at a time, the same
seed proposes the same settings, also if the search was killed in between; with several at a time, the proposals depend
on the order in which experiments end.

What was proposed, and with what result, is in a file in the user's cache, whose name is a fingerprint of the search. A
search that is run again goes on from there. On a machine without the file, it starts from the first proposal, and what
is computed already is restored from the store.
"""

import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import State

from pipeline.flows.artifacts import SavedRun
from pipeline.flows.forms import Range, Search
from pipeline.flows.plan import Plan
from pipeline.flows.run_stages import DIVERGED, REFUSED
from stages.common import files
from stages.common.errors import SettingsError, UserError, did_you_mean, one_line
from stages.common.locks import file_lock
from stages.params import fingerprint

if TYPE_CHECKING:
    import optuna

FOLDER = "searches"  # in the user's cache
METRICS, REASON = "metrics", "reason"  # of a trial: what its experiment reached, or why its settings do not work


class SearchError(UserError):
    """A search cannot start, or cannot go on."""


class Trials(Plan):
    """The experiments of a search.

    One that cannot use its settings, or does not converge with them, tells Optuna that they are bad. One that fails for
    another reason tells it nothing, and runs again when the search is run again.

    Args:
      storage: where Optuna has the proposals and their results.
      name: that of the search in it.
      space: the distribution of each setting.
      trials: how many settings are proposed in all.
      seed: of the proposals.
      metric: the metric to minimise.
      name_of: the name of the experiment with these changes. Raises `SettingsError` if they cannot be combined.
    """

    def __init__(
        self,
        storage: "optuna.storages.BaseStorage",
        name: str,
        space: "Mapping[str, optuna.distributions.BaseDistribution]",
        trials: int,
        seed: int,
        metric: str,
        name_of: Callable[[dict[str, Any]], str],
    ) -> None:
        import optuna

        super().__init__({})
        self._study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        self._storage, self._study_id = storage, storage.get_study_id_from_name(name)
        self._space, self._trials, self._seed = dict(space), trials, seed
        self._metric, self._name_of = metric, name_of
        self._numbers: dict[str, list[int]] = {}  # of the trials whose experiment is running, by its name

    def __iter__(self) -> Iterator[str]:
        from optuna.trial import TrialState

        earlier = self._study.get_trials(deepcopy=False)
        for trial in sorted(earlier, key=lambda trial: trial.state is TrialState.RUNNING):  # finished ones first
            if trial.params.keys() != self._space.keys():  # killed while it was proposed
                if trial.state is TrialState.RUNNING:
                    self._study.tell(trial.number, state=TrialState.FAIL)
            elif trial.state is TrialState.RUNNING:
                yield from self._begin(trial.number, trial.params)
            else:
                self._recall(trial)
        while (number := self._proposed()) < self._trials:
            self._study.sampler = _sampler(self._seed, number)
            proposal = self._study.ask(self._space)
            yield from self._begin(proposal.number, proposal.params)

    def end(self, name: str, state: State[Any]) -> None:
        if state.is_completed():
            self._complete(name, state.result())
        elif state.name in (REFUSED, DIVERGED):
            self._reject(name, state.message or str(state.name))
        else:
            super().end(name, state)

    def _proposed(self) -> int:
        """The number of proposals; one that was killed while it was made does not count."""
        from optuna.trial import TrialState

        return sum(trial.state is not TrialState.FAIL for trial in self._study.get_trials(deepcopy=False))

    def _begin(self, number: int, choices: Mapping[str, Any]) -> Iterator[str]:
        """The experiment of a proposal, unless its result is known or will be."""
        changes = _parse(choices)
        try:
            name, error = self._name_of(changes), ""
        except SettingsError as refused:
            name, error = f"trial {number}", str(refused)
        is_new = name not in self.changes
        self.changes[name] = changes
        self._numbers.setdefault(name, []).append(number)
        if error:
            self._reject(name, error)
        elif name in self.done:
            self._complete(name, self.done[name])
        elif name in self.unsuitable:
            self._reject(name, self.unsuitable[name])
        elif is_new:
            yield name

    def _recall(self, trial: "optuna.trial.FrozenTrial") -> None:
        """Take down a trial that an earlier sweep has finished."""
        changes, name = _parse(trial.params), f"trial {trial.number}"
        with contextlib.suppress(SettingsError):
            name = self._name_of(changes)
        self.changes[name] = changes
        if METRICS in trial.user_attrs:
            self.done[name] = SavedRun(name, trial.user_attrs[METRICS])
        else:
            self.unsuitable[name] = trial.user_attrs.get(REASON, "")

    def _complete(self, name: str, run: SavedRun) -> None:
        if self._metric not in run.metrics and not any(self._metric in other.metrics for other in self.done.values()):
            raise SearchError(
                f"{name} has no metric {self._metric!r} to search by.{did_you_mean(self._metric, run.metrics)}"
            )
        value = run.metrics.get(self._metric)
        self.done[name] = run
        is_usable = isinstance(value, int | float) and math.isfinite(value)
        self._tell(name, METRICS, dict(run.metrics), value if is_usable else None)

    def _reject(self, name: str, reason: str) -> None:
        self.unsuitable[name] = reason
        self._tell(name, REASON, reason, None)

    def _tell(self, name: str, key: str, content: Any, value: float | None) -> None:
        """Tell Optuna the value of an experiment, or None: worse than every value."""
        from optuna.trial import TrialState

        for number in self._numbers.pop(name):
            trial = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            self._storage.set_trial_user_attr(trial, key, content)
            if value is None:
                self._study.tell(number, state=TrialState.PRUNED)
            else:
                self._study.tell(number, value)


@contextlib.contextmanager
def open_search(
    ranges: Search,
    definition: Mapping[str, Any],
    trials: int,
    seed: int,
    metric: str,
    name_of: Callable[[dict[str, Any]], str],
) -> Iterator[Trials]:
    """The experiments of a search, which goes on if it has been started before.

    Args:
      ranges: the values to search for each setting.
      definition: what else makes this search another one than others: its settings, its code.
      trials, seed, metric, name_of: as for `Trials`.

    Raises:
      SearchError: Optuna is not installed, the search is running already, or its file is damaged.
    """
    try:
        import optuna
    except ImportError:
        raise SearchError(
            "a search needs Optuna: pip install -c constraints.txt -e '.[search]', on the machine of the sweep"
        ) from None
    from sqlalchemy.exc import DatabaseError

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # what it says of each trial is in the table
    logging.getLogger("alembic").setLevel(logging.WARNING)
    values = {key: getattr(ranges, key) for key in Search.model_fields if key in ranges.model_fields_set}
    plain = ranges.model_dump(mode="json", include=set(values))
    name = fingerprint({**definition, "search": plain, "seed": seed, "metric": metric})
    path = files.cache_folder() / FOLDER / f"{name}.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path), contextlib.ExitStack() as stack:
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
            stack.callback(storage.engine.dispose)
            stack.callback(storage.remove_session)
            space = {key: _distribution(value, plain[key]) for key, value in values.items()}
            yield Trials(storage, name, space, trials, seed, metric, name_of)
        except (DatabaseError, optuna.exceptions.StorageInternalError) as error:
            raise SearchError(
                f"{path}, the file of this search, cannot be used ({one_line(error)}): delete it, and the search "
                "starts from its first proposal; what is computed already is restored"
            ) from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(path.with_suffix(".lock")))
        except BlockingIOError:
            raise SearchError("this search is running already on this machine: wait until it ends") from None
        except OSError:  # the file system has no locks
            pass
        yield


def _sampler(seed: int, number: int) -> "optuna.samplers.BaseSampler":
    """The sampler of one proposal. It takes settings that are being tried for bad ones, so as not to repeat them."""
    import numpy as np
    import optuna

    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=own, constant_liar=True)


def _distribution(values: Range | list[Any], plain: Any) -> "optuna.distributions.BaseDistribution":
    """Optuna's form of the values to search for a setting. It chooses between texts, so each value is one in JSON."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution([json.dumps(value) for value in plain])
    kind = IntDistribution if isinstance(values.low, int) else FloatDistribution
    return kind(values.low, values.high, log=values.log)


def _parse(choices: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a proposal."""
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in choices.items()}
