"""The generated drawings are read unchanged, or rejected with a one-line error."""

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
    ("content", "message"),
    [
        (None, "data/sample/samples.npy is missing: run the stage sample first"),
        (b"", r"data/sample/samples.npy cannot be used \(.*\): run the stage sample again"),
        (
            np.zeros((2, 4, 28, 28, 1), np.uint8),
            r"shape \(2, 4, 28, 28, 1\); expected: \(2, 5 or more, ",
        ),
        (
            np.zeros((3, 5, 28, 28, 1), np.uint8),
            r"expected: \(2, 5 or more, height, width, channels\)\): run the stage sample",
        ),
        (np.zeros((2, 5, 28, 28, 1)), "holds float64"),
        (np.zeros(3, np.uint8), r"the shape \(3,\)"),
    ],
)
def test_invalid_samples_are_rejected(
    content: bytes | npt.NDArray[Any] | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    PATH.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        PATH.write_bytes(content)
    elif content is not None:
        np.save(PATH, content)
    with pytest.raises(StageError, match=message):
        samples.read(num_classes=2, per_class=5)


def test_all_samples_are_read_if_there_are_more_than_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PATH.parent.mkdir(parents=True)
    written = np.arange(2 * 8 * 784).astype(np.uint8).reshape(2, 8, 28, 28, 1)
    np.save(PATH, written)
    np.testing.assert_array_equal(samples.read(num_classes=2, per_class=5), written)
