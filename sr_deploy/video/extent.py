"""How much of a file its own index promises, and whether that much is there."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from av.video.stream import VideoStream

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_bytes(path: Path, stream: VideoStream) -> int:
    """How many bytes of an MP4, MOV or Matroska file are cut off at its end; 0 when whole or when the format does not tell."""
    with path.open("rb") as file:
        promised = _matroska_end(file)
    if promised is None:
        promised = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    return max(0, promised - path.stat().st_size)


def _matroska_end(file: BinaryIO) -> int | None:
    """Where the segment of a Matroska file ends; 0 when its size was never written, None for other files."""
    if file.read(4) != EBML:
        return None
    header = _size(file)
    file.seek(header or 0, 1)
    if file.read(4) != SEGMENT:
        return 0
    size = _size(file)
    return 0 if size is None else file.tell() + size


def _size(file: BinaryIO) -> int | None:
    """A length as EBML writes it; None when it is unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + file.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value
