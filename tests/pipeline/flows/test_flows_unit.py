"""The parts of the flows, without a Prefect server and without running DVC."""

import contextlib
import io
import json
import logging
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from prefect.engine import handle_engine_signals
from prefect.exceptions import FailedRun, SignatureMismatchError
from prefect.states import Completed, Failed

from pipeline import dvc
from pipeline.flows import artifacts, flows, outcome, run_stages, slots
from pipeline.flows.artifacts import METRIC, FinishedRun, SavedRun, StageRow
from pipeline.flows.forms import Settings
from pipeline.run_settings import experiment_name, on_data_of, profiles
from pipeline.subprocesses.supervisor import Stopped
from stages import params
from stages.common.errors import SettingsError, StageError
from tests import fake_project
from tests.settings import FULL

STAGE = dvc.Stage("train", desc="The network", after=(), outs=(), meta={"network": "source"})


@pytest.fixture(autouse=True)
def use_standard_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (flows, outcome, run_stages):
        monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("flow"))


class Stub(dvc.Workspace):
    """A workspace that records its calls and runs nothing.

    Args:
      outcomes: called in place of running a stage; returns the outcomes, or raises.
      push_failures: how many pushes fail.
      push_error: with what they fail.
    """

    def __init__(
        self,
        outcomes: Callable[[], Mapping[str, dvc.Outcome]] = lambda: {"train": dvc.Outcome.RAN},
        push_failures: int = 0,
        push_error: dvc.DvcError | None = None,
    ) -> None:
        super().__init__(Path("/nowhere"))
        self.outcomes, self.push_failures = outcomes, push_failures
        self.push_error = push_error or dvc.DvcError("the store is unreachable")
        self.seconds: list[float | None] = []
        self.pushed: list[str | None] = []
        self.paused: list[float] = []

    def reproduce(self, stage: str | None = None, **options: Any) -> dict[str, dvc.Outcome]:
        self.seconds.append(options["seconds"])
        return dict(self.outcomes())

    def save(self, name: str) -> None:
        pass

    def push(self, stage: str | None = None) -> None:
        self.pushed.append(stage)
        if len(self.pushed) <= self.push_failures:
            raise self.push_error

    def pause(self, seconds: float) -> None:
        self.paused.append(seconds)


def fail_with(error: Exception) -> Callable[[], Mapping[str, dvc.Outcome]]:
    def outcomes() -> Mapping[str, dvc.Outcome]:
        raise error

    return outcomes


def run_stage(
    workspace: dvc.Workspace, hours: float = 0, rows: dict[str, StageRow] | None = None
) -> tuple[Any, StageRow]:
    rows = {"train": StageRow("train", "Not reached", 0.0)} | (rows or {})
    return run_stages._run_stage.fn(workspace, STAGE, False, rows, hours), rows["train"]


# --- The state of a stage ---


@pytest.mark.parametrize(
    ("error", "name", "retried"),
    [
        (dvc.DvcError("no network", 1), "Failed", True),
        (dvc.DvcError("num_resnet is 0", 2), "Refused", False),
        (dvc.OutOfTime("timed out after 7200 seconds"), "OutOfTime", False),
        (Stopped(), "Cancelled", True),  # Prefect itself does not retry it
    ],
)
def test_the_state_of_a_stage_depends_on_its_error(error: Exception, name: str, retried: bool) -> None:
    state, row = run_stage(Stub(fail_with(error)))
    assert (state.name, row.state) == (name, name)
    assert run_stages._should_retry(None, None, state) is retried


def test_hours_are_the_time_limit_of_a_stage() -> None:
    workspace = Stub()
    for hours in (0, 1.5):
        assert run_stage(workspace, hours)[0].name == "Ran"
    assert workspace.seconds == [None, 5400]


def test_a_stage_without_a_known_outcome_has_run() -> None:
    """For example, a changed file that a .dvc file tracks."""
    assert run_stage(Stub(dict))[0].name == "Ran"


