"""What the flows decide by themselves: no server, no DVC at work."""

import contextlib
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from prefect.states import Completed, Failed

from pipeline import dvc
from pipeline.flows import artifacts, flows, outcome, run_stages, slots
from pipeline.flows.artifacts import METRIC, FinishedRun, StageRow
from pipeline.settings import experiment_name
from pipeline.subprocesses.supervisor import Stopped
from stages import params
from tests import fake_project
from tests.settings import FULL

STAGE = dvc.Stage("train", desc="The network", after=(), outs=(), meta={"network": "mirror"})


@pytest.fixture(autouse=True)
def outside_of_a_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (flows, outcome, run_stages):
        monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("flow"))


class Stub(dvc.Workspace):
    """A workspace that does as it is told, and notes what it was asked."""

    def __init__(
        self,
        does: Callable[[], Mapping[str, dvc.Outcome]] = lambda: {"train": dvc.Outcome.RAN},
        refusals: float = 0,
    ) -> None:
        super().__init__(Path("/nowhere"))
        self.does, self.refusals = does, refusals
        self.seconds: list[float | None] = []
        self.pushed: list[str | None] = []
        self.paused: list[float] = []

    def reproduce(self, stage: str | None = None, **asked: Any) -> dict[str, dvc.Outcome]:
        self.seconds.append(asked["seconds"])
        return dict(self.does())

    def save(self, name: str) -> None:
        pass

    def push(self, stage: str | None = None) -> None:
        self.pushed.append(stage)
        if len(self.pushed) <= self.refusals:
            raise dvc.DvcError("the store is away")

    def pause(self, seconds: float) -> None:
        self.paused.append(seconds)


def fails(error: Exception) -> Callable[[], Mapping[str, dvc.Outcome]]:
    def does() -> Mapping[str, dvc.Outcome]:
        raise error

    return does


def run_stage(
    workspace: dvc.Workspace, hours: float = 0, rows: dict[str, StageRow] | None = None
) -> tuple[Any, StageRow]:
    rows = {"train": StageRow("train", "Not reached", 0.0)} | (rows or {})
    return run_stages._run_stage.fn(workspace, STAGE, False, rows, hours), rows["train"]


# --- How a stage ends ---


@pytest.mark.parametrize(
    ("error", "name", "tried_again"),
    [
        (dvc.DvcError("no network", 1), "Failed", True),
        (dvc.DvcError("num_resnet is 0", 2), "Refused", False),
        (dvc.OutOfTime("ended after 7200 seconds"), "OutOfTime", False),
        (Stopped(), "Cancelled", True),  # which Prefect itself does not try again
    ],
)
def test_a_stage_ends_in_the_state_of_its_error(error: Exception, name: str, tried_again: bool) -> None:
    state, row = run_stage(Stub(fails(error)))
    assert (state.name, row.state) == (name, name)
    assert run_stages._should_retry(None, None, state) is tried_again


def test_hours_are_the_most_that_a_stage_takes() -> None:
    workspace = Stub()
    for hours in (0, 1.5):
        assert run_stage(workspace, hours)[0].name == "Ran"
    assert workspace.seconds == [None, 5400]


def test_what_dvc_has_no_word_for_has_run() -> None:
    """A changed file that a .dvc file tracks, say."""
    assert run_stage(Stub(dict))[0].name == "Ran"


@pytest.mark.parametrize(
    ("refusals", "paused", "not_pushed"),
    [(0, [], ""), (2, [10, 60], ""), (9, [10, 60, 300], "the store is away")],
)
def test_what_has_run_is_not_lost_for_a_store_that_is_away(
    monkeypatch: pytest.MonkeyPatch, refusals: int, paused: list[float], not_pushed: str
) -> None:
    monkeypatch.setattr(dvc, "remote", lambda root: "store")
    workspace = Stub(refusals=refusals)
    state, row = run_stage(workspace)
    assert state.is_completed() and state.name == "Ran"
    assert workspace.seconds == [None], "the stage is not run again"
    assert workspace.paused == paused and workspace.pushed == ["train"] * (len(paused) + 1)
    assert row.not_pushed == not_pushed


def test_a_store_that_was_waited_for_in_vain_is_asked_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc, "remote", lambda root: "store")
    workspace = Stub(refusals=9)
    _, row = run_stage(workspace, rows={"filter": StageRow("filter", "Ran", 1.0, "the store is away")})
    assert (workspace.pushed, workspace.paused) == (["train"], [])
    assert row.not_pushed == "the store is away"
    state = outcome.completed_state(FinishedRun("trial", {METRIC: 1.5}), None, run_stages.not_pushed([row]))
    assert (state.message or "").endswith(" 1.5 against; not pushed: train (the store is away)")


