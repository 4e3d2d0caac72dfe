"""Raw video and image sequences, read back by ffmpeg's command line and by our reader of images."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy.errors import UsageError, VideoError
from sr_deploy.pictures.image import read_image
from sr_deploy.video.colors import frame_from_rgb
from sr_deploy.video.frame import ColorTags, Frame
from sr_deploy.video.y4m import ImageSequence, Y4MWriter
from tests.video import clips
from tests.video.writing import picture, video_format


@pytest.mark.parametrize(
    ("pixel_format", "depth", "size"),
    [
        ("yuv420p", 8, (64, 48)),
        ("yuv420p", 8, (65, 49)),
        ("yuv422p", 8, (64, 48)),
        ("yuv444p", 8, (1, 1)),
        ("yuv420p10le", 10, (66, 50)),
        ("yuv444p12le", 12, (33, 17)),
        ("gray", 8, (31, 7)),
    ],
)
def test_ffmpeg_reads_the_same_samples(tmp_path: Path, pixel_format: str, depth: int, size: tuple[int, int]) -> None:
    out = video_format(width=size[0], height=size[1], pixel_format=pixel_format, depth=depth, rate=Fraction(30000, 1001))
    pixels = [picture(number, *size, np.uint16 if depth > 8 else np.uint8) for number in range(3)]
    path = tmp_path / "out.y4m"
    with path.open("wb") as file:
        writer = Y4MWriter(file, out)
        for number, one in enumerate(pixels):
            writer.write(Frame(one, number))
        writer.close()
    stream = clips.video_stream(path)
    assert (stream["width"], stream["height"], stream["pix_fmt"]) == (*size, pixel_format)
    assert stream["r_frame_rate"] == "30000/1001"
    shape = (3, -1)
    expected = [np.concatenate([plane.ravel() for plane in planes(one, out)]) for one in pixels]
    assert np.array_equal(clips.decode(path, pixel_format).reshape(shape), expected)


def planes(pixels: Any, out: Any) -> list[Any]:
    """The planes of the converted frame, row by row."""
    dtype = np.dtype("<u2") if out.depth > 8 else np.dtype(np.uint8)
    frame = frame_from_rgb(pixels, out)
    return [np.frombuffer(bytes(plane), dtype).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]


def test_tags_that_y4m_knows_are_written() -> None:
    file = io.BytesIO()
    Y4MWriter(file, video_format(sample_aspect=Fraction(32, 27), tags=ColorTags(range=2, chroma_location=1))).close()
    assert file.getvalue() == b"YUV4MPEG2 W64 H48 F25:1 Ip A32:27 C420mpeg2 XCOLORRANGE=FULL\n"


@pytest.mark.parametrize(
    ("pixel_format", "name"), [("gbrp", b"C444"), ("pal8", b"C444"), ("nv12", b"C420"), ("yuv410p", b"C420")]
)
def test_formats_without_a_name_become_the_nearest(pixel_format: str, name: bytes) -> None:
    file = io.BytesIO()
    Y4MWriter(file, video_format(pixel_format=pixel_format)).close()
    assert name in file.getvalue()


def test_a_pipe_that_nobody_reads_and_a_full_disk() -> None:
    class Broken(io.BytesIO):
        def __init__(self, error: OSError) -> None:
            super().__init__()
            self.error = error

        def write(self, _: Any) -> int:
            raise self.error

    for error, kind in ((BrokenPipeError(), BrokenPipeError), (OSError(28, "No space left on device"), VideoError)):
        with pytest.raises(kind):
            Y4MWriter(Broken(error), video_format()).write(Frame(picture(0), 0))


@pytest.mark.parametrize(("suffix", "dtype"), [(".png", np.uint8), (".png", np.uint16), (".tiff", np.uint16)])
def test_image_sequences_hold_the_pixels(tmp_path: Path, suffix: str, dtype: type) -> None:
    sequence = ImageSequence(tmp_path / "é 漢字" / f"frame_%06d{suffix}", first=7)
    for number in range(3):
        sequence.write(Frame(picture(number, dtype=dtype), number))
    assert sequence.close() == 10
    files = sorted((tmp_path / "é 漢字").iterdir())
    assert [path.name for path in files] == [f"frame_00000{number}{suffix}" for number in (7, 8, 9)]
    for number, path in enumerate(files):
        assert np.array_equal(read_image(path).pixels, picture(number, dtype=dtype))


@pytest.mark.parametrize("name", ["frame.png", "%d_%d.png", "frame_%s.png", "%03d.xyz"])
def test_names_that_are_no_sequence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        ImageSequence(tmp_path / name)


def test_numbers_as_printf_writes_them(tmp_path: Path) -> None:
    assert ImageSequence(tmp_path / "a%d.png").path(12).name == "a12.png"
    assert ImageSequence(tmp_path / "a%03d.png").path(12).name == "a012.png"
    assert ImageSequence(tmp_path / "a%03d.png").path(12345).name == "a12345.png"
