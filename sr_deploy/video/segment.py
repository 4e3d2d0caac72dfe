"""Frames -> one closed file of packets, exact in time, complete or absent."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, cast

import av
import av.error
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from sr_deploy.arrays import Array
from sr_deploy.device.device import DeviceArray
from sr_deploy.errors import VideoError
from sr_deploy.files import Growing
from sr_deploy.video.colors import frame_from_codes, frame_from_rgb
from sr_deploy.video.encoding import Encoding, encoded_format, frame_clock, open_encoder
from sr_deploy.video.frame import Frame, VideoFormat
from sr_deploy.video.header import stream_template
from sr_deploy.video.streams import add_video

SHIFT = "shift"
"""The tag of a segment with the ticks that were added to all its times: NUT knows no time before zero."""

MOST_REORDERED = 16
"""Frames that a decoder may hold back, at most (H.264, A.3.1; H.265, A.4.2)."""


@dataclass(frozen=True)
class Segment:
    """A finished file of consecutive frames. pts: in ticks of the video's time base."""

    path: Path
    frames: int
    first_pts: int
    last_pts: int
    bytes: int


def segment_suffix(encoding: Encoding) -> str:
    """The file ending of segments: .nut, which keeps any time base exactly; .mov for ProRes, which NUT does not hold.

    Matroska rounds all times to a millisecond, and MP4 holds neither FFV1 nor ProRes. NUT is also readable up to where a
    writer stopped, and ffplay, mpv and VLC play it.
    """
    return ".mov" if encoding.codec == "prores_ks" else ".nut"


class FrameEncoder(Protocol):
    """Frames, numbered from 0, -> packets of a stream of its own, whose times are those numbers."""

    def encode(self, number: int, pixels: Array | DeviceArray, /) -> Iterable[Packet[VideoStream]]: ...

    def finish(self) -> Iterable[Packet[VideoStream]]: ...


OpenEncoder = Callable[[OutputContainer, VideoFormat, Encoding], FrameEncoder]
"""Adds a stream to a file that is not begun, and gives what encodes into it: frames of a format, by an encoding."""


class HostEncoder:
    """FFmpeg's encoders, from the host's memory; their threads end with it, not when PyAV's streams are collected."""

    def __init__(self, container: OutputContainer, out: VideoFormat, encoding: Encoding) -> None:
        self._encoded = encoded_format(out, encoding)
        self._context = open_encoder(out, encoding)
        codec = self._context.codec.canonical_name
        with stream_template(codec, self._context.extradata or b"", self._encoded) as template:
            self._stream = add_video(container, template, self._encoded)

    def encode(self, number: int, pixels: Array) -> Iterable[Packet[VideoStream]]:
        picture = (frame_from_codes if pixels.ndim == 1 else frame_from_rgb)(pixels, self._encoded)
        picture.pts, picture.time_base = number, frame_clock(self._encoded)
        return self._of_stream(picture)

    def finish(self) -> Iterable[Packet[VideoStream]]:
        return self._of_stream(None)

    def _of_stream(self, picture: av.VideoFrame | None) -> Iterable[Packet[VideoStream]]:
        packets = cast("list[Packet[VideoStream]]", self._context.encode(picture))
        for packet in packets:
            packet.stream = self._stream
        return packets


