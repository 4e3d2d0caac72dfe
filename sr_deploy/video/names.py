"""Names that stand for many pictures or for a pipe."""

from __future__ import annotations

import re
from pathlib import Path

from sr_deploy.pictures.image import READABLE_SUFFIXES

PIPE = Path("-")
"""Standard input or output."""

PICTURES_THAT_MOVE = frozenset({".gif", ".png", ".webp"})
"""Endings of files that may hold one picture or an animation."""

NUMBER = re.compile(r"%(0?)(\d*)d")
"""In the name of numbered pictures: whether zeros fill it, and how many digits it has at least."""


def names_stream(path: Path) -> bool:
    """Whether it is no file: `-` is a pipe, and frame_%06d.png stands for many pictures."""
    pattern = NUMBER.search(path.name) and path.suffix.lower() in READABLE_SUFFIXES
    return path == PIPE or (bool(pattern) and not path.exists())


_VIDEO = re.compile(
    rb"\x1aE\xdf\xa3|FLV\x01|OggS|DKIF|YUV4MPEG2 |nut/multimedia|\x06\x0e\+4|0&\xb2u\x8ef\xcf\x11|RIFF....AVI "
    rb"|\0?\0\0\x01[^\0]|....(moov|mdat|wide|ftyp(?!avi|hei|hev|mif|msf))|(.{4}|)(G.{187}G.{187}G|G.{191}G.{191}G)",
    re.DOTALL,
)


def begins_as_video(path: Path) -> bool:
    """Whether a file has the first bytes of a container or an elementary stream of video, whatever its name."""
    try:
        with path.open("rb") as file:
            return _VIDEO.match(file.read(1024)) is not None
    except OSError:
        return False
