"""What a user may ask of a video, beyond its source and target."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from sr_deploy.errors import UsageError
from sr_deploy.pictures.size import TargetSize

_CLOCK = re.compile(r"(?:(?:(\d{1,3}):)?(\d{1,2}):)?(\d{1,9}(?:\.\d{0,9})?)s?")


@dataclass(frozen=True)
class VideoOptions:
    """How a video is read, upscaled and written.

    size: None for the network's own factor.
    start: seconds of the source; frames before it are left out.
    until: seconds of the source; frames from it on are left out.
    deinterlace: 'on', 'off'; 'auto' where the source says that it is interlaced.
    decode: 'auto' is 'nvdec', on the GPU, where that gives the same frames, else 'cpu'.
    on_damage: what happens where the source is damaged: 'raise', or 'skip' what cannot be decoded, counted in a note.
    fps: of pictures that have no time of their own.
    codec: FFmpeg's name of the encoder, such as 'libx265'; None is H.264 for 8 bits, HEVC up to 12, FFV1 above, in .webm VP9 or
        AV1.
    crf: the encoder's quality, 0 is the best; None is near transparent.
    preset: the encoder's speed; None is its usual one.
    pixel_format: FFmpeg's name, such as 'yuv420p10le'; None keeps the depth and chroma of the source.
    encoder_options: names and values for the encoder as they are.
    reuse: do not compute again what did not change between frames; pixels are the same either way.
    drop_unsupported: leave out what the container cannot hold.
    overwrite: make a target that exists again, and start an unfinished one anew where something changed.
    resume: go on where an earlier run stopped.
    segment_frames: how many frames at most are computed twice after a crash; None follows from their size and the network.

    Raises: UsageError for segments of less than a frame, and where nothing lies between `start` and `until`.
    """

    size: TargetSize | None = None
    start: Fraction | None = None
    until: Fraction | None = None
    deinterlace: Literal["auto", "on", "off"] = "auto"
    decode: Literal["auto", "cpu", "nvdec"] = "auto"
    on_damage: Literal["raise", "skip"] = "raise"
    fps: Fraction | None = None
    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    pixel_format: str | None = None
    encoder_options: tuple[tuple[str, str], ...] = ()
    reuse: bool = True
    drop_unsupported: bool = False
    overwrite: bool = False
    resume: bool = True
    segment_frames: int | None = None

    def __post_init__(self) -> None:
        if self.segment_frames is not None and self.segment_frames < 1:
            raise UsageError(f"segments of {self.segment_frames} frames; expected 1 or more")
        if self.start is not None and self.until is not None and self.until <= self.start:
            raise UsageError(f"from {float(self.start):g} s until {float(self.until):g} s: nothing lies between them")


def parse_time(text: str) -> Fraction:
    """Seconds from '90', '90.5', '1:30' or '0:01:30.5', exactly.

    Raises: UsageError for anything else.
    """
    found = _CLOCK.fullmatch(text.strip())
    if not found:
        raise UsageError(f"time '{text}': not understood; expected seconds such as 90.5, or 1:30.5, or 0:01:30.5")
    hours, minutes, seconds = found.groups()
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + Fraction(seconds)


def parse_rate(text: str) -> Fraction:
    """Frames per second from '25', '23.976' or '30000/1001', exactly.

    Raises: UsageError for anything else.
    """
    try:
        rate = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise UsageError(f"rate '{text}': not understood; expected frames per second such as 25 or 30000/1001")
    return rate
