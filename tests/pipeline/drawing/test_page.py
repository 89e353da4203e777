"""The drawing page in a browser: by mouse, by finger on a phone, and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from stages.inference.trained_model import TrainedModel, class_probabilities
from stages.quickdraw.doodles import raster
from tests.conftest import LOOKS, inaccessible
from tests.pipeline.drawing.page_server import serving, untrained

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SHAPE = (28, 28, 1)
REAL = np.random.default_rng(0).integers(0, 256, (1, *SHAPE), np.uint8)
REAL[:, ::2] = 0

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return untrained(SHAPE)


@pytest.fixture(scope="module")
def link(model: TrainedModel) -> Iterator[str]:
    with serving(model, {"tree": REAL}) as port:
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def opened(browser: Browser, link: str, **options: Any) -> Iterator[Page]:
    """Open the page in a new window. At the end, check that it had no errors and requested nothing from elsewhere."""
    with browser.new_context(**options) as context:
        page = context.new_page()
        events: list[str] = []
        page.on("console", lambda message: events.append(message.text))
        page.on("pageerror", lambda error: events.append(str(error)))
        page.on("request", lambda request: events.append(request.url))
        page.goto(link)
        expect(page.get_by_role("button", name="Pen")).to_be_visible()
        yield page
        page.title()  # when this returns, all earlier events have arrived
        expected = (link, "data:", "Canvas2D: Multiple readback operations")  # the last: the tests read the pixels
        assert [event for event in events if not event.startswith(expected)] == []


def pixels(page: Page, canvas: str) -> Any:
    """The pixels of a canvas, as the model sees them."""
    script = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    return np.array(page.locator(canvas).evaluate(script), np.uint8).reshape(28, 28, 4)[..., :1]


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a point of the drawing is in the window; (0, 0) is the centre of the first pixel."""
    box = page.locator("#drawing").bounding_box()
    assert box is not None
    return box["x"] + (x + 0.5) * box["width"] / 28, box["y"] + (y + 0.5) * box["height"] / 28


