"""Which drawings of a source a run can use: the first ones, and at least two of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from stages.common.errors import StageError, counted, list_names
from stages.quickdraw.labels import as_yaml, explain_unknown, numbered

if TYPE_CHECKING:
    import pandas as pd

# Drawings of a source. The public bucket has 50 million; every drawing is hashed, so more would take too long.
MAX_DRAWINGS = 2**31
MIN_PER_CLASS = 2  # one to train on and one to hold out


def resolve_num_drawings(setting: int | Literal["all"], counts: Mapping[str, int]) -> int:
    """Return the number of drawings to list: all of the source if it has fewer than `setting`.

    Args:
      setting: the setting `num_drawings`.
      counts: the number of drawings of each class of the source.

    Raises:
      StageError: the source has no drawings, or claims more than `MAX_DRAWINGS`.
    """
    total = sum(counts.values())
    if total > MAX_DRAWINGS:
        raise StageError(f"source: it claims {total:,} drawings; {MAX_DRAWINGS:,} is the maximum supported")
    if total == 0:
        raise StageError("source: it holds no drawings: its files have no rows")
    return total if setting == "all" else min(setting, total)


def build_index(counts: Mapping[str, int], number: int) -> pd.DataFrame:
    """List the first `number` drawings in the order of TensorFlow Datasets' quickdraw_bitmap.

    Args:
      counts: the number of drawings of each class of the source.
      number: at most the sum of `counts`.

    Returns:
      One row per drawing: position (int64), label (int16), name (category) and row (int32).
    """
    import numpy as np
    import pandas as pd

    from stages.quickdraw import tfds_order

    ranked = tfds_order.first(counts, number)
    labels = numbered(counts)
    return pd.DataFrame(
        {
            "position": np.arange(number, dtype=np.int64),
            "label": np.array([labels[name] for name in counts], np.int16)[ranked.group],
            "name": pd.Categorical.from_codes(ranked.group, pd.Index(list(counts))),
            "row": ranked.row,
        }
    )


def find_scarce(classes: Sequence[str], listed: Mapping[str, int]) -> dict[str, int]:
    """The classes with fewer than two listed drawings, and how many these are.

    Args:
      classes: of the run.
      listed: the number of drawings of each class in the index.
    """
    return {name: count for name in classes if (count := listed.get(name, 0)) < MIN_PER_CLASS}


def explain_scarce(scarce: Mapping[str, int], listed: int, available: Mapping[str, int]) -> str:
    """Explain in one line why classes have too few drawings.

    Args:
      scarce: the number of drawings of each such class in the index.
      listed: the number of drawings in the index.
      available: the number of drawings of each class of the source.
    """
    explanations = []
    if unknown := [name for name in scarce if name not in available]:
        example = as_yaml(list(available)[:2])
        explanations.append(
            f"{explain_unknown(unknown, available, 'the source')} It has {list_names(available, 10)}. Choose from its "
            f"classes: make run SET='classes={example}', or -S 'classes={example}'"
        )
    if few := {name: available[name] for name in scarce if available.get(name, 2) < 2}:
        explanations.append(
            f"the source has {_list_counts(few)}; expected: at least 2 of each class; add drawings, or choose other "
            "classes"
        )
    if late := {name: count for name, count in scarce.items() if available.get(name, 0) > 1}:
        explanations.append(
            f"the index of {counted(listed, 'drawing')} has {_list_counts(late)}; expected: at least 2 of each class; "
            f"raise num_drawings (the source has {_list_counts({name: available[name] for name in late})} in "
            f"{counted(sum(available.values()), 'drawing')})"
        )
    return ". Also, ".join(explanations)


def _list_counts(counts: Mapping[str, int]) -> str:
    """Return `0 of 'bee', 1 of 'sun'`."""
    return ", ".join(f"{count} of {name!r}" for name, count in counts.items())
