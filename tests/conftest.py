"""What every test shares: the markers that skip by themselves, and where real drawings are found."""

import functools
import os
import shutil
from pathlib import Path

import pytest

from stages import params
from tests.settings import FULL, ROOT


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, torture or prefect as well")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in ("slow", "torture", "prefect"):
        if item.get_closest_marker(marker) and not item.config.getoption("--slow"):
            pytest.skip(f"{marker}: runs with --slow")
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("gpu: TensorFlow sees no GPU")
    if item.get_closest_marker("browser") and chromium() is None:
        pytest.skip("browser: no Chromium here; `python -m playwright install chromium` brings one")


@functools.cache
def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


@functools.cache
def chromium() -> str | None:
    """The path of a Chromium: the system's, else the one that Playwright installed."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


@pytest.fixture(scope="session")
def real_mirror() -> Path:
    """A folder of real drawings, `<class>.npy`: $QUICKDRAW_MIRROR, or the one beside the repository."""
    found = os.environ.get("QUICKDRAW_MIRROR") or ROOT.parent / "shared" / "quickdraw" / "numpy_bitmap"
    if not any(Path(found).glob("*.npy")):
        pytest.skip("no real drawings here; name their folder in QUICKDRAW_MIRROR")
    return Path(found)


@pytest.fixture(scope="session")
def full_run() -> params.Params:
    """The settings of the full run; `.model_copy(update={…})` gives a test its own."""
    return params.check(FULL, "params.yaml")
