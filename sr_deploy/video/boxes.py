"""The boxes of an MP4: in a file, and in what was read of one.

Source: ISO/IEC 14496-12, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

_LONGEST_HEAD = 16


def file_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The kind of each outermost box and how many bytes of its body are there; the file stands before these when it is told.

    A box whose size is none is the end.
    """
    end, place = file.seek(0, 2), 0
    while place < end:
        file.seek(place)
        head = file.read(_LONGEST_HEAD)
        if len(head) < 8:
            return
        size, kind, read = head_of(head)
        size = size or end - place
        if size < read:
            return
        file.seek(place + read)
        yield kind, max(0, min(place + size, end) - place - read)
        place += size


def head_of(data: bytes | memoryview) -> tuple[int, bytes, int]:
    """Of a box that begins there: its size, 0 for all that is left; its kind; and how long its head is."""
    size, kind = int.from_bytes(data[:4], "big"), bytes(data[4:8])
    return (int.from_bytes(data[8:16], "big"), kind, _LONGEST_HEAD) if size == 1 else (size, kind, 8)
