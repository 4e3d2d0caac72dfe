"""The page of the service, in a browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("fastapi", reason="the service needs FastAPI")

from sr_deploy import Upscaler
from sr_deploy.serve.page import page_files
from tests import short_and_long
from tests.browser import open_browser, open_page
from tests.serve.conftest import Running, encoded, serving
from tests.video.clips import Clips, frames, video_stream

REFUSED = "Failed to load resource"
"""What Chromium's console says of every answer that is no success."""
WAIT = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def page(browser: Any, running: Running) -> Iterator[Any]:
    with open_page(browser) as opened:
        opened.goto(running.address)
        yield opened


@pytest.fixture
def picture(tmp_path: Path, photo: NDArray[np.uint8]) -> Path:
    path = tmp_path / "é 漢字 [x] 'q' <b>.png"
    path.write_bytes(encoded(photo))
    return path


def choose(page: Any, *files: Path) -> None:
    page.get_by_label("Choose pictures or videos").set_input_files(files)


def card_of(page: Any, file: Path) -> Any:
    """What is shown of the file."""
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=file.name, exact=True))


def text_of(card: Any, kind: str) -> str:
    """The line on how it goes, once it is of that kind."""
    found = card.locator(f".state.{kind}")
    found.wait_for(timeout=WAIT)
    return str(found.inner_text())


def downloaded(card: Any, folder: Path) -> Path:
    """What its link gives."""
    with card.page.expect_download(timeout=WAIT) as download:
        card.get_by_role("link", name="Download").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_a_picture_from_upload_to_download(
    page: Any, picture: Path, photo: NDArray[np.uint8], upscaler: Upscaler, tmp_path: Path
) -> None:
    choose(page, picture)
    card = card_of(page, picture)
    assert re.match(r"32×24 became 64×48, [\d.]+ s in the service\.$", text_of(card, "pass"))
    divider = page.get_by_role("slider")
    divider.focus()
    for _ in range(3):
        page.keyboard.press("PageUp")
    assert divider.get_attribute("aria-valuetext") == "80 % before, 20 % fast-x2"
    path = downloaded(card, tmp_path)
    assert path.name == f"{picture.stem}_fast-x2.png".replace("<", "_").replace(">", "_")
    assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB), upscaler(photo))
    card.get_by_role("button", name="Remove").click()
    assert page.get_by_role("heading", name="Pictures").is_hidden()


BRING = """
    ([way, name, data]) => {
      const carried = new DataTransfer();
      carried.items.add(new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name, { type: "image/png" }));
      const event = way === "drop"
        ? new DragEvent(way, { dataTransfer: carried, bubbles: true, cancelable: true })
        : new ClipboardEvent(way, { clipboardData: carried, bubbles: true });
      document.getElementById("drop").dispatchEvent(event);
    }
"""


@pytest.mark.long
@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(page: Any, picture: Path, way: str) -> None:
    page.evaluate(BRING, [way, picture.name, base64.b64encode(picture.read_bytes()).decode()])
    assert "became" in text_of(card_of(page, picture), "pass")


@pytest.mark.long
def test_size_and_format_are_asked_for(page: Any, picture: Path, tmp_path: Path) -> None:
    page.get_by_role("combobox", name="Size").select_option("Other…")
    page.get_by_label("Other size").fill("long=48")
    page.get_by_role("combobox", name="Pictures as").select_option("WebP")
    choose(page, picture)
    card = card_of(page, picture)
    assert text_of(card, "pass").startswith("32×24 became 48×36")
    path = downloaded(card, tmp_path)
    assert path.suffix == ".webp" and path.read_bytes()[8:12] == b"WEBP"


def test_a_video_job_to_its_end(page: Any, clips: Clips, tmp_path: Path) -> None:
    clip = clips["vfr"]
    choose(page, clip)
    card = card_of(page, clip)
    assert text_of(card, "pass") == "Done, 24 frames."
    path = downloaded(card, tmp_path)
    assert path.stem.startswith(clip.stem)
    assert (len(frames(path)), video_stream(path)["width"]) == (24, 2 * video_stream(clip)["width"])
    page.reload()
    assert text_of(card, "pass") == "Done, 24 frames."
    card.get_by_role("button", name=f"Remove {clip.name}").click()
    card.wait_for(state="detached")


def test_what_fails_is_told_in_words(browser: Any, running: Running, tmp_path: Path) -> None:
    picture, video = tmp_path / "bad.png", tmp_path / "bad.mkv"
    picture.write_bytes(b"no picture")
    video.write_bytes(b"no video")
    with open_page(browser, expected=REFUSED) as page:
        page.goto(running.address)
        answer = running.post("/v1/upscale", b"no picture", Content_Type="image/png")
        choose(page, picture, video)
        card = card_of(page, picture)
        assert text_of(card, "fail") == json.loads(answer.body)["error"]
        assert card.get_by_role("button", name="Send it as a job").is_visible()
        assert len(text_of(card_of(page, video), "fail")) > 20


