from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.quickdraw import images, mirrors
from tests.stages.drawings import COUNTS, make_mirror, noise


def test_write_joins_blocks_and_prefetched_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "BLOCK", 7)
    mirror = mirrors.Folder(make_mirror(tmp_path / "mirror"))
    names, rows = ["tree", "bee", "zorro", "bee"] * 5, list(range(20))
    drawings = pd.DataFrame({"position": range(20), "name": pd.Categorical(names), "row": rows})
    images.write(tmp_path / "images.npy", drawings, mirror)
    written = np.load(tmp_path / "images.npy", allow_pickle=False)
    expected = np.stack([noise(name, COUNTS[name])[row] for name, row in zip(names, rows, strict=True)])
    assert written.dtype == np.uint8
    assert np.array_equal(written, expected.reshape(20, 28, 28, 1))

    selected = drawings.iloc[[3, 17, 8]]
    assert np.array_equal(images.Prefetched(tmp_path / "images.npy").pixels(selected), expected[[3, 17, 8]])
