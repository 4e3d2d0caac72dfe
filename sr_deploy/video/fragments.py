"""Fragments of an MP4: how many samples they claim, before FFmpeg makes an entry for each, and how many bytes they hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sr_deploy.video.boxes import file_boxes, head_of

_FIRST = frozenset({b"ftyp", b"styp", b"moof", b"moov", b"free", b"skip", b"wide", b"sidx"})
_PER_SAMPLE = 0xF00
"""Flags of a run that has numbers of its own for each sample, whose bytes end where the file does."""

_LARGEST = 64 << 20
"""Bytes that are read of a fragment's tables."""


def most_samples(path: Path) -> int:
    """How many samples a run claims at most without a number for any of them; 0 for what is no MP4.

    Boxes are read as FFmpeg does: one that ends outside of the one around it ends with that.

    Source: ISO/IEC 14496-12, section 8.8.8. Raises: OSError.
    """
    with path.open("rb") as file:
        return max((count for moof in _fragments(file) for count in _counts(moof)), default=0)


def fragment_bytes(file: BinaryIO) -> int:
    """How many bytes of pictures, sound and all else an MP4 of fragments holds; 0 for one that has none.

    Source: ISO/IEC 14496-12, section 8.8.
    """
    held, has_fragments = 0, False
    for kind, size in _boxes(file):
        has_fragments = has_fragments or kind == b"moof"
        held += size if kind == b"mdat" else 0
    return held if has_fragments else 0


def _fragments(file: BinaryIO) -> Iterator[memoryview]:
    for kind, size in _boxes(file):
        if kind == b"moof":
            yield memoryview(file.read(min(size, _LARGEST)))


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """As `file_boxes`; none of a file that does not begin as an MP4."""
    for number, (kind, size) in enumerate(file_boxes(file)):
        if number == 0 and kind not in _FIRST:
            return
        yield kind, size


def _counts(data: memoryview) -> Iterator[int]:
    """Of runs without numbers, in a fragment or in a part of it."""
    while len(data) >= 8:
        size, kind, read = head_of(data)
        size = max(read, size or len(data))
        body = data[read:size]
        if kind == b"traf":
            yield from _counts(body)
        elif kind == b"trun" and not int.from_bytes(body[1:4], "big") & _PER_SAMPLE:
            yield int.from_bytes(body[4:8], "big")
        data = data[size:]
