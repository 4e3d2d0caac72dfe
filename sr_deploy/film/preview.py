"""Short parts of a video that stand for all of it, and frames of them as viewers see them."""

from __future__ import annotations

import gc
from bisect import bisect_left
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.errors import UsageError, VideoError
from sr_deploy.film.decide import opened
from sr_deploy.film.estimate import PLACES
from sr_deploy.film.options import VideoOptions
from sr_deploy.video.frame import VideoFormat
from sr_deploy.video.images import RATE, FrameSource, open_source
from sr_deploy.video.input import input_of

_LONG = 60
"""Seconds of a video that is not decoded for its length alone."""

Stretch = tuple[Fraction, Fraction]
"""From and until when, in seconds as players count them."""


def parts_of(source: str | Path | BinaryIO, seconds: Fraction, options: VideoOptions) -> tuple[Stretch, ...]:
    """Parts of so many seconds at three places all over the video, none over another; of a short video, shorter ones.

    Raises: UsageError for a pipe, and for a length of 0; VideoError when it cannot be read.
    """
    if seconds <= 0:
        raise UsageError(f"a preview of {float(seconds):g} s; expected more than 0")
    video = input_of(source)
    if video.pipe:
        raise UsageError(f"{video.name}: a preview needs a file that can be read again; give one")
    with opened(video, options) as frames:
        times = _times_known(frames)
        begin, end = _ends(frames, times, options)
        base, zero = frames.format.time_base, frames.zero
    if end <= begin:
        raise VideoError(f"{video.name}: gives no frame; check --from and --until, and that the file is whole")
    length = min(seconds, (end - begin) / len(PLACES))
    starts = [max(begin + place * (end - begin) - length / 2, Fraction(0)) for place in PLACES]
    if times:
        found = (min(bisect_left(times, (start + zero) / base), len(times) - 1) for start in starts)
        starts = [times[number] * base - zero for number in sorted(set(found))]
    nexts = [*starts[1:], end]
    return tuple((start, min(start + length, later)) for start, later in zip(starts, nexts, strict=True))


def of_part(options: VideoOptions, part: Stretch) -> VideoOptions:
    """The options of a video, for a part of it."""
    return replace(options, start=part[0], until=part[1])


def shown_frames(source: str | Path, part: Stretch, upscaled: Path, options: VideoOptions) -> tuple[Array, Array]:
    """A frame in the middle of a part, as the source has it, and as the finished file of the part has it; upright.

    Both (H,W,3) RGB, uint8 or uint16.

    Raises: VideoError.
    """
    try:
        with opened(input_of(source), of_part(options, part)) as before, open_source(upscaled) as after:
            number = sum(1 for _ in after.times()) // 2
            return _frame(before, number), _frame(after, number)
    finally:
        gc.collect()  # PyAV's containers and streams hold each other, and with them the threads of decoders.


def upright(pixels: Array, format: VideoFormat) -> Array:
    """A frame as its container says that it is shown: turned and mirrored by right angles."""
    if format.display_matrix is None:
        return pixels
    across, down_of_x, across_of_y, down = (format.display_matrix[place] for place in (0, 1, 3, 4))
    if across == down == 0:
        pixels, across, down = pixels.swapaxes(0, 1), across_of_y, down_of_x
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


def _frame(source: FrameSource, number: int) -> Array:
    frame = next(islice(source.frames(), number, None), None)
    if frame is None:
        raise VideoError(f"frame {number} of a preview is missing; make it again with --overwrite")
    return upright(frame.pixels, source.format)


def _times_known(source: FrameSource) -> list[int]:
    """pts of all frames; none where they would have to be decoded, and the video is so long that any part of it has some."""
    times = source.packet_times()
    if times is None and (source.duration is None or source.duration < _LONG):
        times = list(source.times())
    return times or []


def _ends(source: FrameSource, times: list[int], options: VideoOptions) -> tuple[Fraction, Fraction]:
    """Where the first frame begins and the last one ends, in seconds as players count them."""
    if not times:
        length = source.duration if source.duration is not None and source.duration >= _LONG else Fraction(0)
        return options.start or Fraction(0), length if options.until is None else min(length, options.until)
    base, rate = source.format.time_base, source.format.rate or RATE
    first, last = (pts * base - source.zero for pts in (times[0], times[-1]))
    return first, last + ((last - first) / (len(times) - 1) if len(times) > 1 else 1 / rate)
