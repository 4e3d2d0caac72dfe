"""HTML in one file, without a request to anywhere: its frame, the style that all pages share, and the slider between images."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources

BASE_STYLE = "base.css"
SLIDER_STYLE, SLIDER_SCRIPT = "slider.css", "slider.js"


def asset(name: str) -> str:
    """A file of this folder, such as `slider.js`."""
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def document(title: str, body: str, *, style: str, script: str = "") -> str:
    """The whole page; nothing in it can run, or be fetched, but what is given here. body: HTML; images are data URLs."""
    allowed = f"default-src 'none'; img-src data:; style-src {_hash(style)}"
    if script:
        allowed += f"; script-src {_hash(script)}"
        body += f'\n<script type="module">{script}</script>'
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{allowed}">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def data_url(png: bytes) -> str:
    """The bytes of a PNG as what an image's `src` takes."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
