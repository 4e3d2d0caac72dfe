"""When frames are shown, known before they are upscaled: where the segments of a video begin and end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from sr_deploy.film.plan import PlannedSegment
from sr_deploy.video.images import FrameSource

_COMPARED = 48
"""Frames that are decoded before packets are believed: two groups of pictures of the shortest kind."""

_WITH_HIDDEN_FRAMES = {"vp8"}
"""Codecs with packets whose frames are never shown."""


def frame_times(source: FrameSource, *, decode_all: bool = False) -> list[int]:
    """pts of all frames, in order: those of the packets, where the decoder agrees on the first ones; else all are decoded.

    decode_all: do not believe packets.

    Raises: VideoError at damage.
    """
    believed = not decode_all and getattr(source, "codec", "") not in _WITH_HIDDEN_FRAMES
    times = source.packet_times() if believed else None
    if times is not None and list(islice(source.times(), _COMPARED)) == times[:_COMPARED]:
        return times
    return list(source.times())


def segments_of(times: Sequence[int], per_segment: int) -> tuple[PlannedSegment, ...]:
    """Frames in segments of `per_segment`, the last one of what is left."""
    starts = range(0, len(times), per_segment)
    parts = [(times[start - 1] if start else None, times[start : start + per_segment]) for start in starts]
    return tuple(PlannedSegment(len(part), part[0], part[-1], after) for after, part in parts)
