"""Numbered pictures and animations -> frames, as if they were a video; and the choice of what reads an input."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Protocol, Self

import cv2
import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.errors import VideoError
from sr_deploy.pictures.image import NUMBER, read_image
from sr_deploy.video.frame import ColorTags, Frame, VideoFormat
from sr_deploy.video.input import Input, input_of
from sr_deploy.video.source import Deinterlace, OnDamage, VideoSource
from sr_deploy.video.survey import PacketSurvey

RATE = Fraction(25)
"""Pictures per second when nobody says it, as FFmpeg takes it."""

SRGB = ColorTags(matrix=0, range=2, primaries=1, transfer=13)


class _Pictures(Protocol):
    """Pictures with the time of each, in ticks, and one after the last."""

    time_base: Fraction
    rate: Fraction | None
    times: Sequence[int]
    transparent: bool

    def pixels(self, number: int) -> Array:
        """(H,W,3) RGB of one of them."""


class PictureSource:
    """Frames that are pictures; a context manager with the attributes of VideoSource."""

    def __init__(self, pictures: _Pictures, begin: Fraction | None = None, until: Fraction | None = None) -> None:
        first = pictures.pixels(0)
        deep = first.dtype == np.uint16
        self._pictures = pictures
        self._begin, self._until = begin, until
        self.format = VideoFormat(
            first.shape[1],
            first.shape[0],
            "rgb48le" if deep else "rgb24",
            16 if deep else 8,
            pictures.time_base,
            pictures.rate,
            SRGB,
        )
        self.frame_count: int | None = len(pictures.times) - 1
        self.duration: Fraction | None = (pictures.times[-1] - pictures.times[0]) * pictures.time_base
        self.start_pts = pictures.times[0]
        self.zero = Fraction(0)
        self.notes: tuple[str, ...] = ("Its transparency is left out.",) if pictures.transparent else ()
        self.repeatable = True
        self.survey = PacketSurvey()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open between two frames."""

    def close(self) -> None:
        """Nothing is open between two frames."""

    def frames(self, after: int | None = None) -> Iterator[Frame]:
        """Frames in order, those after that pts.

        Raises: VideoError when a picture cannot be read or differs from the first in size or depth.
        """
        times, wanted = self._pictures.times, frozenset(self.times())
        for number, (pts, end) in enumerate(pairwise(times)):
            if pts in wanted and (after is None or pts > after):
                yield Frame(self._checked(self._pictures.pixels(number), number), pts, end - pts)

    def times(self) -> Iterator[int]:
        """pts of what `frames` gives."""
        seconds = ((pts, pts * self._pictures.time_base) for pts in self._pictures.times[:-1])
        for pts, begin in seconds:
            if (self._begin is None or begin >= self._begin) and (self._until is None or begin < self._until):
                yield pts

    def packet_times(self) -> list[int] | None:
        """The same at once."""
        return list(self.times())

    def _checked(self, pixels: Array, number: int) -> Array:
        height, width = pixels.shape[:2]
        known = self.format
        if (width, height, pixels.dtype.itemsize * 8) != (known.width, known.height, known.depth):
            raise VideoError(
                f"Picture {number + 1} is {width}x{height} of {pixels.dtype.itemsize * 8} bits, the first is "
                f"{known.width}x{known.height} of {known.depth}. Pictures of a video are all of one size and depth."
            )
        return pixels


FrameSource = VideoSource | PictureSource
"""What gives the frames of an input."""


