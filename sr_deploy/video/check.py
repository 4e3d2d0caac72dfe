"""The finished file, opened afresh: does it hold every frame at its time, every stream and every tag?"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from av.codec import Codec
from av.container import InputContainer
from av.sidedata.sidedata import SideData, Type
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from sr_deploy.errors import VideoError
from sr_deploy.video.encoding import Encoding, encoded_format
from sr_deploy.video.frame import ColorTags, VideoFormat
from sr_deploy.video.hdr import light_numbers, mastering_numbers
from sr_deploy.video.join import Joined
from sr_deploy.video.streams import ERRORS, Copied, StreamPlan, codec_name, is_made_by_muxer, main_video

_ROLES = (
    Disposition.default
    | Disposition.forced
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.original
    | Disposition.comment
)
"""Dispositions that Matroska keeps; MP4 decides by itself which track is the default."""

AGAIN = "the file is not what it should be: run again"


@dataclass(frozen=True)
class Expected:
    """What a finished file must hold.

    codec: FFmpeg's name of it, such as 'hevc'. pts: of every frame in the order shown, in ticks of the time base of `encoded`.
    last_duration: of the last one, in the same ticks. streams: of the source, with how many packets of each.
    """

    container: str
    codec: str
    encoded: VideoFormat
    pts: Sequence[int]
    last_duration: int
    streams: tuple[tuple[Copied, int], ...] = ()
    chapters: int = 0

    @staticmethod
    def of(out: VideoFormat, encoding: Encoding, plan: StreamPlan, joined: Joined) -> Expected:
        """What a joined file must hold, from what it was made of."""
        streams = tuple((copied, joined.packets.get(copied.index, 0)) for copied in plan.copied)
        codec, encoded = Codec(encoding.codec, "w").canonical_name, encoded_format(out, encoding)
        return Expected(plan.container, codec, encoded, joined.pts, joined.last_duration, streams, joined.chapters)


def check_result(target: Path, expected: Expected) -> None:
    """Compare a finished file with what it must hold; times in the clock of its container: milliseconds in Matroska.

    Raises: VideoError naming the first thing that is missing or wrong.
    """
    try:
        with av.open(f"file:{target}", "r", metadata_errors="replace") as opened:
            _check(opened, target, expected)
    except ERRORS as exc:
        raise VideoError(f"{target}: cannot be read back ({getattr(exc, 'strerror', None) or exc}); run again") from exc


def _check(opened: InputContainer, target: Path, expected: Expected) -> None:
    video = main_video(opened, None)
    found = _scan(opened, video)
    base = cast(Fraction, video.time_base)
    shown = sorted(found.pts)
    length = _end(video, found.end) - shown[0] * base if shown else Fraction(0)
    for what, is_, should in (
        *_stream_facts(video, expected),
        *_frame_facts(found.first, expected.encoded),
        *_times(shown, base, expected),
        *_length(length, expected),
        *_copies(opened, video, expected, found.packets),
        ("the number of chapters", len(opened.chapters()), expected.chapters),
    ):
        if is_ != should:
            raise VideoError(f"{target}: {what} is {is_}, expected {should}; {AGAIN}")


@dataclass
class _Scanned:
    pts: list[int]
    end: int
    first: av.VideoFrame | None
    packets: dict[int, int]


def _scan(opened: InputContainer, video: VideoStream) -> _Scanned:
    """Every packet of the file; decoded are those of the first frame only."""
    found = _Scanned([], 0, None, dict.fromkeys((stream.index for stream in opened.streams), 0))
    for packet in opened.demux():
        # A packet that only flushes the decoder has no index of its own.
        if packet.stream.index == video.index and found.first is None:
            found.first = next(iter(cast("list[av.VideoFrame]", packet.decode())), None)
        if not packet.size:
            continue
        found.packets[packet.stream_index] += 1
        if packet.stream_index == video.index and packet.pts is not None:
            found.pts.append(packet.pts)
            found.end = max(found.end, packet.pts + (packet.duration or 0))
    return found


_Fact = tuple[str, Any, Any]


def _stream_facts(video: VideoStream, expected: Expected) -> Iterator[_Fact]:
    wanted, context = expected.encoded, video.codec_context
    tags = ColorTags(context.colorspace, context.color_range, context.color_primaries, context.color_trc)
    pixel = av.VideoFormat(_plain(context.pix_fmt or "gray"))
    yield "the codec", context.codec.canonical_name, expected.codec
    yield "the size", f"{context.width}x{context.height}", f"{wanted.width}x{wanted.height}"
    yield "the pixel format", pixel.name, _plain(wanted.pixel_format)
    yield "the depth", pixel.components[0].bits, wanted.depth
    for name in ("matrix", "range", "primaries", "transfer"):
        yield f"the color tag '{name}'", *_tag(name, tags, wanted)
    if wanted.sample_aspect:
        yield "the pixel aspect", video.sample_aspect_ratio or Fraction(1), wanted.sample_aspect


def _frame_facts(first: av.VideoFrame | None, wanted: VideoFormat) -> Iterator[_Fact]:
    side = {} if first is None else {entry.type: bytes(entry) for entry in cast("Iterable[SideData]", first.side_data)}
    matrix = side.get(Type.DISPLAYMATRIX)
    yield "the display matrix", None if matrix is None else struct.unpack("=9i", matrix), wanted.display_matrix
    if light_numbers(wanted.light):
        yield "the content light level", light_numbers(side.get(Type.CONTENT_LIGHT_LEVEL)), light_numbers(wanted.light)
    if mastering_numbers(wanted.mastering):
        found = mastering_numbers(side.get(Type.MASTERING_DISPLAY_METADATA))
        yield "the mastering display", _rounded(found), _rounded(mastering_numbers(wanted.mastering))


def _rounded(mastering: tuple[Fraction, ...] | None) -> list[float] | None:
    """Rounded as coarsely as AV1 writes them."""
    return None if mastering is None else [round(float(value), 2) for value in mastering]


def _end(video: VideoStream, last: int) -> Fraction:
    """When the last frame ends, in seconds: as the container says, for Matroska keeps no durations of packets."""
    base = cast(Fraction, video.time_base)
    if said := video.metadata.get("DURATION"):
        hours, minutes, seconds = said.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    if video.duration is not None and video.start_time is not None:
        return (video.start_time + video.duration) * base
    return last * base


def _length(length: Fraction, expected: Expected) -> Iterator[_Fact]:
    pts, base = expected.pts, expected.encoded.time_base
    if not pts:
        return
    wanted = (pts[-1] + expected.last_duration - pts[0]) * base
    frame = max(wanted / len(pts), Fraction(1, 1000))
    if abs(length - wanted) > frame:
        yield "the duration", f"{float(length):.3f} s", f"{float(wanted):.3f} s"


def _plain(pixel_format: str) -> str:
    """Formats go by two names: full-range ones, and those that encoders take in another order than decoders give."""
    return {"nv12": "yuv420p", "p010le": "yuv420p10le"}.get(pixel_format, pixel_format.replace("yuvj", "yuv"))


def _tag(name: str, tags: ColorTags, wanted: VideoFormat) -> tuple[int, int]:
    """The tag found and expected. Limited range and none are one: some codecs always write it, others never."""
    found, should = getattr(tags, name), getattr(wanted.tags, name)
    return (found or 1, should or 1) if name == "range" else (found, should)


def _times(shown: Sequence[int], base: Fraction, expected: Expected) -> Iterator[_Fact]:
    ticks = [_rescaled(pts, expected.encoded.time_base, base) for pts in expected.pts]
    yield "the number of frames", len(shown), len(ticks)
    for number, (found, should) in enumerate(zip(shown, ticks, strict=False)):
        if found != should:
            yield f"the time of frame {number}", f"{float(found * base):.6f} s", f"{float(should * base):.6f} s"


def _rescaled(ticks: int, base: Fraction, other: Fraction) -> int:
    """To the nearest tick, halves away from zero, as muxers round."""
    exact = ticks * base / other
    whole = (abs(exact.numerator) * 2 + exact.denominator) // (exact.denominator * 2)
    return whole if exact >= 0 else -whole


def _copies(opened: InputContainer, video: VideoStream, expected: Expected, packets: dict[int, int]) -> Iterator[_Fact]:
    others = [stream for stream in opened.streams if stream.index != video.index and not is_made_by_muxer(stream)]
    yield "the number of copied streams", len(others), len(expected.streams)
    # Attached files come last in a file, wherever they stood in the source.
    found = sorted(others, key=_is_attached)
    wanted = sorted(expected.streams, key=lambda entry: _goes_last(entry[0]))
    for stream, (copied, count) in zip(found, wanted, strict=False):
        attached = copied.convert == "attachment"
        yield f"{copied}: the kind", stream.type, copied.kind
        yield f"{copied}: the codec", codec_name(stream), "subrip" if copied.convert == "subrip" else copied.codec
        if expected.container == "matroska" and not attached:
            yield f"{copied}: the disposition", stream.disposition & _ROLES, Disposition(copied.disposition) & _ROLES
        if copied.language and len(copied.language) == 3 and copied.language != "und" and not attached:
            yield f"{copied}: the language", stream.language, copied.language
        if copied.kind != "attachment" and not attached:
            yield f"{copied}: the number of packets", packets[stream.index], count


def _is_attached(stream: Stream) -> bool:
    return stream.type == "attachment" or bool(stream.disposition & Disposition.attached_pic)


def _goes_last(copied: Copied) -> bool:
    return copied.kind == "attachment" or bool(copied.disposition & Disposition.attached_pic)
