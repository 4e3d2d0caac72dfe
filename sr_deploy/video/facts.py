"""What a stream and its first frame say of all frames, and what of that the user should know."""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Literal, cast

import av
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.video.stream import VideoStream

from sr_deploy.device.ycbcr import YCGCO
from sr_deploy.errors import VideoError
from sr_deploy.video.colors import chroma_location_of, layout_of, meaning_of
from sr_deploy.video.frame import ColorTags, VideoFormat
from sr_deploy.video.input import Input

FieldOrder = Literal["progressive", "top first", "bottom first"]
FIELD_ORDERS: dict[int, FieldOrder] = {2: "top first", 3: "bottom first", 4: "top first", 5: "bottom first"}
CONSTANT_LUMINANCE, ICTCP = 10, 14
PQ, HLG = 16, 18
CENTER = 2
MATRIX_NAMES = {1: "BT.709", 4: "FCC", 5: "BT.601", 6: "BT.601", 7: "SMPTE 240M", YCGCO: "YCgCo", 9: "BT.2020"}
_DOLBY_VISION = re.compile(rb"dv[cvw]C(?:\x41\xed[\x80-\xff])?\x01[\0-\x0a](..[\0-\xff])", re.DOTALL)
"""The record in MP4 and Matroska, from its profile on; after that, level and flags, then what the base layer is."""
_RECORD_WITHIN = 1 << 23
"""Bytes at either end of a file in which headers lie."""
IDENTITY = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)


def format_of(stream: VideoStream, first: av.VideoFrame) -> VideoFormat:
    """The format of a stream: sizes and pixels of its decoded frame, the rest as the container tells it."""
    side = side_data(first)
    matrix = side.get("DISPLAYMATRIX")
    numbers = struct.unpack("=9i", matrix) if matrix is not None and len(matrix) == 36 else IDENTITY
    return VideoFormat(
        width=first.width,
        height=first.height,
        pixel_format=first.format.name,
        depth=layout_of(first.format.name).depth,
        time_base=stream.time_base or Fraction(1, 1000),
        rate=stream.average_rate or stream.guessed_rate or None,
        tags=_tags(stream, first),
        sample_aspect=stream.sample_aspect_ratio or None,
        display_matrix=None if numbers == IDENTITY else numbers,
        field_order=_field_order(stream, first),
        mastering=side.get("MASTERING_DISPLAY_METADATA"),
        light=side.get("CONTENT_LIGHT_LEVEL"),
    )


def side_data(frame: av.VideoFrame) -> dict[str, bytes]:
    """The side data of a frame by FFmpeg's names, of the kinds that PyAV has a name for."""
    carried: dict[str, bytes] = {}
    for data in cast("Iterable[SideData]", frame.side_data):
        with suppress(ValueError):
            carried[data.type.name] = bytes(data)
    return carried


def _tags(stream: VideoStream, first: av.VideoFrame) -> ColorTags:
    """The tags of the container where it has any, else of the frame."""
    context = stream.codec_context
    return ColorTags(
        matrix=_told(context.colorspace, first.colorspace, 2),
        range=_told(context.color_range, first.color_range, 0),
        primaries=_told(context.color_primaries, first.color_primaries, 2),
        transfer=_told(context.color_trc, first.color_trc, 2),
        chroma_location=CENTER if context.name == "mjpeg" else chroma_location_of(first),
    )


def _told(container: int, frame: int, unspecified: int) -> int:
    return int(container) if container != unspecified else int(frame)


def _field_order(stream: VideoStream, first: av.VideoFrame) -> FieldOrder:
    """As the stream is flagged; a frame that alone is flagged does not say which field is first, and most are top first."""
    unflagged: FieldOrder = "top first" if first.interlaced_frame else "progressive"
    return FIELD_ORDERS.get(stream.codec_context.field_order, unflagged)


def notes_of(stream: VideoStream, first: av.VideoFrame, format: VideoFormat, source: Input) -> Iterator[str]:
    """Sentences about what is guessed, left out or unusual. Raises: VideoError for pixels that are not what they seem."""
    layout, tags = layout_of(format.pixel_format), format.tags
    meaning = meaning_of(tags, format.pixel_format, format.height)
    if layout.kind == "yuv" and tags.matrix != meaning.matrix:
        if tags.matrix in (CONSTANT_LUMINANCE, ICTCP):
            yield "Its color matrix is not linear; it is computed as BT.2020."
        else:
            guess = (
                f"{MATRIX_NAMES[meaning.matrix]} because its height is {'at least' if format.height >= 720 else 'below'} 720"
            )
            yield f"Its colors are untagged: they are taken for {guess}."
    if dolby := dolby_vision(source, stream.codec_context.name):
        profile, compatible = dolby
        if not compatible:
            raise VideoError(
                f"{source.name}: it is Dolby Vision of profile {profile}, whose pictures are no YCbCr: all colors would be "
                "wrong. Convert it to HDR10 or SDR first."
            )
        yield f"Its Dolby Vision metadata (profile {profile}) is left out; its base layer is upscaled."
    if tags.transfer in (PQ, HLG):
        yield "It is HDR; networks are trained on SDR, so look at the result before you trust it."
    if has_alpha(stream, first):
        yield "Its transparency is left out."


def dolby_vision(source: Input, codec: str) -> tuple[int, bool] | None:
    """The profile in a file's Dolby Vision record, and whether its base layer can be shown alone; PyAV does not tell."""
    if source.pipe or codec not in ("hevc", "h264", "av1", "libdav1d"):
        return None
    with source.read() as file:
        ends = file.read(_RECORD_WITHIN)
        file.seek(max(len(ends), file.seek(0, io.SEEK_END) - _RECORD_WITHIN))
        found = _DOLBY_VISION.search(ends + file.read())
    if found is None:
        return None
    profile = found[1][0] >> 1
    return profile, profile != 5 and (profile != 10 or found[1][2] >> 4 != 0)


def has_alpha(stream: VideoStream, first: av.VideoFrame) -> bool:
    """Whether the stream has an alpha plane, decoded or, as in WebM, beside the frames."""
    components = len(first.format.components)
    return (
        stream.metadata.get("alpha_mode") == "1"
        or components == 4
        or (components == 2 and layout_of(first.format.name).kind == "gray")
    )


def duration_of(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """How long the video is in seconds, as its stream or else the file says."""
    if stream.duration is not None and stream.time_base is not None:
        return stream.duration * stream.time_base
    if container.duration is None:
        return None
    # Matroska tells when the last frame ends, others how long all lasts.
    early = container.start_time or 0 if "matroska" in container.format.name else 0
    return Fraction(container.duration - early, av.time_base)


def count_of(stream: VideoStream, duration: Fraction | None, hidden: int) -> int | None:
    """How many frames the file says, less those that are hidden, or lets guess by duration and rate."""
    if stream.frames:
        return stream.frames - hidden
    if duration is None or not stream.average_rate:
        return None
    return max(1, round(duration * stream.average_rate))


def window_of(
    zero: Fraction, time_base: Fraction, begin: Fraction | None, until: Fraction | None
) -> tuple[int | None, int | None]:
    """The last pts before the window and the first after it, in ticks. zero: where players begin to count, in seconds."""
    floor = None if begin is None else math.ceil((begin + zero) / time_base) - 1
    ceiling = None if until is None else math.ceil((until + zero) / time_base)
    return floor, ceiling
