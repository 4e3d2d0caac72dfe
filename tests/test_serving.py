"""docs/serving.md: its application runs, and its proxy and files are what the text says."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import cv2
import numpy as np
import pytest

from sr_deploy import Upscaler
from tests.docs import ROOT, blocks

PAGE = ROOT / "docs" / "serving.md"


def asked(app: Any, path: str, body: bytes, kind: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a POST to an ASGI application."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    request = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }
    asyncio.run(
        app(request | {"http_version": "1.1", "scheme": "http", "server": ("here", 80), "client": ("me", 1)}, receive, send)
    )
    start, *rest = sent
    told = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], told, b"".join(part.get("body", b"") for part in rest)


def test_ten_lines_of_fastapi_upscale() -> None:
    pytest.importorskip("fastapi", reason="no fastapi, which `sr-deploy[serve]` installs")
    code = next(code for code in blocks(PAGE, "python") if "FastAPI()" in code)
    assert len([line for line in code.splitlines() if line]) <= 10
    names: dict[str, Any] = {}
    exec(code, names)
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    png = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    status, headers, body = asked(names["app"], "/upscale", png, "image/png")
    assert (status, headers["content-type"]) == (200, "image/png")
    with Upscaler("fast-x2") as upscale:
        found = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(found, upscale(pixels))
    names["upscale"].close()


def test_the_proxy_lets_films_and_events_through() -> None:
    (text,) = blocks(PAGE, "nginx")
    directives = dict(re.findall(r"^\s*(\w+) (.+);$", text, re.MULTILINE))
    assert (directives["proxy_request_buffering"], directives["proxy_buffering"]) == ("off", "off")
    (upstream,) = re.findall(r"^upstream (\w+) \{", text, re.MULTILINE)
    assert directives["proxy_pass"] == f"http://{upstream}"
    bullets = re.findall(
        r"^- (.+?)[:]? ", PAGE.read_text(encoding="utf-8").partition("```nginx")[2].partition("\n## ")[0], re.MULTILINE
    )
    assert len(bullets) == 4 and all(word.strip("`") in text for word in bullets)


def test_files_that_the_page_names_are_there() -> None:
    named = re.findall(r"docker/[\w/.]+\.yaml", PAGE.read_text(encoding="utf-8"))
    assert len(named) == 3 and all((ROOT / name).is_file() for name in named)
