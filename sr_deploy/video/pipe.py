"""Raw y4m from a file object that is only read forward."""

from __future__ import annotations

from typing import BinaryIO

import av

_LONGEST_START = 4096


class Y4MPipe:
    """What FFmpeg reads from: only `read`, whatever else the file object says it could; it counts the bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = b""
        self._received = 0

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end."""
        data = self._file.read(size)
        self._received += len(data)
        if len(self._start) < _LONGEST_START:
            self._start += data[:_LONGEST_START]
        return data

    def rest(self, frames: int, frame: av.VideoFrame) -> int:
        """How many bytes came after that many whole frames: FFmpeg leaves out a last frame that is cut without a word."""
        header, marker, *_ = [*self._start.split(b"\n", 2), b"", b""]
        each = len(marker) + 1 + sum(plane.width * plane.height * _bytes_per_sample(frame) for plane in frame.planes)
        return self._received - len(header) - 1 - frames * each


def _bytes_per_sample(frame: av.VideoFrame) -> int:
    return 1 if max(component.bits for component in frame.format.components) <= 8 else 2
