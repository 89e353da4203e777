"""`python -m pipeline run` through DVC, in a repository whose stages take almost no time."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import dvc
from pipeline.__main__ import main
from stages import params
from tests import fake_project
from tests.settings import ROOT

FROM_TRAIN = ["train", "evaluate", "sample", "report"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in a home folder without a Git identity, as on a fresh machine."""
    home, root = tmp_path / "home", tmp_path / "my project"
    home.mkdir()
    root.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    fake_project.write(root)
    monkeypatch.chdir(root)
    return root


def experiment_names(root: Path) -> list[str]:
    return sorted(fake_project.git(root, "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").split())


def set_git_identity(root: Path) -> None:
    fake_project.git(root, "config", "user.name", "A Person")
    fake_project.git(root, "config", "user.email", "person@localhost")


def dvc_command(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], check=False).returncode


@pytest.mark.slow
def test_a_run_from_its_arguments_to_the_report(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--profile", "quick", "--source", "../a b, [c]: {d}"]) == 0
    out = capfd.readouterr().out
    assert out.endswith(f"report: {repository.as_uri()}/reports/index.html\n")
    assert "my%20project" in out
    assert re.search(r"^A classifier names the right class for \S+% of the generated drawings", out, re.MULTILINE)
    assert re.search(r"^The model needs \S+ bits for a pixel's value in real drawings", out, re.MULTILINE)
    assert "params.yaml holds the settings of this run; `git restore params.yaml` goes back\n" in out
    assert "compared with" not in out, "there is no earlier run"
    assert "Prefect" not in out and "dvc push" not in out, "no hints on what nobody has asked for"
    runs = fake_project.recorded_runs(repository)
    assert sorted(entry["stage"] for entry in runs) == sorted(["extract", "filter", "judge", *FROM_TRAIN])
    assert {entry["settings"]["source"] for entry in runs} == {"../a b, [c]: {d}"}
    [name] = experiment_names(repository)
    assert name.startswith("quick-")
    assert f"saved as the experiment {name}\n" in out
    assert fake_project.git(repository, "branch", "--show-current").strip() in ("main", "master"), "no detached HEAD"

    # `dvc repro` has nothing to run.
    assert dvc_command("repro") == 0
    assert fake_project.stages_run(repository) == []

    # Another change, to the params.yaml of the last run.
    assert main(["run", "-S", "num_resnet=3"]) == 0
    assert sorted(fake_project.stages_run(repository)) == sorted(FROM_TRAIN)
    assert len(experiment_names(repository)) == 2
    [experiment] = set(experiment_names(repository)) - {name}
    out = capfd.readouterr().out
    assert f"compared with the last run, {name} (num_resnet 1 → 3):\n  Class accuracy: " in out

    # The same profile again, which starts from the committed file: nothing is computed, and no experiment is added.
    assert main(["run", "--profile", "quick", "--source", "../a b, [c]: {d}"]) == 0
    assert fake_project.stages_run(repository) == []
    assert len(experiment_names(repository)) == 2
    assert "params.yaml: num_resnet 3 -> " in capfd.readouterr().out

    # The same when everything is committed.
    set_git_identity(repository)
    fake_project.git(repository, "add", "params.yaml", "dvc.lock")
    fake_project.git(repository, "commit", "--quiet", "--message", "the quick run")
    assert main(["run"]) == 0
    assert fake_project.stages_run(repository) == []

    # `dvc exp apply`, which needs a Git identity, restores the settings of an experiment.
    assert dvc_command("exp", "apply", experiment) == 0
    assert params.read(repository / "params.yaml")["num_resnet"] == 3


@pytest.mark.slow
def test_the_error_of_a_run_is_said_once(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (repository / "broken").write_text("train")
    assert main(["run"]) == 1
    out, err = capfd.readouterr()
    assert err.rstrip().splitlines()[-1] == "error: train: the stage is broken"
    assert (out + err).lower().count("error") == 1
    assert "Traceback" not in out + err
    assert experiment_names(repository) == []

    (repository / "broken").unlink()
    fake_project.stages_run(repository)
    assert main(["run"]) == 0
    assert "> " in out and "Running stage 'extract'" in out, "everything else is echoed"
    ran = set(fake_project.stages_run(repository)) - {"judge"}  # it may have run before the stage that failed
    assert ran == set(FROM_TRAIN), "completed stages do not run again"


@pytest.mark.slow
def test_a_run_that_fails_before_a_stage_has_run_leaves_the_settings(
    repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (repository / "broken").write_text("extract")
    before = (repository / "params.yaml").read_bytes()
    assert main(["run", "--profile", "quick", "--source", "doodles"]) == 1
    assert (repository / "params.yaml").read_bytes() == before
    assert "params.yaml is as it was before this run\n" in capfd.readouterr().out
    assert fake_project.git(repository, "status", "--porcelain", "--untracked-files=no") == ""

    (repository / "broken").write_text("train")
    assert main(["run", "--profile", "quick", "--source", "doodles"]) == 1
    assert (repository / "params.yaml").read_bytes() != before, "dvc repro goes on from the stages that have run"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_of_a_stopped_run_remains(repository: Path, number: signal.Signals) -> None:
    fake_project.block(repository)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 300
    while not fake_project.blocked(repository) and time.monotonic() < deadline:
        time.sleep(0.1)
    [stage] = fake_project.blocked(repository)
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert b"Traceback" not in out
    assert (b"interrupted; the same command goes on from here" in out) == (number != signal.SIGKILL)
    deadline = time.monotonic() + 60
    while is_running(stage) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(stage)

    fake_project.unblock(repository)
    fake_project.stages_run(repository)
    assert main(["run"]) == 0, "no lock remains"


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_dvc_exp_run_preserves_the_comments_of_params_yaml(repository: Path) -> None:
    before = (repository / "params.yaml").read_text(encoding="utf-8").splitlines()
    assert main(["run"]) == 0
    changes = ["-S", "learning_rate=2e-5", "-S", "classes=[cat, 'The Eiffel Tower']", "-S", "source=doodles"]
    set_git_identity(repository)
    assert dvc_command("exp", "run", *changes) == 0
    after = (repository / "params.yaml").read_text(encoding="utf-8").splitlines()
    assert [line for line in after if line.startswith("#")] == [line for line in before if line.startswith("#")]
    changed = {line for line in after if line not in before}
    assert changed == {"learning_rate: 2e-05", "source: doodles", "- cat"}
    settings = params.load(repository / "params.yaml")
    assert (settings.learning_rate, settings.classes) == (2e-5, ("cat", "The Eiffel Tower"))


def test_stages_run_on_the_python_of_this_process(repository: Path) -> None:
    environment = dvc.environment(repository)
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_a_git_identity_is_set_only_if_there_is_none(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dvc.environment(repository)["GIT_AUTHOR_NAME"] == "quickdraw-pixelcnn"
    set_git_identity(repository)
    assert "GIT_AUTHOR_NAME" not in dvc.environment(repository)
