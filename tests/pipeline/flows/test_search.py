"""The flow `sweep` with a search: what Optuna proposes and is told. Experiments are a function of their settings."""

import contextlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from prefect import State
from prefect.states import Completed, Crashed, Failed

from pipeline.flows import outcome, run_stages, sweep
from pipeline.flows.artifacts import METRIC, FinishedRun
from pipeline.flows.forms import Search, Settings
from stages.common.errors import SettingsError
from tests import fake_project

SPACE = {"learning_rate": {"low": 1e-4, "high": 0.1, "log": True}, "num_filters": {"low": 8, "high": 64}}
Table = list[dict[str, Any]]


def bits(settings: dict[str, Any]) -> float:
    """The result of an experiment: the best are of a learning rate of 0.01, with many filters."""
    return float(abs(settings["learning_rate"] - 0.01) * 10 + 1 / settings["num_filters"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    fake_project.write(folder, source="doodles")
    return folder


@pytest.fixture
def sweeps(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Sweeps":
    """Sweeps of a project in this process, without Prefect."""
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sweep, "with_watchdog", contextlib.nullcontext)
    monkeypatch.setattr(sweep, "current_root", lambda: root)
    monkeypatch.setattr(sweep, "make_slots", lambda number: [{}] * (number or 1))
    return Sweeps(monkeypatch)


class Sweeps:
    """Runs sweeps whose experiments are a function.

    Attributes:
      ran: the changes of each experiment that has run.
      table: of the last sweep.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ran: list[dict[str, Any]] = []
        self.table: Table = []
        self._patch = patch

    def run(self, run: Callable[[dict[str, Any]], float | State[Any]] = bits, **options: Any) -> State[Any]:
        """Run a sweep. `run` returns what an experiment reaches, or its final state."""

        def experiment(profile: str, settings: dict[str, Any], name: str, **_: Any) -> State[Any]:
            self.ran.append(settings)
            reached = run(settings)
            if isinstance(reached, State):
                return reached
            return Completed(data=FinishedRun(name, {METRIC: reached, "heldout": "1a2b3c4d"}))

        def keep_table(table: Table, **_: Any) -> None:
            self.table = table

        stand_in = SimpleNamespace(name="experiment", with_options=lambda flow_run_name: experiment)
        self._patch.setattr(sweep, "experiment", stand_in)
        self._patch.setattr(sweep, "create_table_artifact", keep_table)
        search = Search.model_validate(options.pop("search", SPACE))
        state: State[Any] = sweep.sweep.fn(search=search, **options)
        return state


def told(folder: Path) -> list[str]:
    """What Optuna knows of each trial. It takes one that is pruned for worse than every value."""
    [file] = (folder / "cache" / "searches").glob("*.sqlite")
    storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
    try:
        [name] = optuna.get_all_study_names(storage)
        return [trial.state.name for trial in optuna.load_study(study_name=name, storage=storage).trials]
    finally:
        storage.remove_session()
        storage.engine.dispose()


def test_a_search_proposes_settings_and_finds_good_ones(sweeps: Sweeps) -> None:
    state = sweeps.run(trials=20, settings=Settings.model_validate({"num_resnet": 2}))
    assert len(sweeps.ran) == len(sweeps.table) == 20
    for changes in sweeps.ran:
        assert changes["num_resnet"] == 2
        assert 1e-4 <= changes["learning_rate"] <= 0.1 and changes["num_filters"] in range(8, 65)
    assert state.is_completed()
    assert state.message == f"20 experiments; the best is {sweeps.table[0]['experiment']}"
    values = [row[METRIC] for row in sweeps.table]
    assert values == sorted(values)
    assert min(map(bits, sweeps.ran[10:])) < min(map(bits, sweeps.ran[:10])), "it learns from the first ten"


def test_the_same_seed_proposes_the_same(sweeps: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    for cache, seed in (("one", 0), ("two", 0), ("two", 1)):
        monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path / cache))
        sweeps.ran = []
        sweeps.run(trials=11, seed=seed)
        ran.append(sweeps.ran)
    assert ran[0] == ran[1]
    assert not any(changes in ran[0] for changes in ran[2])


def test_a_search_that_was_killed_goes_on_where_it_was(
    sweeps: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps.run(trials=12)
    expected, sweeps.ran = sweeps.ran, []
    whole = sweeps.table
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path / "other"))

    def killed(changes: dict[str, Any]) -> float:
        if len(sweeps.ran) == 11:
            raise KeyboardInterrupt
        return bits(changes)

    with pytest.raises(KeyboardInterrupt):
        sweeps.run(killed, trials=12)
    assert sweeps.run(trials=12).is_completed()
    assert sweeps.ran == [*expected[:11], expected[10], expected[11]], "only the experiment that was killed runs again"
    assert sweeps.table == whole
    sweeps.ran = []
    assert sweeps.run(trials=13).is_completed()
    assert len(sweeps.ran) == 1 and len(sweeps.table) == 13, "more trials are added to the search"


@pytest.mark.parametrize("state", [Failed(message="no network"), Crashed(message="lost"), Failed(name="OutOfTime")])
def test_an_experiment_that_fails_tells_optuna_nothing_and_runs_again(
    sweeps: Sweeps, tmp_path: Path, state: State[Any]
) -> None:
    sweep_state = sweeps.run(lambda changes: state if len(sweeps.ran) == 2 else bits(changes), trials=4)
    failed = sweeps.ran[1]
    name = sweeps.table[-1]["experiment"]
    assert sweep_state.is_failed() and sweep_state.message == f"1 of 4 experiments failed: {name}"
    assert sweeps.table[-1]["state"] == (state.message or state.name)
    assert told(tmp_path) == ["COMPLETE", "RUNNING", "COMPLETE", "COMPLETE"]
    sweeps.ran = []
    assert sweeps.run(trials=4).is_completed()
    assert sweeps.ran == [failed]
    assert len(sweeps.table) == 4


@pytest.mark.parametrize("name", ["Diverged", "Refused"])
def test_settings_that_do_not_work_are_bad_trials(sweeps: Sweeps, tmp_path: Path, name: str) -> None:
    def run(changes: dict[str, Any]) -> float | State[Any]:
        return Failed(name=name, message="the loss is nan") if len(sweeps.ran) in (2, 3) else bits(changes)

    state = sweeps.run(run, trials=5)
    assert state.is_completed() and state.message == f"3 experiments; the best is {sweeps.table[0]['experiment']}"
    assert [row["state"] for row in sweeps.table] == ["done"] * 3 + ["the loss is nan"] * 2
    assert [row["learning_rate"] for row in sweeps.table[3:]] == [ran["learning_rate"] for ran in sweeps.ran[1:3]]
    assert told(tmp_path) == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE", "COMPLETE"]
    sweeps.ran = []
    assert sweeps.run(run, trials=5).is_completed()
    assert sweeps.ran == [] and len(sweeps.table) == 5, "they do not run again"


def test_settings_that_cannot_be_combined_are_bad_trials_that_do_not_run(sweeps: Sweeps) -> None:
    space = {"classes": [["bee"], ["bee", "no such class"]], "seed": {"low": 0, "high": 1000}}
    state = sweeps.run(lambda changes: changes["seed"] / 1000, search=space, trials=6)
    assert state.is_completed()
    refused = [row for row in sweeps.table if row["state"] != "done"]
    assert refused and all("classes: 'no such class' is not a class of Quick, Draw!" in row["state"] for row in refused)
    assert [changes["classes"] for changes in sweeps.ran] == [["bee"]] * (6 - len(refused))


def test_a_proposal_that_is_known_is_not_run_twice(sweeps: Sweeps) -> None:
    space = {"optimizer": ["adam", "muon"], "prefetch": [False]}
    state = sweeps.run(lambda changes: len(changes["optimizer"]) / (len(sweeps.ran) + 1), search=space, trials=8)
    assert (state.message or "").startswith("2 experiments; the best is ")
    assert sorted(changes["optimizer"] for changes in sweeps.ran) == ["adam", "muon"]
    assert all(changes["prefetch"] is False for changes in sweeps.ran)


def test_several_slots_share_a_search(sweeps: Sweeps) -> None:
    both = threading.Barrier(2)

    def run(changes: dict[str, Any]) -> float:
        both.wait(60)
        return bits(changes)

    assert sweeps.run(run, trials=6, slots=2).is_completed()
    assert len({tuple(changes.items()) for changes in sweeps.ran}) == len(sweeps.table) == 6


def test_an_unknown_metric_ends_the_search_at_once(sweeps: Sweeps) -> None:
    state = sweeps.run(trials=12, metric="heldout_bits_per_dm")
    assert len(sweeps.ran) == 1
    assert state.is_failed() and (state.message or "").endswith(
        f"has no metric 'heldout_bits_per_dm' to search by. Did you mean {METRIC!r}?"
    )


def test_a_value_that_is_not_finite_is_a_bad_trial(sweeps: Sweeps, tmp_path: Path) -> None:
    assert sweeps.run(lambda changes: float("nan") if len(sweeps.ran) == 2 else bits(changes), trials=3).is_completed()
    assert len(sweeps.ran) == 3 and told(tmp_path) == ["COMPLETE", "PRUNED", "COMPLETE"]


def test_without_optuna_one_line_says_how_to_install_it(sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    state = sweeps.run()
    assert state.is_failed() and sweeps.ran == []
    assert state.message == (
        "a search needs Optuna: pip install -c constraints.txt -e '.[search]', on the machine of the sweep"
    )


def test_a_search_runs_once_at_a_time(sweeps: Sweeps) -> None:
    states: list[State[Any]] = []

    def run(changes: dict[str, Any]) -> float:
        if not states:
            with pytest.MonkeyPatch.context() as patch:
                states.append(Sweeps(patch).run(trials=1))
        return bits(changes)

    assert sweeps.run(run, trials=1).is_completed()
    assert states[0].message == "this search is running already on this machine: wait until it ends"


def test_a_damaged_file_is_one_line(sweeps: Sweeps, tmp_path: Path) -> None:
    sweeps.run(trials=1)
    [file] = (tmp_path / "cache" / "searches").glob("*.sqlite")
    file.write_bytes(b"not a database" * 100)
    state = sweeps.run(trials=1)
    assert state.is_failed()
    assert (state.message or "").startswith(f"{file}, the file of this search, cannot be used (")
    assert "delete it" in (state.message or "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": [Settings.model_validate({"seed": 1})]}, "search is given together with grid or runs: set one"),
        ({"slots": 2, "pool": "big"}, "slots is 2, and pool is 'big', whose workers decide: set one of the two"),
    ],
)
def test_options_that_exclude_each_other_are_refused(sweeps: Sweeps, options: dict[str, Any], message: str) -> None:
    state = sweeps.run(**options)
    assert state.is_failed() and (state.message or "").startswith(message) and sweeps.ran == []


def test_the_exit_code_of_a_stage_becomes_the_name_of_the_state_that_a_search_reads() -> None:
    assert run_stages.NAMES_BY_EXIT_CODE == {2: "Refused", 3: "Diverged"}
    cases = {"Diverged": "Diverged", "Refused Refused": "Refused", "Refused Failed": "Failed", "OutOfTime": "Failed"}
    for names, expected in cases.items():
        with outcome.failed_state_on_error() as failure:
            raise run_stages.StagesFailed(Failed(name=name, message="why") for name in names.split())
        assert failure.state.name == expected
    with outcome.failed_state_on_error() as failure:
        raise SettingsError("num_resnet is 0")
    assert failure.state.name == "Refused"
