"""Sound of Windows' codecs, which Matroska holds as A_MS/ACM with the header of a WAV file.

ffmpeg copies it, but PyAV refuses to add it, for FFmpeg's own table of the container does not list it. So it is added as
TrueHD, whose packets and header are written as they are, and gets its right name when the file is complete.
"""

from __future__ import annotations

import struct
from pathlib import Path

from av.audio.codeccontext import AudioCodecContext
from av.container import OutputContainer
from av.stream import Stream

from sr_deploy.video.header import sound_template

_STAND_IN, _NAME = b"A_TRUEHD", b"A_MS/ACM"
_HEADER_WITHIN = 1 << 20


def wave_header(stream: Stream) -> bytes:
    """The WAVEFORMATEX of a stream of an AVI or ASF file, which both hold as it is; empty where there is none."""
    context = stream.codec_context
    if not isinstance(context, AudioCodecContext):
        return b""
    tag = context.codec_tag.encode("latin-1")[:2]
    with Path(stream.container.name.removeprefix("file:")).open("rb") as file:
        head = file.read(_HEADER_WITHIN)
    begin = head.find(tag + struct.pack("<HI", context.layout.nb_channels, context.sample_rate))
    if begin < 0:
        return b""
    extra = context.extradata or b""
    return head[begin : begin + 16] + struct.pack("<H", len(extra)) + extra


def add_acm(output: OutputContainer, stream: Stream) -> Stream:
    """A stream of the output for the packets of that one. Raises: ValueError when its header is not found."""
    header = wave_header(stream)
    if not header:
        raise ValueError("no header for Matroska is found")
    channels, rate = struct.unpack("<HI", header[2:8])
    with sound_template(_STAND_IN, header, rate, channels) as template:
        return output.add_stream_from_template(template, opaque=True)


def rename_acm(path: Path) -> None:
    """Give the streams of a complete file that `add_acm` made their name."""
    with path.open("r+b") as file:
        head = file.read(_HEADER_WITHIN)
        begin = head.find(_STAND_IN)
        while begin >= 0:
            file.seek(begin)
            file.write(_NAME)
            begin = head.find(_STAND_IN, begin + 1)
