from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty row cache for each test."""
    monkeypatch.delenv("QUICKDRAW_FETCH", raising=False)
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
