"""How much of a file its own index promises, and whether that much is there."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import BinaryIO

import av
from av.stream import Stream
from av.video.stream import VideoStream

from sr_deploy.video.matroska import segment_end
from sr_deploy.video.sample_tables import SampleTable

LONGEST_START = 4096


def missing_bytes(file: BinaryIO, stream: VideoStream, tables: Mapping[int, SampleTable]) -> int:
    """How many bytes of an MP4, MOV, Matroska, AVI or y4m file are cut off at its end; 0 when whole or where nothing tells.

    tables: of all tracks of an MP4, where they can be read.
    """
    file.seek(0)
    start = file.read(LONGEST_START)
    promised = segment_end(file)
    size = file.seek(0, io.SEEK_END)
    pixel = stream.codec_context.format
    if start.startswith(b"YUV4MPEG2") and pixel is not None:
        cut = y4m_rest(start, size, pixel)
        return y4m_frame(start, pixel) - cut if cut else 0
    if start[:4] == b"RIFF" and start[8:11] == b"AVI":
        promised = int.from_bytes(start[4:8], "little") + 8
    if promised is None:
        promised = max((_end_of(one, tables.get(one.id)) for one in stream.container.streams), default=0)
    return max(0, promised - size)


def _end_of(stream: Stream, table: SampleTable | None) -> int:
    """Where the last byte of a stream ends, by its index."""
    if table is not None and table.count == len(stream.index_entries):
        return table.end
    return max((entry.pos + entry.size for entry in stream.index_entries), default=0)


def y4m_frame(start: bytes, pixel: av.VideoFormat) -> int:
    """How many bytes a frame of a y4m stream takes with its own marker; start: of the stream; pixel: its format and size."""
    marker = [*start.split(b"\n", 2), b"", b""][1]
    deep = 2 if max(component.bits for component in pixel.components) > 8 else 1
    luma, chroma = pixel.width * pixel.height, pixel.chroma_width() * pixel.chroma_height()
    return len(marker) + 1 + deep * sum(chroma if plane in (1, 2) else luma for plane in range(len(pixel.components)))


def y4m_rest(start: bytes, size: int, pixel: av.VideoFormat) -> int:
    """How many of the bytes of a y4m stream come after its whole frames: FFmpeg leaves out a last one that is cut, silently."""
    return max(0, size - len(start.split(b"\n", 1)[0]) - 1) % y4m_frame(start, pixel)
