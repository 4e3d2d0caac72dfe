"""A video, or raw frames on a pipe -> frames with their exact times, and what the stream says of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from sr_deploy.arrays import Array
from sr_deploy.errors import VideoError
from sr_deploy.video.colors import rgb_from_frame
from sr_deploy.video.decoding import (
    FIRST_PACKETS,
    UNORDERED,
    Clock,
    DamageError,
    DoubtError,
    decode_carefully,
    decode_fast,
    is_untimed,
    met,
    seek_before,
)
from sr_deploy.video.facts import count_of, duration_of, format_of, notes_of, window_of
from sr_deploy.video.filters import deinterlaced
from sr_deploy.video.frame import Frame
from sr_deploy.video.input import Input, input_of
from sr_deploy.video.packets import Packets
from sr_deploy.video.promises import NO_TIME, shown_times
from sr_deploy.video.splices import Continuous
from sr_deploy.video.streams import codec_name, main_video
from sr_deploy.video.survey import PacketSurvey, survey_file

Deinterlace = Literal["auto", "off", "on"]
OnDamage = Literal["raise", "skip"]
VideoFrames = Generator[av.VideoFrame, None, None]
Decode = Callable[[Packets, VideoStream, int | None], Iterator[Any]]
"""Frames of a container's stream in presentation order; up to a pts, packets may give none. Raises DoubtError."""


