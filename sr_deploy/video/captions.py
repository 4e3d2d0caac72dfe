"""Closed captions, which lie in the data of pictures."""

from __future__ import annotations

import re
from typing import Any

from av.packet import Packet

ALL_LOOKED_AT = 1000
"""Pictures that are all searched; behind them, keyframes are."""

_MARK = b"GA94"
_CAPTIONS = re.compile(rb"(\xb5\0\x31|\0\0\x01\xb2)" + _MARK)
"""How captions begin in the data of a picture (ATSC A/53): in H.264 and HEVC, and in MPEG-2."""


class CaptionSearch:
    """Looks for captions in the pictures of a stream. found: whether there are any; seen: how many pictures were given."""

    def __init__(self) -> None:
        self.found = False
        self.seen = 0

    def look(self, packet: Packet[Any]) -> Packet[Any]:
        """Search a picture, unless it is one of those that are not; the picture."""
        self.seen += 1
        if not self.found and (self.seen <= ALL_LOOKED_AT or packet.is_keyframe):
            data = bytes(packet)
            self.found = _MARK in data and _CAPTIONS.search(data) is not None
        return packet