@pytest.mark.parametrize(
    ("push_failures", "paused", "not_pushed"),
    [(0, [], ""), (2, [10, 60], ""), (9, [10, 60, 300], "the store is unreachable")],
)
def test_a_failed_push_is_retried_and_does_not_fail_the_stage(
    monkeypatch: pytest.MonkeyPatch, push_failures: int, paused: list[float], not_pushed: str
) -> None:
    monkeypatch.setattr(dvc, "remote", lambda root: "store")
    workspace = Stub(push_failures=push_failures)
    state, row = run_stage(workspace)
    assert state.is_completed() and state.name == "Ran"
    assert workspace.seconds == [None], "the stage is not run again"
    assert workspace.paused == paused and workspace.pushed == ["train"] * (len(paused) + 1)
    assert row.not_pushed == not_pushed


@pytest.mark.parametrize(("is_refusal", "paused"), [(True, []), (False, [10, 60, 300])])
def test_a_push_that_the_store_refuses_is_not_retried(
    monkeypatch: pytest.MonkeyPatch, is_refusal: bool, paused: list[float]
) -> None:
    monkeypatch.setattr(dvc, "remote", lambda root: "store")
    workspace = Stub(push_failures=9, push_error=dvc.StoreError("the bucket does not exist", is_refusal))
    assert run_stage(workspace)[1].not_pushed == "the bucket does not exist"
    assert workspace.paused == paused


def test_a_push_to_a_store_that_could_not_be_read_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc, "remote", lambda root: "store")
    workspace = Stub(push_failures=9)
    workspace.reads_store = False
    assert run_stage(workspace)[1].not_pushed == "the store is unreachable"
    assert (workspace.pushed, workspace.paused) == (["train"], [])


def test_a_push_is_not_retried_after_one_of_an_earlier_stage_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc, "remote", lambda root: "store")
    workspace = Stub(push_failures=9)
    _, row = run_stage(workspace, rows={"filter": StageRow("filter", "Ran", 1.0, "the store is unreachable")})
    assert (workspace.pushed, workspace.paused) == (["train"], [])
    assert row.not_pushed == "the store is unreachable"
    state = outcome.completed_state(FinishedRun("trial", {METRIC: 1.5}), None, run_stages.not_pushed([row]))
    reason = "no run of the committed settings on these drawings is saved here"
    assert (state.message or "").endswith(f" 1.5: {reason}; not pushed: train (the store is unreachable)")


@pytest.mark.parametrize(
    ("source", "expected"),
    [("https://host/a", True), ("s3://a", True), ("file:///a", False), ("../a", False), ("doodles", False)],
)
def test_a_stage_uses_the_network_if_its_source_is_a_url(source: str, expected: bool) -> None:
    assert run_stages._uses_network(STAGE, {"source": source}) is expected
    report = dvc.Stage("report", desc="", after=(), outs=(), meta={})
    assert not run_stages._uses_network(report, {"source": source})


# --- Slots ---


@pytest.mark.parametrize(
    ("visible", "requested", "expected"),
    [
        ("0,1", 0, ["0", "1"]),
        ("0, GPU-5a", 3, ["0", "GPU-5a", "0"]),
        ("0,1", 1, ["0"]),
        ("", 0, [None]),
        ("-1", 2, [None, None]),
    ],
)
def test_a_slot_is_a_gpu_or_the_machine(
    monkeypatch: pytest.MonkeyPatch, visible: str, requested: int, expected: list[str | None]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in slots.make_slots(requested)] == expected