@pytest.mark.parametrize(
    ("place", "uses"),
    [("https://host/a", True), ("s3://a", True), ("file:///a", False), ("../a", False), ("doodles", False)],
)
def test_a_stage_uses_the_network_where_its_setting_is_a_url(place: str, uses: bool) -> None:
    assert run_stages._uses_network(STAGE, {"mirror": place}) is uses
    other = dvc.Stage("report", desc="", after=(), outs=(), meta={})
    assert not run_stages._uses_network(other, {"mirror": place})


# --- Side by side ---


@pytest.mark.parametrize(
    ("visible", "wanted", "expected"),
    [
        ("0,1", 0, ["0", "1"]),
        ("0, GPU-5a", 3, ["0", "GPU-5a", "0"]),
        ("0,1", 1, ["0"]),
        ("", 0, [None]),
        ("-1", 2, [None, None]),
    ],
)
def test_a_slot_is_a_gpu_or_one_run(
    monkeypatch: pytest.MonkeyPatch, visible: str, wanted: int, expected: list[str | None]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in slots.make_slots(wanted)] == expected


def test_the_gpus_are_those_that_the_driver_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    listed = subprocess.CompletedProcess([], 0, "GPU-a\nGPU-b\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: listed)
    assert slots._gpus() == ["GPU-a", "GPU-b"]

    def no_driver(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", no_driver)
    assert slots._gpus() == [] and slots.make_slots(0) == [{}]


def test_as_many_run_at_once_as_there_are_slots_each_in_its_own() -> None:
    lock, at_work, seen = threading.Lock(), list[str](), list[list[str]]()
    both = threading.Barrier(2)

    def one(name: str) -> Any:
        device = slots.slot_variables.get()["CUDA_VISIBLE_DEVICES"]
        with lock:
            at_work.append(device)
            seen.append(sorted(at_work))
        if name in ("a", "b"):
            both.wait(60)
        with lock:
            at_work.remove(device)
        return Failed(message=device) if name == "c" else Completed(message=device)

    two_slots: list[Mapping[str, str]] = [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    states = slots.run_in_slots(one, list("abcde"), two_slots)
    assert [(name, state.is_completed()) for name, state in states.items()] == [
        ("a", True), ("b", True), ("c", False), ("d", True), ("e", True),
    ]  # fmt: skip
    assert ["0", "1"] in seen
    assert all(devices in (["0"], ["1"], ["0", "1"]) for devices in seen), "never two in one slot"


def test_what_ends_a_sweep_ends_those_at_work_and_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    started, workspace = [], Stub()
    monkeypatch.setattr(slots, "running_workspaces", {workspace})

    def one(name: str) -> Any:
        started.append(name)
        if name == "a":
            raise KeyboardInterrupt
        time.sleep(0.5)

    with pytest.raises(KeyboardInterrupt):
        slots.run_in_slots(one, list("abcd"), [{}])
    assert started in (["a"], ["a", "b"]), "those that had begun"
    with pytest.raises(Stopped):
        workspace._processes.pause(0)


# --- What a run is held against ---


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    fake_project.write(folder)
    for key in ("name", "email"):
        fake_project.git(folder, "config", f"user.{key}", "a@localhost")
    return folder


def keep(root: Path, name: str, bits: float) -> str:
    """Keep an experiment of the commit at hand, as DVC would; return that commit."""
    head = fake_project.git(root, "rev-parse", "HEAD").strip()
    (root / "figures").write_text(str(bits))
    blob = fake_project.git(root, "hash-object", "-w", "figures").strip()
    (root / "figures").unlink()
    (root / "tree").write_text(f"100644 blob {blob}\tfigures\n")
    with (root / "tree").open() as listed:
        tree = subprocess.check_output(["git", "mktree"], cwd=root, stdin=listed, text=True).strip()
    (root / "tree").unlink()
    commit = fake_project.git(root, "commit-tree", tree, "-p", head, "-m", name).strip()
    fake_project.git(root, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", commit)
    return head


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an experiment's figures be those of `keep`; a commit has none."""

    def metrics(root: Path, revision: str) -> dict[str, float]:
        shown = subprocess.run(
            ["git", "show", f"{revision}:figures"], cwd=root, capture_output=True, text=True, check=False
        )
        return {METRIC: float(shown.stdout)} if shown.returncode == 0 else {}

    monkeypatch.setattr(dvc, "metrics", metrics)


@pytest.mark.usefixtures("figures")
def test_a_run_is_held_against_that_of_the_commit_before(root: Path, tmp_path: Path) -> None:
    """Of the same name: what runs every night has one. A clone, as a worker has it, sees what was pushed."""
    name = experiment_name("quick", FULL)
    before = keep(root, name, 1.75)
    fake_project.git(root, "commit", "--quiet", "--allow-empty", "--message", "next")
    keep(root, name, 1.5)
    keep(root, "other", 1.25)
    fake_project.git(root, "clone", "--quiet", "--depth", "1", f"file://{root}", str(tmp_path / "clone"))
    for place in (root, tmp_path / "clone"):
        baseline = outcome.find_baseline(place, FULL, apart_from=name)
        assert baseline is not None
        assert (baseline.name, baseline.figures) == (f"{name} ({before[:7]})", {METRIC: 1.75})
    assert "other" not in dvc.experiment_commits(tmp_path / "clone"), "no more than is looked for"

    named = outcome.find_baseline(tmp_path / "clone", FULL, named="other", apart_from=name)
    assert named is not None and named.figures == {METRIC: 1.25}
    for unknown in ("nothing", "HEAD"):
        with pytest.raises(dvc.DvcError, match="`dvc exp show` lists what there is"):
            outcome.find_baseline(root, FULL, named=unknown)
    assert outcome.find_baseline(root, params.check(FULL, "").model_dump() | {"seed": 7}) is None


@pytest.mark.usefixtures("figures")
def test_an_origin_that_is_away_is_a_warning(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = experiment_name("quick", FULL)
    fake_project.git(root, "remote", "add", "origin", str(root / "nowhere"))
    keep(root, name, 1.75)
    assert outcome.find_baseline(root, FULL) is not None
    assert "The experiments of origin are not seen: git ls-remote: " in caplog.text


@pytest.mark.parametrize("refused", [True, False])
def test_a_good_run_is_good_where_git_may_not_push(root: Path, monkeypatch: pytest.MonkeyPatch, refused: bool) -> None:
    """Its summary is there by then. Where Git may, what a stage could not send has gone with the experiment."""
    done: list[str] = []

    def push(*_: str) -> None:
        done.append("push")
        if refused:
            raise dvc.DvcError("could not read Username for 'https://host'")

    rows = [StageRow("train", "Ran", 1.0, "the store was away")]
    monkeypatch.setattr(flows, "with_watchdog", contextlib.nullcontext)
    monkeypatch.setattr(flows, "_root", lambda: root)
    monkeypatch.setattr(flows, "run_stages", lambda *_: rows)
    monkeypatch.setattr(flows, "finish", lambda workspace, name, *_: FinishedRun(name, {METRIC: 1.5}))
    monkeypatch.setattr(flows, "publish_artifacts", lambda *_: done.append("leave"))
    monkeypatch.setattr(dvc, "temporary_workspace", lambda *_: contextlib.nullcontext(Stub()))
    monkeypatch.setattr(flows, "update_params_file", lambda *_: None)
    monkeypatch.setattr(dvc, "remote", lambda root: "store")
    monkeypatch.setattr(dvc, "has_origin", lambda root: True)
    monkeypatch.setattr(dvc, "fetch_experiments", lambda *_: None)
    monkeypatch.setattr(dvc.Workspace, "push_experiment", push)
    state = flows.experiment.fn(name="trial")
    assert state.is_completed() and done == ["leave", "push"]
    assert (state.message or "").endswith("; not pushed: trial (could not read Username for 'https://host')") is refused
    assert ("not pushed" in (state.message or "")) is refused


# --- The best of a sweep ---


def test_the_best_is_named_where_the_figure_is_known() -> None:
    done = [FinishedRun("a", {METRIC: 1.5}), FinishedRun("b", {METRIC: 1.25})]

    def best(metric: str) -> str:
        return outcome.name_best(done, artifacts.comparison(done, {}, {}, metric), metric)

    assert best(METRIC) == "2 experiments; the best is b"
    said = best("heldout_bits_per_dm")
    assert said == f"2 experiments, and none has the figure 'heldout_bits_per_dm'. Did you mean {METRIC!r}?"
