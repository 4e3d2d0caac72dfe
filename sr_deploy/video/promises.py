"""What the times of a file promise: an end, and pictures that follow each other alike."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from fractions import Fraction
from itertools import islice, pairwise
from operator import lt

import av
from av.container import InputContainer
from av.video.stream import VideoStream

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
"""FFmpeg's name of the container, of MOV too."""

PROMISE_LENGTH = {"matroska,webm", "avi", "asf", "flv", MP4, "nut"}
"""Containers whose header says how long they are; of others FFmpeg guesses it from the last packet, or the size."""

DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
"""Of a stream, as Matroska's tags have it."""

NO_TIME = -(1 << 63)
"""In place of a pts."""


def shown_times(times: array[int]) -> list[int]:
    """pts of packets, sorted; none where a picture has no time, or two have the same."""
    known = sorted(times)
    return known if known and known[0] != NO_TIME and all(map(lt, known, islice(known, 1, None))) else []


class PictureTimes:
    """The pictures of a stream up to where times start anew: when they are shown and decoded, and which are keyframes."""

    def __init__(self) -> None:
        self._shown, self._decoded, self._keys = array("q"), array("q"), array("b")

    def add(self, pts: int | None, dts: int | None, is_keyframe: bool) -> None:
        """The next one in the file."""
        self._shown.append(NO_TIME if pts is None else pts)
        self._decoded.append(NO_TIME if dts is None else dts)
        self._keys.append(is_keyframe)

    def holes(self) -> list[tuple[int, int]]:
        """`holes` in the times of showing, or else in those of decoding."""
        found = (
            holes(times, {time for time, is_key in zip(times, self._keys, strict=True) if is_key})
            for times in (self._shown, self._decoded)
        )
        return next(filter(None, found), [])


def holes(times: array[int], keys: set[int]) -> list[tuple[int, int]]:
    """Where pictures are missing whose neighbors all follow each other alike: pts of the one before, and how many.

    keys: pts of keyframes; before one a recording may have paused.
    """
    known = shown_times(times)
    steps = [(earlier, later - earlier, later in keys) for earlier, later in pairwise(known)]
    usual, count = Counter(step for _, step, _ in steps).most_common(1)[0] if steps else (0, 0)
    if not usual or any(step % usual for _, step, _ in steps):
        return []
    found = [(pts, step // usual - 1) for pts, step, key in steps if step != usual and not key]
    return found if 2 * len(found) < count and len(found) <= max(2, count // 8) else []


def missing_end(container: InputContainer, video: VideoStream, ends: dict[int, Fraction], frame: Fraction) -> str:
    """What a header promises and is not there, in words: a later end than that of all packets, or of the video's by its tag."""
    if container.duration is None or container.format.name not in PROMISE_LENGTH or video.index not in ends:
        return ""
    counts_from_zero = container.format.name in ("matroska,webm", "asf", "flv")
    early = Fraction(0) if counts_from_zero else Fraction(container.start_time or 0, av.time_base)
    promised, last = Fraction(container.duration, av.time_base) + early, max(ends.values())
    if said := DURATION.fullmatch(video.metadata.get("DURATION", "")):
        hours, minutes, seconds = said.groups()
        promised, last = min(promised, int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)), ends[video.index]
    exact = container.format.name in ("matroska,webm", "avi")  # Others count a frame more at times.
    spare = Fraction(3, 4) if exact else Fraction(3, 2)
    if promised - last <= max(frame * spare, Fraction(1, 50)):
        return ""
    return f"its header says that it ends at {float(promised):.3f} s, but its last picture or sound ends at {float(last):.3f} s"