def test_the_gpus_are_those_listed_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    listed = subprocess.CompletedProcess([], 0, "GPU-a\nGPU-b\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: listed)
    assert slots._gpus() == ["GPU-a", "GPU-b"]

    def no_driver(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", no_driver)
    assert slots._gpus() == [] and slots.make_slots(0) == [{}]


def test_experiments_run_in_parallel_each_in_its_own_slot() -> None:
    lock, active, seen = threading.Lock(), list[str](), list[list[str]]()
    both_active = threading.Barrier(2)

    def run(name: str) -> Any:
        device = slots.slot_variables.get()["CUDA_VISIBLE_DEVICES"]
        with lock:
            active.append(device)
            seen.append(sorted(active))
        if name in ("a", "b"):
            both_active.wait(60)
        with lock:
            active.remove(device)
        return Failed(message=device) if name == "c" else Completed(message=device)

    two_slots: list[Mapping[str, str]] = [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    states: dict[str, Any] = {}
    slots.run_in_slots(run, list("abcde"), two_slots, states.__setitem__)
    assert sorted((name, state.is_completed()) for name, state in states.items()) == [
        ("a", True), ("b", True), ("c", False), ("d", True), ("e", True),
    ]  # fmt: skip
    assert ["0", "1"] in seen
    assert all(devices in (["0"], ["1"], ["0", "1"]) for devices in seen), "never two in one slot"


def test_an_interrupted_sweep_stops_its_experiments_and_starts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    started, workspace = [], Stub()
    monkeypatch.setattr(slots, "running_workspaces", {workspace})

    def run(name: str) -> Any:
        started.append(name)
        if name == "a":
            raise KeyboardInterrupt
        time.sleep(0.5)

    with pytest.raises(KeyboardInterrupt):
        slots.run_in_slots(run, list("abcd"), [{}], lambda name, state: None)
    assert started in (["a"], ["a", "b"]), "no more than had started"
    with pytest.raises(Stopped):
        workspace._supervisor.pause(0)


# --- The baseline of a run ---


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    fake_project.write(folder)
    for key in ("name", "email"):
        fake_project.git(folder, "config", f"user.{key}", "a@localhost")
    return folder


def save_experiment(root: Path, name: str, bits: float, settings: Mapping[str, Any] = FULL) -> str:
    """Save an experiment of the current commit, as DVC would; return that commit."""
    head = fake_project.git(root, "rev-parse", "HEAD").strip()
    lines = []
    for file, text in (("figures", str(bits)), ("params.yaml", json.dumps(settings))):  # JSON is YAML too
        (root / "blob").write_text(text)
        lines.append(f"100644 blob {fake_project.git(root, 'hash-object', '-w', 'blob').strip()}\t{file}\n")
    (root / "blob").unlink()
    (root / "tree").write_text("".join(lines))
    with (root / "tree").open() as listed:
        tree = subprocess.check_output(["git", "mktree"], cwd=root, stdin=listed, text=True).strip()
    (root / "tree").unlink()
    commit = fake_project.git(root, "commit-tree", tree, "-p", head, "-m", name).strip()
    fake_project.git(root, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", commit)
    return head


@pytest.fixture
def saved_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the metrics that `save_experiment` has saved; other commits have none."""

    def metrics(root: Path, revision: str) -> dict[str, float]:
        result = subprocess.run(
            ["git", "show", f"{revision}:figures"], cwd=root, capture_output=True, text=True, check=False
        )
        if result.stdout == "nan":
            raise dvc.DvcError("metrics.json cannot be read")
        return {METRIC: float(result.stdout)} if result.returncode == 0 else {}

    monkeypatch.setattr(outcome, "read_metrics", metrics)


@pytest.mark.usefixtures("saved_metrics")
def test_a_run_is_compared_with_one_of_an_earlier_commit(root: Path, tmp_path: Path) -> None:
    """Both have the same name, as nightly runs do. The clone of a worker fetches the experiments that were pushed."""
    name = experiment_name("quick", FULL)
    previous = save_experiment(root, name, 1.75)
    fake_project.git(root, "commit", "--quiet", "--allow-empty", "--message", "next")
    save_experiment(root, name, 1.5)
    save_experiment(root, "other", 1.25, FULL | {"seed": 1})
    fake_project.git(root, "clone", "--quiet", "--depth", "1", f"file://{root}", str(tmp_path / "clone"))
    for checkout in (root, tmp_path / "clone"):
        baseline = outcome.find_baseline(checkout, FULL, exclude=name)
        assert baseline is not None
        assert (baseline.name, baseline.metrics) == (f"{name} ({previous[:7]})", {METRIC: 1.75})
    assert "other" not in dvc.experiment_commits(tmp_path / "clone"), "only the matching experiments are fetched"

    baseline = outcome.find_baseline(tmp_path / "clone", FULL, name="other", exclude=name)
    assert baseline is not None and baseline.metrics == {METRIC: 1.25}
    for unknown in ("nothing", "HEAD"):
        with pytest.raises(dvc.DvcError, match="`dvc exp show` lists the experiments"):
            outcome.find_baseline(root, FULL, name=unknown)
    assert outcome.find_baseline(root, params.check(FULL, "").model_dump() | {"seed": 7}) is None


DOODLES = FULL | {"source": "doodles"}


@pytest.mark.usefixtures("saved_metrics")
def test_a_run_is_compared_with_one_on_the_same_drawings(root: Path) -> None:
    save_experiment(root, "quick-bucket", 1.25, FULL)
    save_experiment(root, "my-name", 1.75, DOODLES)
    save_experiment(root, "changed", 1.5, DOODLES | {"seed": 1})

    def baseline(**changes: Any) -> str | None:
        found = outcome.find_baseline(root, on_data_of(FULL | changes, FULL))
        return found.name.partition(" ")[0] if found else None

    assert baseline(seed=2) == "quick-bucket"
    assert baseline(seed=2, source="doodles") == "my-name", "whatever its name, and not the one with a change"
    for key, value in {"source": "../my drawings", "num_drawings": 1, "holdout": 0.5, "classes": ["bee"]}.items():
        assert baseline(**{key: value}) is None


@pytest.mark.parametrize(("settings", "name"), [(FULL, "HEAD"), (FULL | {"seed": 1}, None), (DOODLES, None)])
def test_the_last_commit_is_a_baseline_for_its_own_settings_only(
    root: Path, monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, Any], name: str | None
) -> None:
    monkeypatch.setattr(outcome, "read_metrics", lambda *_: {METRIC: 1.5})
    baseline = outcome.find_baseline(root, settings)
    assert (baseline and baseline.name.partition(" ")[0]) == name


@pytest.mark.usefixtures("saved_metrics")
def test_a_baseline_that_cannot_be_read_is_an_error_and_not_no_baseline(root: Path) -> None:
    save_experiment(root, "older", 1.25)
    commit = save_experiment(root, "quick-1", float("nan"))[:7]
    baseline = outcome.find_baseline(root, FULL)
    message = f"quick-1 ({commit}): metrics.json cannot be read"
    assert artifacts.verdict(FinishedRun("trial", {METRIC: 1.5}), baseline) == f"no verdict: {message}"
    with pytest.raises(dvc.DvcError) as caught:
        outcome.find_baseline(root, FULL, name="quick-1")
    assert str(caught.value) == f"the baseline {message}"


@pytest.mark.usefixtures("saved_metrics")
def test_an_unreachable_origin_is_a_warning(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = experiment_name("quick", FULL)
    fake_project.git(root, "remote", "add", "origin", str(root / "nowhere"))
    save_experiment(root, name, 1.75)
    assert outcome.find_baseline(root, FULL) is not None
    assert "Cannot fetch experiments from origin: git ls-remote: " in caplog.text


@pytest.mark.parametrize(
    ("fails", "calls", "message"),
    [
        ("", ["publish", "outputs", "reference"], None),
        ("outputs", ["publish", "outputs"],
         "trial, neither its outputs (the store is unreachable) nor its reference in Git"),
        ("reference", ["publish", "outputs", "reference"],
         "the reference of trial in Git (git push: fatal: no access); its outputs are in the store"),
    ],
)  # fmt: skip
def test_outputs_are_pushed_first_and_the_reference_only_after_them(
    root: Path, monkeypatch: pytest.MonkeyPatch, fails: str, calls: list[str], message: str | None
) -> None:
    """The run completes in any case: its summary is published before. The push includes what a stage could not push."""
    made: list[str] = []

    def push_reference(*_: str) -> None:
        made.append("reference")
        if fails == "reference":
            raise dvc.DvcError("git push: fatal: no access")

    class Recording(Stub):
        def push(self, stage: str | None = None) -> None:
            made.append("outputs")
            super().push(stage)

    workspace = Recording(push_failures=9 if fails == "outputs" else 0)
    rows = [StageRow("train", "Ran", 1.0, "the store was unreachable")]
    monkeypatch.setattr(flows, "with_watchdog", contextlib.nullcontext)
    monkeypatch.setattr(flows, "current_root", lambda: root)
    monkeypatch.setattr(flows, "run_stages", lambda *_: rows)
    monkeypatch.setattr(flows, "collect_results", lambda workspace, name, *_: FinishedRun(name, {METRIC: 1.5}))
    monkeypatch.setattr(flows, "publish_artifacts", lambda *_: made.append("publish"))
    monkeypatch.setattr(dvc, "temporary_workspace", lambda *_: contextlib.nullcontext(workspace))
    monkeypatch.setattr(flows, "update_params_file", lambda *_: None)
    monkeypatch.setattr(dvc, "remote", lambda root: "store")
    monkeypatch.setattr(dvc, "has_origin", lambda root: True)
    monkeypatch.setattr(dvc, "fetch_experiments", lambda *_: None)
    monkeypatch.setattr(dvc.Workspace, "push_reference", push_reference)
    state = flows.experiment.fn(name="trial")
    assert state.is_completed() and made == calls and workspace.pushed == [None]
    assert ((state.message or "").partition("; not pushed: ")[2] or None) == message


@pytest.mark.usefixtures("saved_metrics")
def test_the_verdict_and_the_changes_are_those_of_the_person_and_not_of_the_profile(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run with the profile quick, one change, and a local folder of drawings."""
    published: list[str] = []

    def publish(run: FinishedRun, baseline: SavedRun | None) -> None:
        published.append(artifacts.summary(run, baseline))

    committed = params.read(root / "params.yaml")
    save_experiment(root, "quick-1", 1.75, committed | profiles()["quick"] | {"source": "../my drawings"})
    monkeypatch.setattr(flows, "with_watchdog", contextlib.nullcontext)
    monkeypatch.setattr(flows, "current_root", lambda: root)
    monkeypatch.setattr(flows, "run_stages", lambda *_: [])
    monkeypatch.setattr(flows, "publish_artifacts", publish)
    monkeypatch.setattr(flows, "update_params_file", lambda *_: None)
    monkeypatch.setattr(dvc, "temporary_workspace", lambda *_: contextlib.nullcontext(Stub()))
    monkeypatch.setattr(dvc, "outputs", lambda root: [])
    read_saved = outcome.read_metrics
    monkeypatch.setattr(
        outcome,
        "read_metrics",
        lambda root, revision=None: (read_saved(root, revision) if revision else {METRIC: 1.5}) | {"heldout": "1a2b"},
    )
    changes = Settings.model_validate({"source": "../my drawings", "num_resnet": 3})
    state = flows.experiment.fn(profile="quick", settings=changes, name="trial")
    assert (state.message or "").startswith("better than quick-1 (")
    [summary] = published
    table = summary.partition("## Changes to the profile quick\n\n")[2].partition("\n\n")[0]
    assert table.splitlines()[2:] == [
        f"| source | {FULL['source']} | ../my drawings |",
        f"| num_resnet | {profiles()['quick']['num_resnet']} | 3 |",
    ]


# --- The metrics of a run ---


def test_a_flow_reads_every_metric_from_the_table(root: Path) -> None:
    assert outcome.read_metrics(root) == {}
    (root / "reports").mkdir()
    (root / "reports" / "metrics.json").write_text(
        '{"mmd": 0.5, "heldout": "1a2b3c4d", "judge": "5e6f7a8b", "generated": 480}'
    )
    shown = {"mmd": 0.5, "heldout": "1a2b3c4d", "judge": "5e6f7a8b", "generated": 480}
    assert outcome.read_metrics(root) == shown, "without the table"
    header = "metric,label,name,value,low,high,reference,better\n"
    rows = "mmd,,,0.5,,,,less\nrecall,,,0.75,,,,more\nrecall,26,bee,0.25,,,,more\nblank,,,,,,,alike\n"
    (root / "reports" / "metrics.csv").write_text(header + rows)
    assert outcome.read_metrics(root) == {"recall": 0.75} | shown
    (root / "reports" / "metrics.csv").write_text("another table\n1\n")
    assert outcome.read_metrics(root) == shown


# --- The best of a sweep ---


def run_measured(name: str, metrics: dict[str, float], judge: str = "5e6f7a8b") -> FinishedRun:
    return FinishedRun(name, metrics | {"heldout": "1a2b3c4d", "judge": judge, "generated": 480})


def test_the_message_of_a_sweep_names_the_best_or_an_unknown_metric() -> None:
    done = [run_measured("a", {METRIC: 1.5, "mmd": 2.0}), run_measured("b", {METRIC: 1.25, "mmd": 1.0}, judge="other")]

    def best(metric: str) -> str:
        return outcome.name_best(done, artifacts.comparison(done, {}, {}, metric), metric)

    assert best(METRIC) == "2 experiments; the best is b"
    assert best("mmd") == "2 experiments; none is the best by mmd, not comparable: different judges"
    one = [FinishedRun("a", {METRIC: 1.5})]
    assert outcome.name_best(one, artifacts.comparison(one, {}, {}, METRIC), METRIC) == "1 experiment; the best is a"
    message = best("heldout_bits_per_dm")
    assert message == f"2 experiments; none has the metric 'heldout_bits_per_dm'. Did you mean {METRIC!r}?"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SettingsError("num_resnet is 0; expected: 1"), "num_resnet is 0; expected: 1"),
        (StageError("tensorflow-datasets is not installed"), "tensorflow-datasets is not installed"),
        (dvc.DvcError("git push: rejected"), "git push: rejected"),
        (Stopped("stopped"), "stopped"),
        (OSError(28, "No space left on device", "params.yaml"), "params.yaml: No space left on device"),
    ],
)
def test_an_error_for_a_person_fails_the_flow_with_its_message(error: Exception, message: str) -> None:
    with outcome.failed_state_on_error() as failure:
        raise error
    assert failure.state.is_failed()
    assert failure.state.message == message


def test_a_defect_fails_the_flow_with_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), outcome.failed_state_on_error():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (FailedRun("train: the stage is broken"), ["exited with unexpected exception: train: the stage is broken"]),
        (
            SignatureMismatchError.from_bad_params(["profile"], ["profil"]),
            [r"Function expects parameters \['profile'\] .* \['profil'\]"],
        ),
        (ZeroDivisionError("defect"), ["Traceback", "ZeroDivisionError: defect"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_log_of_a_worker_shows_a_failed_run_as_one_line(error: Exception, lines: list[str]) -> None:
    """In the place where Prefect logs the end of a run's process."""
    logger, stream = logging.getLogger("prefect.engine"), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        with pytest.raises(SystemExit), handle_engine_signals():
            raise error
    finally:
        logger.removeHandler(handler)
    logged = stream.getvalue()
    assert all(re.search(line, logged) for line in lines)
    assert ("Traceback" in logged) is ("Traceback" in lines)
    assert "Traceback" in logged or len(logged.splitlines()) == 1
