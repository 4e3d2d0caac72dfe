"""Fragments and tables of an MP4 that claim more than the file has, or less than it holds."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from sr_deploy.errors import VideoError
from sr_deploy.video.fragments import most_samples
from sr_deploy.video.input import input_of
from sr_deploy.video.sample_tables import sample_tables
from sr_deploy.video.source import VideoSource
from tests.video import clips as reader


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Raw pictures of one size: a run says how many there are, and nothing of each."""
    path = tmp_path / "film.mp4"
    options = {"movflags": "empty_moov+frag_keyframe+default_base_moof"}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mjpeg", 25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"  # type: ignore[attr-defined]
        for _ in range(9):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))  # type: ignore[attr-defined]
        container.mux(stream.encode(None))  # type: ignore[attr-defined]
    return path


def frames(path: Path) -> int:
    with input_of(path).open() as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_run_of_alike_samples_is_counted(film: Path) -> None:
    assert frames(film) == 9
    assert 0 <= most_samples(film) <= 9


@pytest.mark.parametrize("wide", [False, True])
def test_a_claim_is_refused_before_it_takes_memory(film: Path, wide: bool) -> None:
    data = bytearray(film.read_bytes())
    place = data.index(b"trun")
    (size,) = struct.unpack_from(">I", data, place - 4)
    data[place + 4 : place + 12] = struct.pack(">II", 0, 1 << 25)
    if wide:  # as FFmpeg reads it: a size of 64 bits behind the kind, beyond the box around it
        data[place - 4 : place + 4 + 8 + 8] = struct.pack(">I4sQII", 1, b"trun", size << 40, 0, 1 << 25)
    film.write_bytes(data)
    with pytest.raises(VideoError, match=r"one of its fragments claims 33554432 samples; it is damaged"), input_of(film).open():
        pass


@pytest.mark.parametrize(
    "data", [b"", b"ftyp", b"\0\0\0\0moof", b"\0\0\0\1moof\0", b"\0\0\0\x10moof\0\0\0\x08traf", b"RIFF" * 9]
)
def test_what_is_cut_off_or_no_mp4_claims_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    assert most_samples(path) == 0


@pytest.mark.parametrize("kind", [b"moof", b"mdat", b"moov"])
@pytest.mark.parametrize("size", [0, 15, 1 << 40, 1 << 62, (1 << 64) - 1])
def test_a_box_that_claims_to_be_huge_is_read_as_far_as_it_is_there(tmp_path: Path, kind: bytes, size: int) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(struct.pack(">I4s", 8, b"ftyp") + struct.pack(">I4sQ", 1, kind, size) + bytes(100))
    assert most_samples(path) == 0
    with path.open("rb") as file:
        assert sample_tables(file) == {}


def _fragmented(path: Path, *flags: str) -> bytes:
    reader.ffmpeg(*reader.pattern(count=12), "-c:v", "libx264", "-preset", "ultrafast", "-g", "4", "-movflags", *flags, path)
    return path.read_bytes()


@pytest.mark.parametrize("flags", ["+frag_keyframe+empty_moov", "+frag_keyframe"])
def test_pictures_that_no_fragment_claims_are_missing(tmp_path: Path, flags: str) -> None:
    path = tmp_path / "film.mp4"
    whole = _fragmented(path, flags)
    with VideoSource(path) as source:
        assert len(list(source.frames())) == 12
    place = whole.index(b"trun") + 8
    assert whole[place : place + 4] == struct.pack(">I", 4)
    path.write_bytes(whole[:place] + struct.pack(">I", 3) + whole[place + 4 :])
    assert len(reader.frames(path)) == 11
    with VideoSource(path) as source, pytest.raises(VideoError, match="bytes of its fragments belong to no picture"):
        list(source.frames())


@pytest.mark.parametrize(("box", "offset", "value"), [(b"stsz", 12 + 4 * 11, 0), (b"stsc", 12, 11)])
def test_pictures_that_the_index_counts_and_does_not_place_are_missing(
    tmp_path: Path, box: bytes, offset: int, value: int
) -> None:
    path = tmp_path / "film.mp4"
    reader.ffmpeg(*reader.pattern(count=12), "-c:v", "libx264", "-preset", "ultrafast", path)
    whole = path.read_bytes()
    place = whole.index(box) + 4 + offset
    path.write_bytes(whole[:place] + struct.pack(">I", value) + whole[place + 4 :])
    assert len(reader.frames(path)) == 11
    with VideoSource(path) as source, pytest.raises(VideoError, match="1 of the pictures that its index counts are not there"):
        list(source.frames())
