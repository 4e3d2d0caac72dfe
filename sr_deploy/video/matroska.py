"""The elements of a Matroska file: FFmpeg passes over those that it does not know, also where a picture was one before.

Source: RFC 8794 (EBML), 4 to 6; RFC 9559 (Matroska), 5.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, BinaryIO

from av.packet import Packet

_EBML, _SEGMENT, _CLUSTER, _GROUP = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0xA0
_IN_SEGMENT = {0x114D9B74, 0x1549A966, 0x1654AE6B, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367}
_IN_CLUSTER = {0xE7, 0xA3, _GROUP, 0xA7, 0xAB, 0x5854, 0xAF}
_IN_GROUP = {0xA1, 0x9B, 0xFB, 0x75A1, 0x75A2, 0xFA, 0xA4, 0x8E, 0xA2, 0xFD, 0xC8}
_KNOWN = {_SEGMENT, *_IN_SEGMENT, *_IN_CLUSTER, *_IN_GROUP, 0xEC, 0xBF}
_LONGEST_HEAD = 64
"""Bytes between two packets that need no look: heads of a block, its group and cluster."""


class Unread:
    """Finds stretches of a file that no packet came from. latest: what `look` was told of the packet before."""

    def __init__(self) -> None:
        self.places: list[tuple[int, int | None]] = []
        self._first = self._end = 0

    def look(self, packet: Packet[Any], latest: int | None) -> None:
        if packet.pos is None or packet.pos < 0:
            return
        if packet.pos == self._first:  # Several frames of one block have its place.
            self._end += packet.size
            return
        if packet.pos > self._end + _LONGEST_HEAD:
            self.places.append((self._end, latest))
        self._first, self._end = packet.pos, packet.pos + packet.size

    def strange(self, file: BinaryIO, latest: int | None) -> list[tuple[int | None, int]]:
        """What is no element of Matroska in the clusters of those stretches and behind the last packet: `latest`, its place."""
        places = [*self.places, (self._end, latest)]
        return [
            (next((latest for end, latest in reversed(places) if end <= place), None), place)
            for place in _strangers(file, [place for place, _ in places])
        ]


def segment_end(file: BinaryIO) -> int | None:
    """Where the segment of a Matroska file ends; 0 when its size was never written, None for other files."""
    file.seek(0)
    if _id(file) != _EBML:
        return None
    file.seek(_size(file) or 0, io.SEEK_CUR)
    if _id(file) != _SEGMENT:
        return 0
    size = _size(file)
    return 0 if size is None else file.tell() + size


def _strangers(file: BinaryIO, places: Sequence[int]) -> list[int]:
    """The first unknown element of the clusters around `places`, as a list of at most one: what follows it is not sure."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    if _id(file) != _EBML:
        return []
    place = file.seek(_size(file) or 0, io.SEEK_CUR)
    while place < end:
        kind = _id(file)
        size = _size(file)
        content = file.tell()
        if kind not in _KNOWN:
            return [place]
        is_open = kind in (_SEGMENT, _GROUP) or (
            kind == _CLUSTER and (size is None or any(place < one < content + size for one in places))
        )
        if not is_open and size is None:
            return []
        place = file.seek(content if is_open else content + (size or 0))
    return []


def _id(file: BinaryIO) -> int:
    """The next element's; 0 where there is none."""
    first = file.read(1)
    if not first or not first[0] >> 4:
        return 0
    return int.from_bytes(first + file.read(8 - first[0].bit_length()), "big")


def _size(file: BinaryIO) -> int | None:
    """A length as EBML writes it; None when it is unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + file.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value