def draw_by_mouse(page: Page, points: list[tuple[float, float]]) -> None:
    page.mouse.move(*at(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*at(page, *point), steps=4)
    page.mouse.up()


def wait(page: Page) -> None:
    expect(page.locator("#status")).to_contain_text("8 completions in", timeout=60_000)
    expect(page.locator("#guesses li")).to_have_count(3, timeout=60_000)


def test_a_drawing_by_mouse_is_completed_classified_and_saved(
    browser: Browser, link: str, model: TrainedModel, tmp_path: Any
) -> None:
    with opened(browser, link, viewport={"width": 1280, "height": 800}) as page:
        page.get_by_label("Class").select_option("tree")
        page.get_by_label("Seed").fill("11")
        page.get_by_label("Temperature").fill("0.9")
        draw_by_mouse(page, [(4, 5), (20, 9), (14, 16)])
        wait(page)
        drawing = pixels(page, "#drawing")
        x, y = np.array([[4.0, 20, 14]]), np.array([[5.0, 9, 16]])
        expected = raster.render(x, y, np.ones((1, 2), bool)).reshape(SHAPE)
        np.testing.assert_allclose(drawing.astype(float), expected, atol=2, err_msg="the pen is that of the data")

        completed = model.complete(drawing[np.newaxis], "tree", 8, rows=14, seed=11, temperature=0.9, guidance=2)[0]
        for index, picture in enumerate(completed):
            np.testing.assert_array_equal(pixels(page, f"#completions li:nth-child({index + 1}) canvas"), picture)
        with page.expect_download() as download:
            page.get_by_role("link", name="Save completion 3").click()
        assert download.value.suggested_filename == "tree 11-3.png"
        download.value.save_as(tmp_path / "saved.png")
        with Image.open(tmp_path / "saved.png") as image:
            np.testing.assert_array_equal(np.asarray(image), completed[2, ..., 0])
            assert (image.info["class"], image.info["seed"], image.info["number"]) == ("tree", "11", "2")

        bits = model.bits_by_class(drawing[np.newaxis])[0]
        likeliest = model.classes[class_probabilities(bits[:, :14].sum(axis=(1, 2))).argmax()]
        expect(page.locator("#guesses li").first).to_contain_text(likeliest)
        page.get_by_role("button", name="Surprise").click()
        expect(page.locator("#legend")).to_contain_text(f"need {bits[2, :14].sum():.0f} bits")

        draw_by_mouse(page, [(4, 20), (20, 20)])
        page.get_by_role("button", name="Undo").click()
        np.testing.assert_array_equal(pixels(page, "#drawing"), drawing)
        page.get_by_role("button", name="A real drawing").click()
        expect(page.locator("#status")).to_contain_text("The model draws")
        np.testing.assert_array_equal(pixels(page, "#drawing"), REAL[0])
        page.get_by_role("button", name="Clear").click()
        assert not pixels(page, "#drawing").any()
        page.keyboard.press("Control+z")
        np.testing.assert_array_equal(pixels(page, "#drawing"), REAL[0])


def test_a_drawing_by_finger_on_a_phone(browser: Browser, link: str, model: TrainedModel) -> None:
    with opened(browser, link, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 390, "nothing overflows"
        touch = page.context.new_cdp_session(page)

        def drag(*points: tuple[float, float]) -> None:
            kinds = ["touchStart", *["touchMove"] * (len(points) - 1)]
            for kind, (x, y) in zip(kinds, points, strict=True):
                touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        drag(*(at(page, 10, y) for y in range(4, 20, 3)))
        wait(page)
        drawing = pixels(page, "#drawing")
        assert (drawing[4:19, 9:12].max(axis=1) > 200).all() and not drawing[:, 13:].any(), "a line, and no scrolling"
        right = at(page, 29, 0)[0]
        drag((right, at(page, 0, 13.5)[1]), (right, at(page, 0, 15)[1]), (right, at(page, 0, 19.4)[1]))
        expect(page.get_by_role("slider")).to_have_attribute("aria-valuetext", "20 of 28 rows")
        expect(page.locator("#status")).to_contain_text("The model draws")
        wait(page)
        completed = model.complete(drawing[np.newaxis], "bee", 8, rows=20)[0]
        np.testing.assert_array_equal(pixels(page, "#completions li:last-child canvas"), completed[7])


def test_a_drawing_by_keyboard(browser: Browser, link: str, model: TrainedModel) -> None:
    with opened(browser, link) as page:
        page.get_by_label("Class").focus()
        page.keyboard.press("Tab")
        expect(page.locator("#drawing")).to_be_focused()
        for key in ["Space", *["ArrowRight"] * 5, *["ArrowUp"] * 3, "Space", "ArrowLeft"]:
            page.keyboard.press(key)
        drawing = pixels(page, "#drawing")
        assert (drawing[7, 14:20] > 200).all() and (drawing[4:8, 19] > 200).all() and not drawing[:3].any()
        page.keyboard.press("Tab")
        for key in ["ArrowDown", "ArrowDown", "PageUp"]:
            page.keyboard.press(key)
        expect(page.get_by_role("slider")).to_have_attribute("aria-valuenow", "12")
        wait(page)
        completed = model.complete(drawing[np.newaxis], "bee", 8, rows=12)[0]
        np.testing.assert_array_equal(pixels(page, "#completions li:first-child canvas"), completed[0])
        expect(page.get_by_role("link", name=re.compile("Save completion"))).to_have_count(8)


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_wrong(browser: Browser, link: str, look: str) -> None:
    with opened(browser, link, **LOOKS[look]) as page:
        assert inaccessible(page) == [], "before the first line"
        page.get_by_label("Class").select_option("tree")
        page.get_by_role("button", name="A real drawing").click()
        wait(page)
        page.get_by_role("button", name="Surprise").click()
        expect(page.locator("#legend")).to_contain_text("bits")
        assert inaccessible(page) == [], "a drawing with its completions"
