"""Which packets of MPEG-4 show a picture, against FFmpeg's decoder."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from sr_deploy.video.mpeg4 import Coded
from tests.video import clips as reader

START = b"\0\0\1\xb6"


@pytest.mark.parametrize(("rate", "flags"), [("12", "-"), ("30000/1001", "+global_header"), ("1", "-")])
def test_a_picture_that_is_not_coded_gives_no_frame(tmp_path: Path, rate: str, flags: str) -> None:
    path = tmp_path / "film.mp4"
    options = ("-c:v", "mpeg4", *(("-flags", flags) if flags != "-" else ()))
    reader.ffmpeg(*reader.pattern("48x32", 3, rate), *options, path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        extra = stream.codec_context.extradata
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
    coded = Coded(extra)
    coded.meet(packets[0])
    seen = set()
    for bit in range(24):
        changed = bytearray(packets[1])
        changed[packets[1].index(START) + 4 + bit // 8] ^= 128 >> bit % 8
        frames = decoded(extra, packets[0], bytes(changed), packets[0])
        shows = coded.shows(bytes(changed))
        assert shows or frames in (None, 2)
        seen.add(shows)
    assert seen == {True, False}


def decoded(extra: bytes | None, *packets: bytes) -> int | None:
    """How many frames come; None where FFmpeg refuses a packet, which is no silent loss."""
    decoder = av.CodecContext.create("mpeg4", "r")
    if extra:
        decoder.extradata = extra
    try:
        return sum(len(decoder.decode(av.Packet(data) if data else None)) for data in (*packets, None))
    except av.FFmpegError:
        return None


def test_what_is_no_picture_must_show_one() -> None:
    coded = Coded(None)
    assert coded.shows(START + b"\x51\xe0\x47\xf7")
    coded.meet(b"\0\0\1\x20\0")
    assert coded.shows(START) and coded.shows(b"\0\7\0\0\0\xe0")
