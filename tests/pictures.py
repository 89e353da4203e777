"""Make the README's pictures of the report, from the report of the run in this checkout.

reads    reports/index.html
writes   docs/report.png        the first screen and the classes
         docs/completions.png   held-out drawings, completed by the model
command  python -m tests.pictures
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from stages.common import files
from tests.conftest import chromium, opened

if TYPE_CHECKING:
    from playwright.sync_api import Page

REPORT = Path("reports/index.html")
FOLDER = Path("docs")
WIDTH = 1100
MARGIN = 12  # below the last element of a picture
# The element with which each picture begins, and the one with which it ends.
PICTURES = {"report.png": ("header", "#classes"), "completions.png": ("#completions", "#completions ~ .films")}
COLOURS = 64  # of a picture; the page has shades of grey and one colour


def main() -> None:
    """Make the pictures. Exits with a message of one line if there is no report, no part of it, or no browser."""
    from playwright.sync_api import sync_playwright

    if not REPORT.is_file():
        raise SystemExit(f"error: {REPORT} is missing: `make run` makes it")
    if chromium() is None:
        raise SystemExit("error: Chromium is missing: install it with `python -m playwright install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        viewport = {"width": WIDTH, "height": 800}
        with opened(browser, REPORT.resolve(), viewport=viewport, color_scheme="light") as page:
            pictures = {name: picture(page, *ends) for name, ends in PICTURES.items()}
        browser.close()
    for name, content in pictures.items():
        with files.atomic_file(FOLDER / name) as temporary:
            temporary.write_bytes(content)
        print(f"{FOLDER / name}: {len(content):,} bytes")


def picture(page: Page, first: str, last: str) -> bytes:
    """The part of a page from the top of an element to the bottom of another one, as a small PNG."""
    top, bottom = (page.locator(element).first for element in (first, last))
    if not bottom.count():
        raise SystemExit(
            f"error: {REPORT} has no {first.strip('#')}: they need another run, with completions_per_class=2"
        )
    start, end = top.bounding_box(), bottom.bounding_box()
    assert start and end
    height = end["y"] + end["height"] + MARGIN - start["y"]
    clip = {"x": 0, "y": start["y"], "width": WIDTH, "height": height}
    png = page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]
    small = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


if __name__ == "__main__":
    main()