def test_a_token_is_asked_for(browser: Any, picture: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "spool", token="secret") as running, open_page(browser, expected=REFUSED) as page:
        page.goto(running.address)
        dialog = page.get_by_role("dialog")
        for token, trouble in (("wrong", ""), ("secret", "That token was not accepted.")):
            dialog.wait_for()
            assert page.locator("#token-trouble").inner_text() == trouble
            page.get_by_label("Token", exact=True).fill(token)
            page.keyboard.press("Enter")
        dialog.wait_for(state="hidden")
        choose(page, picture)
        card = card_of(page, picture)
        assert "became" in text_of(card, "pass")
        page.reload()
        page.get_by_role("option", name="fast-x2, 2 times").wait_for(state="attached")
        assert dialog.is_hidden()


def test_the_page_is_small_and_loads_nothing_from_elsewhere(running: Running) -> None:
    files = page_files()
    assert sum(len(file.content) for file in files.values()) < 60_000
    for name, file in files.items():
        answer = running.get(f"/page/{name}")
        assert (answer.status, answer.body) == (200, file.content)
        assert answer.headers["Content-Type"] == f"{file.kind}; charset=utf-8"
        assert running.get(f"/page/{name}", If_None_Match=answer.headers["ETag"]).status == 304
        assert not re.search(rb"""["'`(]/(v1|page)""", file.content), f"{name}: not below a path of a proxy"
        assert not re.search(rb"https?:|@import|innerHTML|\bstyle=|<script>|\bon\w+=|eval\(", file.content), name
    start = running.get("/")
    policy = start.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and start.body == files["index.html"].content
    for name in ("nothing.js", "..%2fpage.js", "__init__.py", "%00"):
        assert running.get(f"/page/{name}").status == 404


SCREENS = short_and_long([(360, "light"), (360, "dark"), (1440, "light")], [(360, "light")])
NAMELESS = """
    [...document.querySelectorAll("input, select, button, progress, a, [role], img")]
      .filter((one) => !one.hidden && !(one.labels?.length || one.ariaLabel || one.alt || one.textContent.trim()))
      .map((one) => one.outerHTML)
"""


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_every_width_holds_it_and_everything_has_a_name(
    browser: Any, running: Running, picture: Path, width: int, scheme: str
) -> None:
    with open_page(browser, width=width, color_scheme=scheme) as page:
        page.goto(running.address)
        choose(page, picture)
        text_of(card_of(page, picture), "pass")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        silent = ('id="status"', 'id="token-trouble"')
        assert [one for one in page.evaluate(NAMELESS) if not any(name in one for name in silent)] == []


@pytest.mark.long
def test_a_service_that_is_busy_or_gone(browser: Any, running: Running, picture: Path) -> None:
    answers = [(503, {"Retry-After": "1"}), (502, {})]

    def answer(route: Any) -> None:
        status, headers = answers.pop(0)
        route.fulfill(status=status, headers=headers, body="<html>")

    with open_page(browser, expected=REFUSED) as page:
        page.goto(running.address)
        page.route("**/v1/upscale*", answer)
        choose(page, picture)
        page.get_by_text("The service is busy; trying again in 1 s.").wait_for()
        assert text_of(card_of(page, picture), "fail") == "The service answers 502."
        page.unroute("**/v1/upscale*")
        page.route("**/v1/upscale*", lambda route: route.abort())
        choose(page, picture)
        page.get_by_text("The service does not answer. Is it running, and reachable from here?").wait_for()


@pytest.mark.long
def test_a_job_that_runs(browser: Any, running: Running) -> None:
    """What the page shows of documents that a short job gives for too short a time."""
    job = {
        "id": "a",
        "name": "film.mkv",
        "state": "running",
        "done": 120,
        "total": 480,
        "unit": "frames",
        "per_second": 12.345,
        "seconds_left": 3723.0,
        "error": None,
        "results": [],
    }
    ended = {**job, "state": "failed", "error": "film.mkv is damaged at 0:00:05.000."}
    events = ": still here\n\n" + "".join(f"data: {json.dumps(one)}\n\n" for one in (job, ended))
    asked: list[str] = []
    with open_page(browser) as page:
        page.route("**/v1/jobs", lambda route: route.fulfill(json={"jobs": [job]}))
        page.route("**/v1/jobs/a/events", lambda route: asked.append(route.request.url.rpartition("/")[2]))
        page.route("**/v1/jobs/a", lambda route: (asked.append(route.request.method), route.fulfill(status=204)))
        page.goto(running.address)
        page.get_by_text("120 of 480 frames, 12.3 frames per second, 1 h 2 min left.").wait_for()
        assert page.get_by_role("progressbar", name="Progress of film.mkv").get_attribute("value") == "0.25"
        page.get_by_role("button", name="Cancel film.mkv").click()
        page.wait_for_timeout(200)
        assert asked == ["events", "DELETE"]
        page.unroute("**/v1/jobs/a/events")
        page.route("**/v1/jobs/a/events", lambda route: route.fulfill(body=events, content_type="text/event-stream"))
        page.reload()
        page.get_by_text("Failed: film.mkv is damaged at 0:00:05.000.").wait_for()
