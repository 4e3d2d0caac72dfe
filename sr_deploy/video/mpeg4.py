"""Which packets of MPEG-4 Visual show no picture.

Source: ISO/IEC 14496-2, 6.2.3 (VideoObjectLayer) and 6.2.5 (VideoObjectPlane).
"""

from __future__ import annotations

import re

_LAYER = re.compile(rb"\x00\x00\x01[\x20-\x2f]", re.DOTALL)
_PICTURE = b"\x00\x00\x01\xb6"
_READ = 64
"""Bytes behind a start code in which all that is wanted lies."""
_BUFFER_MODEL = 79
"""Bits of a layer's rate, buffer and occupancy."""


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._place = 0

    def take(self, count: int) -> int:
        """The next bits as a number. Raises: ValueError behind their end."""
        taken = self._bits[self._place : self._place + count]
        self._place += count
        return int(taken, 2) if count else 0


class Coded:
    """Tells pictures that are coded from those that only repeat the last one, once a layer's header was met."""

    def __init__(self, header: bytes | None) -> None:
        self._time_bits: int | None = None
        self.meet(header or b"")

    def meet(self, data: bytes) -> None:
        """Look for a layer's header, which a keyframe may carry."""
        if found := _LAYER.search(data):
            self._time_bits = _time_bits(data[found.end() : found.end() + _READ])

    def shows(self, data: bytes) -> bool:
        """Whether a packet must become a frame. One without a picture's header must: it is damaged."""
        place = data.find(_PICTURE)
        if place < 0 or self._time_bits is None:
            return True
        bits = _Bits(data[place + len(_PICTURE) :][:_READ])
        try:
            bits.take(2)
            while bits.take(1):
                pass
            bits.take(1 + self._time_bits)
            return not bits.take(1) or bool(bits.take(1))
        except ValueError:
            return True


def _time_bits(data: bytes) -> int | None:
    """How many bits a picture's time has, by the header of its layer."""
    bits = _Bits(data)
    try:
        bits.take(9)
        bits.take(7 if bits.take(1) else 0)
        bits.take(16 if bits.take(4) == 15 else 0)
        if bits.take(1):
            bits.take(3)
            bits.take(_BUFFER_MODEL if bits.take(1) else 0)
        bits.take(3)
        return max(1, (bits.take(16) - 1).bit_length())
    except ValueError:
        return None
