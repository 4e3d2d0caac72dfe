"""The slider of a comparison, in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy.evaluation.comparison import scene_of, write_comparison
from sr_deploy.pictures.picture import Picture
from tests import short_and_long
from tests.browser import open_browser, open_page, pixels_of

RED, GREEN, BLUE = (210, 30, 30), (30, 180, 60), (40, 60, 220)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red, a green and a blue picture, 60x40, 120x80 and 240x160."""
    path = tmp_path_factory.mktemp("page") / "é [x].html"
    images = []
    for factor, (name, color) in zip((1, 2, 4), {"red": RED, "green": GREEN, "blue": BLUE}.items(), strict=True):
        images.append((name, Picture(np.full((40 * factor, 60 * factor, 3), color, np.uint8))))
    images[2][1].pixels[::2, ::2] = 255
    write_comparison(path, "Colors", [scene_of("colors", images), scene_of("two", images[:2])], lead="Three.")
    return path


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    with open_page(browser) as opened:
        opened.goto(page_file.as_uri())
        yield opened


def colors_at(stage: Any, *shares: float) -> list[str]:
    """What is seen at these shares of the stage's width, a quarter above its lower edge: away from divider and labels."""
    image = pixels_of(stage)
    known = {"red": RED, "green": GREEN, "blue": BLUE}
    row = image[image.shape[0] * 3 // 4].astype(int)
    seen = [row[min(int(share * len(row)), len(row) - 1)] for share in shares]
    return [min(known, key=lambda name: abs(color - known[name]).sum()) for color in seen]


def test_keys_move_the_divider(page: Any) -> None:
    figure = page.locator("figure").first
    stage, divider = figure.locator(".stage"), figure.get_by_role("slider")
    assert colors_at(stage, 0.1, 0.4, 0.6, 0.9) == ["red", "red", "green", "green"]
    divider.focus()
    for keys, value in {"ArrowLeft": 49, "Shift+ArrowRight": 59, "PageUp": 69, "Home": 0, "ArrowUp": 1, "End": 100}.items():
        page.keyboard.press(keys)
        assert divider.get_attribute("aria-valuenow") == str(value)
        assert divider.get_attribute("aria-valuetext") == f"{value} % red, {100 - value} % green"
    assert colors_at(stage, 0.1, 0.9) == ["red", "red"]


def test_the_mouse_moves_the_divider(page: Any) -> None:
    stage = page.locator("figure").nth(1).locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()
    page.mouse.move(0, 0)
    assert page.get_by_role("slider").nth(1).get_attribute("aria-valuenow") == "20"
    assert colors_at(stage, 0.1, 0.3, 0.9) == ["red", "green", "green"]
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + 20)
    assert page.get_by_role("slider").nth(1).get_attribute("aria-valuenow") == "75"


def test_images_are_chosen(page: Any) -> None:
    figure = page.locator("figure").first
    figure.get_by_role("combobox", name="Left image").select_option("blue")
    assert colors_at(figure.locator(".stage"), 0.2, 0.8)[1] == "green"
    assert figure.locator(".tag").all_inner_texts() == ["blue: 240×160", "green: 120×80"]
    figure.get_by_role("combobox", name="Right image").select_option("blue")
    assert figure.locator(".tag").all_inner_texts() == ["blue: 240×160", "blue: 240×160"]
    assert page.locator("figure").nth(1).get_by_role("combobox").count() == 0


def test_zoom_to_pixels(page: Any) -> None:
    """Every second pixel of the blue picture is white: at 4 pixels of the screen to one, blocks of 4x4 and nothing between."""
    figure = page.locator("figure").first
    stage = figure.locator(".stage")
    figure.get_by_role("combobox", name="Left image").select_option("blue")
    figure.get_by_role("slider").focus()
    page.keyboard.press("End")
    whole = figure.get_by_role("status").inner_text()
    for zoom in ("1", "+", "+"):
        page.keyboard.press(zoom)
    assert figure.get_by_role("status").inner_text() == "400 %"
    image = pixels_of(stage)[60:-60, 60:-60]
    white, blue = (image == 255).all(axis=2), (image == BLUE).all(axis=2)
    assert (white | blue)[: image.shape[0] // 4].all()
    columns = np.flatnonzero(np.diff(white[white.any(axis=1)][0].astype(int)))
    assert set(np.diff(columns)) == {4}
    box = stage.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 101, box["y"] + 100)
    page.mouse.up()
    page.mouse.move(0, 0)
    moved = pixels_of(stage)[60:-60, 60:-60]
    assert np.array_equal(moved[:100, 1:400], image[:100, :399])
    page.keyboard.press("0")
    assert figure.get_by_role("status").inner_text() == whole


@pytest.mark.parametrize("scheme", short_and_long(["light", "dark"], ["light"]))
def test_a_narrow_screen_holds_it(browser: Any, page_file: Path, scheme: str) -> None:
    with open_page(browser, width=360, height=740, color_scheme=scheme, has_touch=True) as page:
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        stage = page.locator(".stage").first
        box = stage.bounding_box()
        page.touchscreen.tap(box["x"] + box["width"] * 0.25, box["y"] + 10)
        assert page.get_by_role("slider").first.get_attribute("aria-valuenow") == "25"


def test_fingers_move_the_divider_and_zoom(browser: Any, page_file: Path) -> None:
    with open_page(browser, width=360, height=740, has_touch=True, device_scale_factor=3) as page:
        page.goto(page_file.as_uri())
        fingers = page.context.new_cdp_session(page)
        figure = page.locator("figure").first
        box = figure.locator(".stage").bounding_box()

        def touch(kind: str, *shares: tuple[float, float]) -> None:
            points = [{"x": box["x"] + box["width"] * across, "y": box["y"] + box["height"] * down} for across, down in shares]
            fingers.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

        touch("Start", (0.5, 0.5))
        for share in (0.55, 0.6, 0.7, 0.8):
            touch("Move", (share, 0.5))
        touch("End")
        assert figure.get_by_role("slider").get_attribute("aria-valuenow") == "80"
        before = int(figure.get_by_role("status").inner_text().split()[0])
        touch("Start", (0.45, 0.4), (0.55, 0.4))
        for reach in (0.1, 0.15, 0.2):
            touch("Move", (0.5 - reach, 0.4), (0.5 + reach, 0.4))
        touch("End")
        after = int(figure.get_by_role("status").inner_text().split()[0])
        assert after == pytest.approx(4 * before, rel=0.05)
        assert figure.get_by_role("slider").get_attribute("aria-valuenow") == "80"


def test_nothing_but_the_script_of_the_page_runs(browser: Any, tmp_path: Path) -> None:
    """Names cannot bring code along: what is put into the page behind its hashes is refused."""
    path = tmp_path / "page.html"
    write_comparison(path, "x", [], lead="x")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("<main>", "<main><script>document.title = 'ran'</script><p style='color: red'>"))
    with open_page(browser, expected="Content Security Policy") as page:
        page.goto(path.as_uri())
        assert page.title() == "x"
        assert page.locator("p").first.evaluate("one => getComputedStyle(one).color") != "rgb(255, 0, 0)"
