"""The generated drawings are read as they were written, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stages.common.errors import StageError
from stages.outputs import samples

PATH = samples.FOLDER / samples.IMAGES


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "data/sample/samples.npy is not there: run the stage sample first"),
        (b"", "data/sample/samples.npy cannot be used (.*): run the stage sample again"),
        (np.zeros((2, 4, 28, 28, 1), np.uint8), r"its shape is \(2, 4, 28, 28, 1\); expected: \(2, 5, .* or more"),
        (np.zeros((3, 5, 28, 28, 1), np.uint8), r"expected: \(2, 5, .* or more of each class\): run the stage sample"),
        (np.zeros((2, 5, 28, 28, 1)), "holds float64"),
        (np.zeros(3, np.uint8), r"its shape is \(3,\)"),
    ],
)
def test_samples_that_cannot_be_measured(
    content: bytes | npt.NDArray[Any] | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    PATH.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        PATH.write_bytes(content)
    elif content is not None:
        np.save(PATH, content)
    with pytest.raises(StageError, match=said):
        samples.read(num_classes=2, per_class=5)


def test_all_samples_are_read_where_there_are_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PATH.parent.mkdir(parents=True)
    written = np.arange(2 * 8 * 784).astype(np.uint8).reshape(2, 8, 28, 28, 1)
    np.save(PATH, written)
    np.testing.assert_array_equal(samples.read(num_classes=2, per_class=5), written)