def open_source(
    what: str | Path | BinaryIO | Input,
    *,
    rate: Fraction | None = None,
    stream: int | None = None,
    begin: Fraction | None = None,
    until: Fraction | None = None,
    deinterlace: Deinterlace = "auto",
    on_damage: OnDamage = "raise",
    survey: PacketSurvey | None = None,
) -> FrameSource:
    """The frames of a video, an animated picture, numbered pictures ('frame_%06d.png'), or raw y4m from a pipe.

    rate: pictures per second, for numbered pictures only. The rest is as VideoSource has it; pictures know no streams, fields
    or damaged packets. A file that exists is never taken for a pattern.

    Raises: VideoError when it cannot be read.
    """
    source = input_of(what)
    path = source.path
    if path is not None and NUMBER.search(path.name) and not path.exists():
        return PictureSource(_numbered(path, rate or RATE), begin, until)
    if source.begins_as_webp():
        return PictureSource(_Animation(source), begin, until)
    return VideoSource(
        source, stream=stream, begin=begin, until=until, deinterlace=deinterlace, on_damage=on_damage, survey=survey
    )


class _Files:
    """One file each, all shown for the same time."""

    def __init__(self, paths: Sequence[Path], rate: Fraction) -> None:
        self._paths = paths
        self.rate: Fraction | None = rate
        self.time_base = 1 / rate
        self.times: Sequence[int] = range(len(paths) + 1)
        self.transparent = read_image(paths[0]).alpha is not None

    def pixels(self, number: int) -> Array:
        """(H,W,3) RGB without alpha, gray as three equal channels, floats as uint16."""
        found = read_image(self._paths[number]).pixels
        if found.dtype == np.float32:
            found = (found.clip(0, 1) * 65535 + 0.5).astype(np.uint16)
        return found if found.ndim == 3 and found.shape[2] == 3 else np.repeat(found.reshape(*found.shape[:2], 1), 3, axis=2)


def _numbered(pattern: Path, rate: Fraction) -> _Files:
    """The files of a pattern in the order of their numbers.

    Raises: VideoError when there are none, or numbers between the first and the last are missing.
    """
    number = NUMBER.search(pattern.name)
    assert number is not None
    before, after = pattern.name[: number.start()], pattern.name[number.end() :]
    digits = rf"\d{{{int(number[2])},}}" if number[1] and number[2] else r"\d+"
    expected = re.compile(re.escape(before) + f"({digits})" + re.escape(after))
    folder = pattern.parent
    names = [name.name for name in folder.iterdir()] if folder.is_dir() else []
    found = {int(match[1]): folder / match[0] for match in map(expected.fullmatch, names) if match}
    if not found:
        raise VideoError(f"{pattern}: no picture fits this pattern. Check the folder and the number of digits.")
    missing = sorted(set(range(min(found), max(found) + 1)) - set(found))
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise VideoError(f"{pattern}: the pictures of these numbers are missing: {shown}. A video needs every one.")
    return _Files([found[key] for key in sorted(found)], rate)


class _Animation:
    """An animated WebP, which FFmpeg does not decode; all its pictures are held in memory, as OpenCV gives them."""

    def __init__(self, source: Input) -> None:
        try:
            with source.read() as file:
                whole, animation = cv2.imdecodeanimation(np.frombuffer(file.read(), np.uint8))
        except (cv2.error, OSError) as exc:
            raise VideoError(f"{source.name} cannot be read as an animation: {exc}.") from exc
        if not whole or not animation.frames:
            raise VideoError(f"{source.name} cannot be read as an animation: it is damaged. Fetch it again.")
        self._frames = animation.frames
        self.time_base = Fraction(1, 1000)
        self.rate: Fraction | None = None
        self.transparent = any(frame.shape[2] == 4 and frame[..., 3].min() < 255 for frame in animation.frames)
        # Browsers take 0 for 100 ms; two frames at one time cannot be told apart.
        durations = np.where(np.asarray(animation.durations) > 0, animation.durations, 100)
        self.times: Sequence[int] = [0, *map(int, np.cumsum(durations))]

    def pixels(self, number: int) -> Array:
        """(H,W,3) RGB without alpha."""
        code = cv2.COLOR_BGRA2RGB if self._frames[number].shape[2] == 4 else cv2.COLOR_BGR2RGB
        return cv2.cvtColor(self._frames[number], code)
