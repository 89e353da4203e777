"""What every test shares: the markers that skip by themselves, and where real drawings are found."""

from __future__ import annotations

import functools
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stages import params
from tests.settings import FULL, ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def pytest_configure() -> None:
    # What a shell starts in the background ignores Ctrl-C, and so would the workers that tests stop by it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=[*quiet, "--disable-sync"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: Path) -> Iterator[Page]:
    """The page in a window of its own; at the end nothing has gone wrong, and nothing else has been asked for."""
    with browser.new_page() as page:
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: wrong.append(request.url))
        page.goto(path.as_uri())
        yield page
        page.title()  # what the page has said before it answers has been heard
        assert {what for what in wrong if not what.startswith(("data:", "blob:"))} == {path.as_uri()}


def refused(browser: Browser, html: str, folder: Path) -> str:
    """What the policy of a page says of a script and a picture that are put into it, neither of which does anything."""
    injected = folder / "injected.html"
    script = "<script>document.title = 'injected'</script><img src=x onerror=\"document.title = 'injected'\">"
    injected.write_text(html.replace("</body>", f"{script}</body>"), encoding="utf-8")
    with browser.new_page() as page:
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(injected.as_uri())
        assert page.title() not in ("", "injected")
    return "\n".join(said)


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
