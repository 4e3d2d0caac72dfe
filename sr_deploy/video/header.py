"""Streams without packets that say everything of their frames: the templates that files are made from.

PyAV sets the static HDR metadata, the pixel aspect and the chroma location of no stream, but copies them all from a stream that
was read. So a Matroska header is written here, in memory, and read back.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from sr_deploy.video.frame import VideoFormat
from sr_deploy.video.hdr import light_numbers, mastering_numbers

_CODEC_IDS = {
    "h264": b"V_MPEG4/ISO/AVC",
    "hevc": b"V_MPEGH/ISO/HEVC",
    "av1": b"V_AV1",
    "vp9": b"V_VP9",
    "prores": b"V_PRORES",
    "ffv1": b"V_FFV1",
}
# Left, center and top left, in the words of Matroska: across (1 is the left edge, 2 between), then down.
_SITING = {1: (1, 2), 2: (2, 2), 3: (1, 1), 4: (2, 1)}


@contextmanager
def stream_template(codec: str, extradata: bytes, encoded: VideoFormat) -> Iterator[VideoStream]:
    """A stream of the codec (FFmpeg's name, such as 'hevc') with all facts of `encoded` but its display matrix."""
    shape = (_number(0xB0, encoded.width), _number(0xBA, encoded.height), _number(0x9A, 2), *_shape(encoded))
    with _template(_CODEC_IDS[codec], extradata, _number(0x83, 1), _element(0xE0, *shape)) as container:
        yield container.streams.video[0]


@contextmanager
def sound_template(codec_id: bytes, extradata: bytes, rate: int, channels: int) -> Iterator[AudioStream]:
    """A stream of sound of a codec in the words of Matroska; rate: samples per second."""
    sound = _element(0xE1, _real(0xB5, rate), _number(0x9F, channels))
    with _template(codec_id, extradata, _number(0x83, 2), sound) as container:
        yield container.streams.audio[0]


def _template(codec_id: bytes, extradata: bytes, *facts: bytes) -> InputContainer:
    private = [_element(0x63A2, extradata)] if extradata else []
    entry = _element(0xAE, _number(0xD7, 1), _number(0x73C5, 1), _element(0x86, codec_id), *private, *facts)
    data = _element(0x1A45DFA3, _element(0x4282, b"matroska"), _number(0x4287, 4), _number(0x4285, 2))
    info, cluster = _element(0x1549A966, _number(0x2AD7B1, 1000000)), _element(0x1F43B675, _number(0xE7, 0))
    data += _element(0x18538067, info, _element(0x1654AE6B, entry), cluster)
    return av.open(io.BytesIO(data), "r", format="matroska", options={"probesize": "32", "analyzeduration": "0"})


def _shape(encoded: VideoFormat) -> Iterator[bytes]:
    if aspect := encoded.sample_aspect:
        shown = Fraction(encoded.width, encoded.height) * aspect
        yield _number(0x54B0, shown.numerator)
        yield _number(0x54BA, shown.denominator)
        yield _number(0x54B2, 3)
    yield _element(0x55B0, *_color(encoded))


def _color(encoded: VideoFormat) -> Iterator[bytes]:
    tags = encoded.tags
    yield _number(0x55B1, tags.matrix)
    yield _number(0x55B9, tags.range)
    yield _number(0x55BA, tags.transfer)
    yield _number(0x55BB, tags.primaries)
    if siting := _SITING.get(tags.chroma_location):
        yield _number(0x55B7, siting[0])
        yield _number(0x55B8, siting[1])
    if light := light_numbers(encoded.light):
        yield _number(0x55BC, light[0])
        yield _number(0x55BD, light[1])
    if mastering := mastering_numbers(encoded.mastering):
        low, high = mastering[8:]
        values = (*mastering[:8], high, low)
        yield _element(0x55D0, *(_real(0x55D1 + number, value) for number, value in enumerate(values)))


def _element(name: int, *content: bytes) -> bytes:
    """An EBML element; its size takes eight bytes."""
    body = b"".join(content)
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + (1 << 56 | len(body)).to_bytes(8, "big") + body


def _number(name: int, value: int) -> bytes:
    return _element(name, value.to_bytes(8, "big"))


def _real(name: int, value: Fraction | int) -> bytes:
    return _element(name, struct.pack(">d", float(value)))
