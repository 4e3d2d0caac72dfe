"""Names that stand for many pictures or for a pipe."""

from __future__ import annotations

import re
from pathlib import Path

from sr_deploy.pictures.image import READABLE_SUFFIXES

PIPE = Path("-")
"""Standard input or output."""

CONTAINERS = {".mkv": "matroska", ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".webm": "webm"}
"""File endings of videos that are written, and FFmpeg's name of their format."""

PICTURES_THAT_MOVE = frozenset({".gif", ".png", ".webp"})
"""Endings of files that may hold one picture or an animation."""

NUMBER = re.compile(r"%(0?)(\d*)d")
"""In the name of numbered pictures: whether zeros fill it, and how many digits it has at least."""


def names_stream(path: Path) -> bool:
    """Whether it is no file: `-` is a pipe, and frame_%06d.png stands for many pictures."""
    pattern = NUMBER.search(path.name) and path.suffix.lower() in READABLE_SUFFIXES
    return path == PIPE or (bool(pattern) and not path.exists())