class SegmentWriter:
    """Encodes frames into one file that begins with a keyframe and plays alone.

    It grows beside its name and takes it when it is complete. The encoder counts frames and knows no time, so that equal frames
    become equal bits wherever they stand.
    """

    def __init__(self, path: Path, out: VideoFormat, encoding: Encoding, encoder: OpenEncoder | None = None) -> None:
        """out: what the frames are; its pixel format and depth give way to those of the encoding. encoder: by default FFmpeg's.

        Raises: VideoError when the file cannot be made.
        """
        self.path = path
        self._encoded = encoded_format(out, encoding)
        self._pts: list[int] = []
        self._shift = 0
        self._durations: list[int] = []
        options = {"avoid_negative_ts": "disabled", "fflags": "+bitexact"}
        if segment_suffix(encoding) == ".mov":
            options |= {"movie_timescale": str(min(self._encoded.time_base.denominator, 2**31 - 1))}
        name = segment_suffix(encoding).removeprefix(".")
        try:
            self._growing = Growing(path)
        except OSError as exc:
            raise write_error(path, exc) from exc
        try:
            self._container = av.open(f"file:{self._growing.part}", "w", format=name, container_options=options)
            self._encoder = (encoder or HostEncoder)(self._container, out, encoding)
        except BaseException as exc:
            self._growing.abandon()
            if isinstance(exc, av.error.FFmpegError | OSError):
                raise write_error(path, exc) from exc
            raise

    def write(self, frame: Frame) -> None:
        """Encode one more frame.

        Raises: VideoError when it does not come after the last one, and when the encoder or the disk refuses.
        """
        if self._pts and frame.pts <= self._pts[-1]:
            raise VideoError(
                f"{self.path}: a frame at {frame.pts} after one at {self._pts[-1]}; expected them in the order they are shown"
            )
        if not self._pts and frame.pts < 0:
            self._shift = -frame.pts
            self._container.metadata[SHIFT] = str(self._shift)
        number = len(self._pts)
        self._pts.append(frame.pts)
        self._durations.append(frame.duration)
        self._mux(lambda: self._encoder.encode(number, frame.pixels))

    def close(self) -> Segment:
        """The finished file, in its place.

        Raises: VideoError when no frame was written, or the encoder or the disk refuses; nothing is left then.
        """
        try:
            if not self._pts:
                raise VideoError(f"{self.path}: a segment without frames; expected at least one")
            self._mux(self._encoder.finish)
            self._container.close()
            self._growing.keep()
        except BaseException as exc:
            self.abort()
            if isinstance(exc, av.error.FFmpegError | OSError):
                raise write_error(self.path, exc) from exc
            raise
        return Segment(self.path, len(self._pts), self._pts[0], self._pts[-1], self.path.stat().st_size)

    def abort(self) -> None:
        """Remove what was written; harmless when it is finished or aborted already."""
        close_unfinished(self._container)
        self._growing.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.abort()

    def _mux(self, encode: Callable[[], Iterable[Packet[VideoStream]]]) -> None:
        try:
            for packet in encode():
                self._set_time(packet)
                self._container.mux(packet)
        except (av.error.FFmpegError, OSError) as exc:
            raise write_error(self.path, exc) from exc

    def _set_time(self, packet: Packet[VideoStream]) -> None:
        """From frame numbers to ticks; decoding times before the first frame are as far before it as frames would be."""
        packet.time_base = self._encoded.time_base
        number = cast(int, packet.pts)
        decoded = decoding_number(number, packet.dts)
        packet.duration = self._durations[number]
        packet.pts = self._pts[number] + self._shift
        packet.dts = (self._pts[decoded] if decoded >= 0 else self._pts[0] + decoded) + self._shift


def decoding_number(shown: int, decoded: int | None) -> int:
    """When a frame is decoded, counted in frames; its place in the order shown, unless the encoder knows better.

    x265 gives times out of memory that nobody wrote to, in streams shorter than its delay; it never reorders those.
    """
    plausible = decoded is not None and -MOST_REORDERED <= decoded <= shown
    return cast(int, decoded) if plausible else shown


def close_unfinished(container: av.container.OutputContainer) -> None:
    """Close an output whose file will be removed, whatever it says."""
    with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
        container.close()


def write_error(path: Path, error: Exception, what: str = "") -> VideoError:
    """Ours, with the reason and what to do; what: the part of the file, where that may be the reason."""
    number = getattr(error, "errno", None) or 0
    reason = os.strerror(number) if number in errno.errorcode else str(getattr(error, "strerror", None) or error)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return VideoError(f"{path}: cannot be written ({reason}); free space or choose another folder")
    if what and (number == errno.EINVAL or number not in errno.errorcode):
        return VideoError(f"{path}: {what} cannot be written ({reason}); use another container, or --drop-unsupported")
    return VideoError(f"{path}: cannot be written ({reason}); check the folder")
