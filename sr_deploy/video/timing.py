"""Times of frames: those that the file tells, and what is done where it tells none."""

from __future__ import annotations

import av


class Clock:
    """Gives every frame a pts that is later than the last one's; `repaired` counts where the file's own could not be used."""

    def __init__(self) -> None:
        self.repaired = 0
        self._last: int | None = None
        self._step = 1

    def stamp(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The same frame with its pts set, in ticks of the stream.

        A missing pts is the time of decoding, or follows the last frame; one that is not later becomes one tick later.
        """
        told = frame.pts if frame.pts is not None else frame.dts
        if told is None:
            told = 0 if self._last is None else self._last + self._step
            self.repaired += 1
        if self._last is not None and told <= self._last:
            told = self._last + 1
            self.repaired += 1
        self._last = frame.pts = told
        self._step = max(1, frame.duration)
        return frame
