"""Shared by all tests: markers that skip tests, browser helpers, and fixtures for real drawings and settings."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stages import params
from tests.settings import FULL, ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SLOW = ("slow", "robustness", "prefect")  # markers of tests that run with --slow only


def pytest_configure() -> None:
    # Shells start background jobs with SIGINT ignored; workers would inherit that, and tests stop them with SIGINT.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # As in the stages, whose results tests compare with those computed here.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, robustness or prefect as well")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow tests first, so that of the processes that share them none waits long at the end."""
    slow = {item.path for item in items if any(item.get_closest_marker(marker) for marker in SLOW)}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in SLOW:
        if item.get_closest_marker(marker) and not item.config.getoption("--slow"):
            pytest.skip(f"{marker}: runs with --slow")
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("gpu: TensorFlow sees no GPU")
    if item.get_closest_marker("browser") and chromium() is None:
        pytest.skip("browser: Chromium is missing; install it with `python -m playwright install chromium`")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed TensorFlow: a command that an earlier test called may have made its operations deterministic."""
    if tensorflow := sys.modules.get("tensorflow"):
        tensorflow.random.set_seed(0)


@functools.cache
def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


@functools.cache
def chromium() -> str | None:
    """Return the path of Chromium, of the system or else of Playwright; None if neither exists."""
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

    options = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=[*options, "--disable-sync"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: Path, **options: Any) -> Iterator[Page]:
    """Open a page in a new window. At the end, check that it had no errors and requested nothing but itself."""
    with browser.new_page(**options) as page:
        events: list[str] = []
        page.on("console", lambda message: events.append(message.text))
        page.on("pageerror", lambda error: events.append(str(error)))
        page.on("dialog", lambda dialog: events.append(dialog.message))
        page.on("request", lambda request: events.append(request.url))
        page.goto(path.as_uri())
        yield page
        page.title()  # when this returns, all earlier events have arrived
        assert {event for event in events if not event.startswith(("data:", "blob:"))} == {path.as_uri()}


def inaccessible(page: Page) -> list[str]:
    """What axe-core finds wrong with a page: the impact, the rule, and the first element that breaks it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing").Axe()
    found = axe.run(page).response["violations"]
    return [f"{entry['impact']} {entry['id']}: {entry['nodes'][0]['html']:.200}" for entry in found]


# The screens on which every page must be accessible: a desktop and a phone, light and dark.
LOOKS: dict[str, dict[str, Any]] = {
    f"{device} {scheme}": {"viewport": viewport, "has_touch": device == "phone", "color_scheme": scheme}
    for device, viewport in {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}.items()
    for scheme in ("light", "dark")
}


def refused(browser: Browser, html: str, folder: Path) -> str:
    """Inject a script and an image into a page, check that neither runs, and return the browser's messages."""
    injected = folder / "injected.html"
    script = "<script>document.title = 'injected'</script><img src=x onerror=\"document.title = 'injected'\">"
    injected.write_text(html.replace("</body>", f"{script}</body>"), encoding="utf-8")
    with browser.new_page() as page:
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.goto(injected.as_uri())
        assert page.title() not in ("", "injected")
    return "\n".join(messages)


@pytest.fixture(scope="session")
def real_mirror() -> Path:
    """A folder of real drawings, `<class>.npy`: $QUICKDRAW_MIRROR, or the one beside the repository."""
    folder = Path(os.environ.get("QUICKDRAW_MIRROR") or ROOT.parent / "shared" / "quickdraw" / "numpy_bitmap")
    if not any(folder.glob("*.npy")):
        pytest.skip("real drawings are missing; set QUICKDRAW_MIRROR to their folder")
    return folder


@pytest.fixture(scope="session")
def full_run() -> params.Params:
    """The settings of the full run; a test changes them with `.model_copy(update={…})`."""
    return params.check(FULL, "params.yaml")
