"""A browser that we did not write, for tests of pages; where there is none, they are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Chromium under playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Any, *, width: int = 1000, height: int = 800, expected: str = "", **options: Any) -> Iterator[Any]:
    """A page that asks nobody but the address that it is opened with; its console has nothing but lines with `expected`."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    told, asked = list[str](), list[str]()
    page.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    start = "/".join(page.url.split("/")[:3])
    context.close()
    unexpected = [line for line in told if not expected or expected not in line]
    assert not unexpected, unexpected
    elsewhere = [url for url in asked if not url.startswith((start, "data:", "blob:"))]
    assert not elsewhere, elsewhere


def pixels_of(locator: Any) -> NDArray[np.uint8]:
    """(H,W,3) RGB, as it is on the screen."""
    data = np.frombuffer(locator.screenshot(), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))
