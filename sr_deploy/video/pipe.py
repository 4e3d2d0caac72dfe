"""Raw y4m from a file object that is only read forward."""

from __future__ import annotations

from typing import BinaryIO

import av

from sr_deploy.video.extent import LONGEST_START, y4m_rest


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
        if len(self._start) < LONGEST_START:
            self._start += data[:LONGEST_START]
        return data

    def rest(self, pixel: av.VideoFormat) -> int:
        """How many bytes came after the last whole frame; pixel: format and size of frames."""
        return y4m_rest(self._start, self._received, pixel)
