from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of rows for one test alone."""
    monkeypatch.delenv("QUICKDRAW_FETCH", raising=False)
    monkeypatch.setenv("QUICKDRAW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