class VideoSource:
    """Frames of one video stream, with their times; a context manager.

    format: what the frames are; its field_order is 'progressive' when they are deinterlaced here. frame_count: how many the
    file says or lets guess, None without a hint. duration: in seconds, None when unknown. start_pts: of the first frame. zero:
    where players begin to count, in seconds of the file's own clock. codec: FFmpeg's name, such as 'h264'.
    repeatable: whether `frames` may be called more than once; not on a pipe.
    """

    def __init__(
        self,
        what: str | Path | BinaryIO | Input,
        *,
        stream: int | None = None,
        begin: Fraction | None = None,
        until: Fraction | None = None,
        deinterlace: Deinterlace = "auto",
        on_damage: OnDamage = "raise",
        survey: PacketSurvey | None = None,
    ) -> None:
        """Opens the file and decodes its first frame; a file object that cannot be sought is raw y4m.

        stream: its number in the file, by default the first video that is no cover. begin, until: seconds from the start of the
        file, as players show it; a frame at `until` is left out. on_damage: 'skip' goes on after damaged packets, and notes say
        how many there were.

        Raises: VideoError when the file cannot be read or has no video.
        """
        self._input = input_of(what)
        self._stream = stream
        self._every = deinterlace == "on"
        self._skipped: list[DamageError] | None = [] if on_damage == "skip" else None
        self._notes: dict[str, str] = {}
        self._stack = ExitStack()
        self._live: Iterator[av.VideoFrame] | None = None
        self._on_device: Decode | None = None
        self.repeatable = self._input.pipe is None
        self.survey = survey or PacketSurvey()
        self._packet_times = array("q")
        container = self._stack.enter_context(self._input.open())
        try:
            self._look(container, begin, until, deinterlace)
        except BaseException:
            self._stack.close()
            raise
        if self.repeatable:
            self._stack.close()

    def _look(
        self, container: InputContainer, begin: Fraction | None, until: Fraction | None, deinterlace: Deinterlace
    ) -> None:
        """Takes all facts from the container and its first frame."""
        video = self._video(container)
        if self.repeatable and self.survey == PacketSurvey():
            self.survey = survey_file(self._input, self._video, self._packet_times)
        frames = decode_carefully(container, video, self._skipped if not self.repeatable else [])
        first = self._first(frames, video)
        self.codec = codec_name(video)
        self.format = format_of(video, first)
        self.start_pts = _pts(first)
        self.duration = duration_of(container, video)
        self.frame_count = count_of(video, self.duration, self.survey.hidden)
        unordered = container.format.name in UNORDERED or video.start_time is None or is_untimed(video)
        self._seekable = self.repeatable and not unordered and not self.survey.splices
        self.zero = Fraction(container.start_time or 0, av.time_base)
        self._floor, self._ceiling = window_of(self.zero, self.format.time_base, begin, until)
        self._notes |= {f"fact {i}": note for i, note in enumerate(notes_of(video, first, self.format, self._input))}
        for number, (pts, reason) in enumerate(self.survey.faults):
            self._notes[f"fault {number}"] = f"It is damaged at {self._place(pts)}: {reason}."
        if lost := self._lost_before(first):
            plural = "s" * (lost > 1)
            self._notes["lost"] = f"It begins with {lost} picture{plural} before a keyframe: lost, nothing can decode them."
        self._notes |= {f"survey {i}": note for i, note in enumerate(self.survey.notes())}
        self._filtered = deinterlace == "on" or (deinterlace == "auto" and self.format.field_order != "progressive")
        if self._filtered:
            self._notes["interlaced"] = "It is interlaced: its frames are deinterlaced."
            self.format = replace(self.format, field_order="progressive")
        if not self.repeatable:
            self._live = chain([first], frames)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, as sentences; some come only while frames are read."""
        return tuple(self._notes.values())

    @property
    def host_only(self) -> str:
        """Why its frames are decoded in the host's memory, in words; empty where that may be done elsewhere."""
        if not self.repeatable:
            return "it comes from a pipe"
        if self.survey.faults or self.survey.splices:
            return "the file is damaged" if self.survey.faults else "its times start anew"
        return "it is deinterlaced" if self._filtered else ""

    def decode_on_device(self, decode: Decode) -> None:
        """Take frames of `frames` from there, until it is in doubt: the host's decoder goes on then, and a note says so.

        Its frames have `pixels`, which become those of Frame as they are, and pts, dts, duration, is_corrupt as PyAV's.
        """
        self._on_device = decode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes a pipe's container; a generator of frames closes its own file when it ends."""
        self._stack.close()

    def frames(self, after: int | None = None) -> Iterator[Frame]:
        """Frames in presentation order, each later than the last.

        after: the pts of a frame: those that follow it come, exactly as they would without it.

        Raises: VideoError at damage, after all frames before it; or when the stream changes its size or pixel format.
        """
        with closing(self._shown(after)) as shown:
            for frame in shown:
                yield Frame(self._pixels(frame), _pts(frame), frame.duration)

    def times(self) -> Iterator[int]:
        """pts of what `frames` gives: decoded, and nothing more. Raises: VideoError at damage."""
        with closing(self._shown(None)) as shown:
            yield from map(_pts, shown)

    def packet_times(self) -> list[int] | None:
        """pts that the packets of `frames` have, sorted; None where frames need not have those of packets."""
        if not self._seekable or self._filtered or self._skipped is not None or self.survey.faults:
            return None
        times = shown_times(self._packet_times)
        first = 0 if self._floor is None else bisect_right(times, self._floor)
        return times[first : None if self._ceiling is None else bisect_left(times, self._ceiling)] or None

    def _shown(self, after: int | None) -> VideoFrames:
        """The frames of `frames` as they are decoded."""
        floor = max((pts for pts in (after, self._floor) if pts is not None), default=None)
        faults = [] if self._skipped is not None else [DamageError(*fault) for fault in self.survey.faults]
        ahead = [fault for fault in faults if None in (fault.pts, floor) or fault.pts >= floor]  # type: ignore[operator]
        with closing(self._decoded(floor)) as decoded:
            for frame in decoded:
                pts = _pts(frame)
                if self._ceiling is not None and pts >= self._ceiling:
                    return
                for fault in ahead:
                    if fault.pts is not None and fault.pts < pts:
                        raise self._damage_error(fault)
                yield frame
        for fault in ahead:
            raise self._damage_error(fault)

    def _decoded(self, floor: int | None) -> VideoFrames:
        """Frames later than that pts, decoded fast up to the first doubt and carefully from there on."""
        for decode in [self._on_device, decode_fast] if self.repeatable else []:
            if decode is None:
                continue
            try:
                for frame in self._later(floor, decode):
                    yield frame
                    floor = _pts(frame)
                return
            except DoubtError as doubt:
                self._give_up_device(str(doubt), floor)
        try:
            yield from self._later(floor, lambda packets, video, _: decode_carefully(packets, video, self._skipped))
        except DamageError as damage:
            raise self._damage_error(damage) from damage

    def _give_up_device(self, reason: str, floor: int | None) -> None:
        if reason and self._on_device is not None:
            self._on_device = None
            where = "the beginning" if floor is None else self._clock(floor)
            self._notes["device"] = f"NVDEC was given up at {where}: {reason}. The rest was decoded on the CPU."

    def _later(self, floor: int | None, decode: Decode) -> VideoFrames:
        """Frames later than that pts: after a seek if a sound frame up to it is met then, else from the first frame on."""
        if floor is not None and self._seekable:
            met = False
            with closing(self._pass(floor, decode, seek=True)) as frames:
                for frame in frames:
                    if _pts(frame) > floor:
                        if not met:
                            break
                        yield frame
                    met = met or not frame.is_corrupt
            if met:
                return
        with closing(self._pass(floor, decode, seek=False)) as frames:
            yield from (frame for frame in frames if floor is None or _pts(frame) > floor)

    def _pass(self, floor: int | None, decode: Decode, seek: bool) -> VideoFrames:
        """All frames of the file from its start or, sought, from a keyframe well before that pts."""
        if self._live is not None:
            yield from self._timed(self._piped(self._live))
            return
        with self._input.open() as container:
            video = self._video(container)
            if seek and floor is not None and not seek_before(container, video, floor):
                return
            packets = Continuous(container, self.survey.splices) if self.survey.splices else container
            yield from self._timed(self._of_one_aspect(decode(packets, video, floor), video))

    def _piped(self, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """The same frames; damage is met where the last one is cut."""
        last = None
        for last in frames:
            yield last
        if last is not None and self._input.pipe and self._input.pipe.rest(last.format):
            met(DamageError(None, "its last frame is cut"), self._skipped)

    def _of_one_aspect(self, frames: Iterator[Any], video: VideoStream) -> Iterator[Any]:
        """The same frames; a note where the decoder met another shape of pixels, which the result has not."""
        first = video.codec_context.sample_aspect_ratio
        for frame in frames:
            seen = video.codec_context.sample_aspect_ratio
            if seen and first and seen != first and "aspect" not in self._notes and frame.pts is not None:
                where = self._clock(frame.pts)
                self._notes["aspect"] = (
                    f"The aspect of its pixels changes from {first} to {seen} near {where}: the first is kept."
                )
            first = first or seen
            yield frame

    def _timed(self, decoded: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """The same frames with times, deinterlaced where they are to be; afterwards, notes of what was repaired or skipped."""
        clock = Clock()
        frames: Iterator[av.VideoFrame] = map(clock.stamp, decoded)
        yield from deinterlaced(frames, self.format.time_base, every=self._every) if self._filtered else frames
        if clock.repaired:
            self._notes["times"] = (
                f"{clock.repaired} frames had no time that could be used; theirs follow from their neighbors."
            )
        if self._skipped:
            places = list(dict.fromkeys(self._place(damage.pts) for damage in self._skipped))
            more = f" and {len(places) - 3} more places" if len(places) > 3 else ""
            self._notes["damage"] = f"{len(self._skipped)} damaged packets were skipped, at {', '.join(places[:3])}{more}."

    def _lost_before(self, first: av.VideoFrame) -> int:
        """How many packets come before the first frame that can be decoded."""
        begin = _pts(first)
        return 0 if not self._seekable else sum(NO_TIME < pts < begin for pts in self._packet_times[:FIRST_PACKETS])

    def _video(self, container: InputContainer) -> VideoStream:
        try:
            video = main_video(container, self._stream)
        except VideoError as exc:
            found = ", ".join(f"{stream.index} {stream.type}" for stream in container.streams) or "none"
            wanted = "a video stream" if self._stream is None else f"video in stream {self._stream}"
            raise VideoError(f"{self._input.name}: expected {wanted}; its streams are: {found}.") from exc
        if video.codec_context is None:
            raise VideoError(
                f"{self._input.name}: FFmpeg does not know the codec of its video, or it is damaged. Fetch it again."
            )
        return video

    def _first(self, frames: Iterator[av.VideoFrame], video: VideoStream) -> av.VideoFrame:
        try:
            first = next(frames, None)
        except (av.FFmpegError, DamageError, ValueError) as exc:
            raise VideoError(f"{self._input.name}: its {video.codec_context.name} video cannot be decoded: {exc}.") from exc
        if first is None:
            raise VideoError(f"{self._input.name}: not one frame can be decoded; the file is damaged or empty. Fetch it again.")
        return Clock().stamp(first)

    def _pixels(self, frame: Any) -> Array:
        if not isinstance(frame, av.VideoFrame):
            pixels: Array = frame.pixels
            return pixels
        known = self.format
        if (frame.width, frame.height, frame.format.name) != (known.width, known.height, known.pixel_format):
            raise VideoError(
                f"{self._input.name}: at {self._clock(_pts(frame))} the video changes from {known.width}x{known.height} "
                f"{known.pixel_format} to {frame.width}x{frame.height} {frame.format.name}. Cut it there, upscale the parts."
            )
        return rgb_from_frame(frame, known)

    def _damage_error(self, damage: DamageError) -> VideoError:
        where = f"{self._input.name} is damaged at {self._place(damage.pts)}"
        return VideoError(f"{where}: {damage}. Fetch it again, or let damaged parts be skipped.")

    def _place(self, pts: int | None) -> str:
        return "its end" if pts is None else self._clock(pts)

    def _clock(self, pts: int) -> str:
        seconds = max(float((pts - self.start_pts) * self.format.time_base), 0.0)
        return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02}:{seconds % 60:06.3f}"


def _pts(frame: av.VideoFrame) -> int:
    """The time of a frame that a Clock has stamped."""
    assert frame.pts is not None
    return frame.pts
