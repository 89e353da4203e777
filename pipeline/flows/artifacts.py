"""What a run leaves in Prefect for people, as text: its verdict, summary, comparison and progress."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import UUID

if TYPE_CHECKING:
    from typing import TypeGuard

METRIC = "heldout_bits_per_dim"  # what an experiment is judged by; less is better
EQUAL = 0.0005  # a difference that three decimals do not show

PERCENT = re.compile(r"\((\d+)%\)")


@dataclass
class StageRow:
    """How a stage of a run went, and why what it has made could not be sent to the store, where that is so."""

    stage: str
    state: str
    seconds: float
    not_pushed: str = ""


@dataclass(frozen=True)
class SavedRun:
    """A run that is kept: what it is called, and its figures by name, those in groups as `group.name`."""

    name: str
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class FinishedRun(SavedRun):
    """A run that has come to its end.

    Attributes:
      differing: the settings that differ from those of the repository, as (there, here).
      report: the path and the hash of its report, where it has one.
    """

    rows: Sequence[StageRow] = ()
    differing: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    report: tuple[str, str | None] | None = None


def flatten(figures: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Figures by name, those of a group as `group.name`."""
    found: dict[str, Any] = {}
    for key, value in figures.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def verdict(run: SavedRun, baseline: SavedRun | None, metric: str = METRIC) -> str:
    """Whether a run is better or worse than the baseline, and by how much, in one sentence."""
    now = run.figures.get(metric)
    if not _is_number(now):
        return f"no verdict: the run has no {metric}"
    if baseline is None:
        return f"no verdict: no run of the settings as committed is kept here to hold {metric} {_short(now)} against"
    before = baseline.figures.get(metric)
    if not _is_number(before):
        return f"no verdict: {baseline.name} has no {metric}"
    change = now - before
    if abs(change) < EQUAL:
        return f"equal to {baseline.name}: {metric} {_short(now)}"
    word = "better" if change < 0 else "worse"
    return f"{word} than {baseline.name} by {_short(abs(change))}: {metric} {_short(before)} → {_short(now)}"


def summary(run: FinishedRun, baseline: SavedRun | None) -> str:
    """A run in Markdown: its verdict, settings, figures, report."""
    lines = [f"# {run.name}", "", f"**{_escape(verdict(run, baseline))}**", "", "## Settings", ""]
    if run.differing:
        lines += _table(("setting", "as committed", "here"), ((key, *values) for key, values in run.differing.items()))
    else:
        lines.append("As committed.")
    lines += ["", "## Figures", ""]
    before = baseline.figures if baseline else {}
    lines += _table(
        ("figure", baseline.name if baseline else "before", "here", "change"),
        (
            (key, _short(before.get(key, "")), _short(value), _change(before.get(key), value))
            for key, value in run.figures.items()
        ),
    )
    if run.report:
        path, digest = run.report
        lines += ["", "## Report", "", f"`{path}`, MD5 `{digest}`"]
    return "\n".join(lines) + "\n"


def comparison(
    runs: Iterable[SavedRun], failed: Mapping[str, str], changes: Mapping[str, Mapping[str, Any]], metric: str = METRIC
) -> list[dict[str, Any]]:
    """A row for each experiment of a sweep, the best first, those that failed last."""
    best_first = sorted(runs, key=lambda run: _rank(run.figures.get(metric)))
    rows: list[dict[str, Any]] = [
        {"experiment": run.name, metric: run.figures.get(metric), **_plain(changes.get(run.name, {})), "state": "done"}
        for run in best_first
    ]
    return rows + [
        {"experiment": name, metric: None, **_plain(changes.get(name, {})), "state": reason}
        for name, reason in failed.items()
    ]


def link(template: str, run: FinishedRun) -> str | None:
    """The address of a run's report, from one with `{name}` and `{hash}` in it."""
    if not template or run.report is None:
        return None
    return template.replace("{name}", quote(run.name)).replace("{hash}", run.report[1] or "")


class Progress:
    """A stage's progress in Prefect, from the plain lines that it prints: `training: 12 of 80 steps (15%), …`."""

    def __init__(self, stage: str) -> None:
        self._key = key(f"{stage}-progress")
        self._artifact: UUID | None = None

    def add(self, line: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        found = PERCENT.search(line)
        if not found:
            return
        share = float(found[1])
        if self._artifact is None:
            self._artifact = create_progress_artifact(share, key=self._key, description=line)  # type: ignore[assignment]
        else:
            update_progress_artifact(self._artifact, share, description=line)


def key(text: str) -> str:
    """A key as Prefect takes it: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _is_number(value: object) -> "TypeGuard[float]":
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rank(value: object) -> float:
    return float(value) if _is_number(value) else float("inf")


def _change(before: Any, now: Any) -> str:
    return f"{now - before:+.4g}" if _is_number(before) and _is_number(now) else ""


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if _is_number(value) else str(value) for name, value in values.items()}


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [f"| {' | '.join(map(_escape, head))} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(_escape(_short(cell)) for cell in row)} |" for row in rows]


def _escape(text: str) -> str:
    """Text as Markdown that shows it; an underscore within a word is as it is, so that an address stays one."""
    return re.sub(r"[|*`<>\[\]\\]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split()))
