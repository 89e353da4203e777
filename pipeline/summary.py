"""What a finished run prints: what it has reached, what has changed since the last run, and how to go on."""

import csv
import json
import re
from pathlib import Path

from pipeline import dvc
from pipeline.compare import (
    CLASSES,
    METRICS_SUMMARY,
    METRICS_TABLE,
    describe_differences,
    differing_settings,
    parse_metrics,
)
from stages import params
from stages.reporting.metric_values import why_incomparable
from stages.reporting.sentences import HEADLINE_METRICS, UNKNOWN, describe_change, describe_metrics


def describe_run(root: Path) -> list[str]:
    """What the run in the checkout has reached, in sentences; empty if its metrics cannot be read."""
    try:
        metrics, _ = parse_metrics((root / METRICS_TABLE).read_text(encoding="utf-8"))
    except (OSError, csv.Error, KeyError, TypeError, ValueError):  # a person may have changed the graph
        return []
    doodles = params.read(root / "params.yaml")["source"].rstrip("/") == params.DOODLES
    return describe_metrics(metrics, "stand-in" if doodles else "real", _heldout_drawings(root))


def _heldout_drawings(root: Path) -> int | None:
    """How many drawings the run in the checkout has held out; None if that cannot be read."""
    try:
        with open(root / CLASSES, encoding="utf-8", newline="") as file:
            return sum(int(row["heldout_drawings"]) for row in csv.DictReader(file))
    except (OSError, csv.Error, KeyError, TypeError, ValueError):
        return None


def describe_changes(root: Path, name: str, changed: str | None) -> list[str]:
    """What has changed since the last run, in lines.

    Empty if there is no such run, or if its metrics are not in this machine's cache.

    Args:
      root: the root of the repository, whose checkout has the outputs of a run.
      name: the experiment of this run.
      changed: the fingerprint of the settings that this run has changed, for `find_last_run`.
    """
    try:
        last = find_last_run(root, name, changed)
        return _compare(root, last) if last else []
    except Exception:  # this run is complete and saved, whatever is wrong with an earlier one
        return []


def find_last_run(root: Path, name: str, changed: str | None) -> dvc.Experiment | None:
    """The experiment that the run `name` of the commit HEAD is compared with; None if there is none.

    This is the newest one with the settings that the run has changed, or else the newest one of the same profile.

    Args:
      root: the root of the repository.
      name: the experiment of the run that is compared.
      changed: the fingerprint of the settings that it has changed; None if it started from a profile, or if nothing
        was changed.
    """
    this = (name, dvc.resolve_commit(root, "HEAD"))
    newest_first = [run for run in dvc.list_experiments(root)[::-1] if (run.name, run.baseline) != this]
    profile = re.escape(name.rpartition("-")[0])
    patterns = [rf".+-{changed}"] * bool(changed) + [rf"{profile}-[0-9a-f]{{8}}"]
    return next((run for pattern in patterns for run in newest_first if re.fullmatch(pattern, run.name)), None)


def _compare(root: Path, last: dvc.Experiment) -> list[str]:
    """The lines of `describe_changes`."""
    before, _ = parse_metrics(dvc.read_from_cache(root, last.commit, METRICS_TABLE).decode())
    after, _ = parse_metrics((root / METRICS_TABLE).read_text(encoding="utf-8"))
    measured_with = [
        json.loads(content)
        for content in (dvc.read_from_cache(root, last.commit, METRICS_SUMMARY), (root / METRICS_SUMMARY).read_bytes())
    ]
    lines = []
    for metric in HEADLINE_METRICS:
        reasons = why_incomparable(metric, measured_with)
        lines.append(describe_change(metric, before.get(metric, UNKNOWN), after.get(metric, UNKNOWN), reasons))
    header = f"compared with the last run, {last.name} ({_changed_settings(root, last)}):"
    return [header, *(f"  {line}" for line in lines if line)] if any(lines) else []


def _changed_settings(root: Path, last: dvc.Experiment) -> str:
    """The settings that differ between a run and the checkout, such as `seed 0 → 1`."""
    before = params.parse(dvc.read_committed(root, "params.yaml", last.commit), "params.yaml")
    after = params.read(root / "params.yaml")
    return describe_differences(differing_settings([before, after])) or "the same settings"


def describe_checkout(root: Path, name: str) -> list[str]:
    """What the run has left in the checkout, in lines: how to undo, keep and share it."""
    changed = dvc.changed_files(root) & dvc.RUN_FILES
    lines = []
    if "params.yaml" in changed:
        lines.append("params.yaml holds the settings of this run; `git restore params.yaml` goes back")
    if changed:
        lines.append(f"`git commit {' '.join(sorted(changed, reverse=True))}` keeps the run (README.md says how)")
    if dvc.remote(root):  # without one, there is nowhere to share it
        lines.append(f"`dvc exp push origin {name}` shares it with colleagues")
    return lines
