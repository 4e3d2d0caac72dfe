"""The page at `/`: files that a browser runs, served as they are, with nothing from anywhere else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from fastapi import FastAPI, Request
from fastapi.responses import Response

from sr_deploy.pages import BASE_STYLE, SLIDER_SCRIPT, SLIDER_STYLE, asset

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
START = "index.html"
SHARED = (BASE_STYLE, SLIDER_STYLE, SLIDER_SCRIPT)
OWN = (START, "page.css", "page.js", "cards.js", "pictures.js", "jobs.js", "service.js")


@dataclass(frozen=True)
class PageFile:
    """One file of the page, and the tag by which a browser knows that it has it."""

    kind: str
    content: bytes
    tag: str


def page_files() -> dict[str, PageFile]:
    """All files of the page by name; those that other pages have too are from `sr_deploy.pages`."""
    here = resources.files(__name__)
    texts = {name: asset(name) for name in SHARED}
    texts |= {name: here.joinpath(name).read_text(encoding="utf-8") for name in OWN}
    return {name: _file(name, text.encode()) for name, text in texts.items()}


def add_page(app: FastAPI) -> None:
    """Let the app serve the page at `/`, and its files below `/page/`. No script or style is in them."""
    files = page_files()

    def answer(request: Request) -> Response:
        file = files.get(request.path_params.get("name", START))
        if file is None:
            return Response("no file of the page", 404, media_type="text/plain")
        headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.kind, headers=headers)

    app.add_route("/", answer, include_in_schema=False)
    app.add_route("/page/{name}", answer, include_in_schema=False)


def _file(name: str, content: bytes) -> PageFile:
    kind = next(kind for suffix, kind in KINDS.items() if name.endswith(suffix))
    return PageFile(kind, content, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
