"""The workflows of the hosting service: what they run is there, and they may do no more than they need."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.settings import ROOT

WORKFLOWS = {path.stem: YAML(typ="safe", pure=True).load(path) for path in ROOT.glob(".github/workflows/*.yml")}
STEPS = [
    (f"{workflow}/{name}", step)
    for workflow, content in WORKFLOWS.items()
    for name, job in content["jobs"].items()
    for step in job["steps"]
]


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_workflow_may_read_the_code_alone_and_ends(workflow: str) -> None:
    content = WORKFLOWS[workflow]
    assert content["permissions"] == {"contents": "read"}
    assert content["concurrency"]["cancel-in-progress"] is True, "a newer commit ends the run of an older one"
    assert all(job["timeout-minutes"] <= 120 for job in content["jobs"].values())


def test_only_the_job_that_publishes_may_write() -> None:
    jobs = {name: job.get("permissions", {}) for content in WORKFLOWS.values() for name, job in content["jobs"].items()}
    assert [name for name, permissions in jobs.items() if "write" in permissions.values()] == ["publish"]
    assert jobs["publish"] == {"pages": "write", "id-token": "write"}


def test_actions_have_a_major_version() -> None:
    actions = [step["uses"] for _, step in STEPS if "uses" in step]
    assert len(actions) >= 6
    assert [action for action in actions if not re.fullmatch(r"actions/[a-z-]+@v\d+", action)] == []


def test_what_a_step_runs_is_there() -> None:
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    scripts = [step["run"] for _, step in STEPS if "run" in step]
    assert set(re.findall(r"\bmake (\w+)", "\n".join(scripts))) == {"run"} <= set(targets)
    assert ".ci/run" in scripts and os.access(ROOT / ".ci" / "run", os.X_OK)
    for script in scripts:
        subprocess.run(["bash", "-n", "-c", script], check=True)


def test_the_report_is_kept_and_its_conditions_name_steps_and_jobs() -> None:
    jobs = WORKFLOWS["report"]["jobs"]
    [kept] = [step for step in jobs["report"]["steps"] if "upload-artifact" in step.get("uses", "")]
    assert (kept["with"]["path"], "if" in kept) == ("reports/index.html", False)
    text = (ROOT / ".github" / "workflows" / "report.yml").read_text(encoding="utf-8")
    ids = {step["id"] for _, step in STEPS if "id" in step}
    assert set(re.findall(r"\bsteps\.(\w+)\.", text)) == ids
    assert set(re.findall(r"\bneeds\.(\w+)\.", text)) == {jobs["publish"]["needs"]} <= jobs.keys()


@pytest.mark.parametrize(
    ("gh", "source"),
    [("echo workflow", "workflow"), ("echo legacy", "legacy"), ('echo \'{"status":"404"}\'; exit 1', "none")],
)
def test_where_pages_are_not_enabled_nothing_is_published_and_nothing_fails(
    gh: str, source: str, tmp_path: Path
) -> None:
    """`gh api` prints the answer and fails if the repository has no Pages."""
    (tmp_path / "gh").write_text(f"#!/bin/sh\n{gh}\n")
    (tmp_path / "gh").chmod(0o755)
    steps: list[dict[str, Any]] = WORKFLOWS["report"]["jobs"]["report"]["steps"]
    [script] = [step["run"] for step in steps if step.get("id") == "pages"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GITHUB_REPOSITORY": "a/b"}
    environment["GITHUB_OUTPUT"] = str(tmp_path / "output")
    subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script], env=environment, check=True)
    assert (tmp_path / "output").read_text() == f"source={source}\n"
    conditional = [step for step in steps if "if" in step] + [WORKFLOWS["report"]["jobs"]["publish"]]
    assert len(conditional) == 3
    assert all(step["if"].endswith("== 'workflow'") for step in conditional)
