"""Pictures as videos, against ffprobe, ffmpeg's command line and Pillow."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sr_deploy.errors import SrDeployError, VideoError
from sr_deploy.video.images import open_source
from tests.video import clips as reader
from tests.video.clips import Clips

NTSC = Fraction(30000, 1001)


def numbered(folder: Path, numbers: list[int], size: tuple[int, int] = (8, 6), mode: str = "RGB") -> Path:
    for number in numbers:
        Image.new(mode, size, number * 9 if mode == "L" else (number * 9,) * len(mode)).save(folder / f"frame_{number:06}.png")
    return folder / "frame_%06d.png"


def test_numbered_pictures_are_frames(clips: Clips) -> None:
    pattern = clips["pictures"] / "frame_%06d.png"
    with open_source(pattern, rate=NTSC) as source:
        frames = list(source.frames())
        assert (source.format.rate, source.format.time_base, source.frame_count) == (NTSC, 1 / NTSC, 6)
        assert source.duration == 6 / NTSC
        assert [frame.pts for frame in source.frames(after=3)] == [4, 5]
    assert [(frame.pts, frame.duration) for frame in frames] == [(number, 1) for number in range(6)]
    for number, frame in enumerate(frames):
        path = clips["pictures"] / f"frame_{number + 7:06}.png"
        assert np.array_equal(frame.pixels, np.asarray(Image.open(path).convert("RGB")))


def test_missing_numbers_are_told(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"these numbers are missing: 2, 3, 5\."):
        open_source(numbered(tmp_path, [0, 1, 4, 6]))
    with pytest.raises(VideoError, match="no picture fits"):
        open_source(tmp_path / "image_%d.png")
    with pytest.raises(VideoError, match="no picture fits"):
        open_source(tmp_path / "none" / "frame_%06d.png")


def test_a_window_of_pictures(tmp_path: Path) -> None:
    with open_source(
        numbered(tmp_path, list(range(10))), rate=Fraction(10), begin=Fraction(3, 10), until=Fraction(7, 10)
    ) as source:
        assert [frame.pts for frame in source.frames()] == [3, 4, 5, 6]


def test_numbers_with_few_digits_and_names_with_brackets(tmp_path: Path) -> None:
    folder = tmp_path / "é [x] 'q'"
    folder.mkdir()
    for number in (9, 10, 11):
        Image.new("L", (4, 3), number).save(folder / f"a[{number}](1).png")
    with open_source(folder / "a[%d](1).png") as source:
        assert [int(frame.pixels[0, 0, 2]) for frame in source.frames()] == [9, 10, 11]


def test_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    pattern = numbered(tmp_path, [0, 1])
    numbered(tmp_path, [2], (4, 6))
    with open_source(pattern) as source, pytest.raises(VideoError, match="Picture 3 is 4x6 of 8 bits, the first is 8x6 of 8"):
        list(source.frames())


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    pattern = numbered(tmp_path, [0, 1])
    (tmp_path / "frame_000001.png").write_bytes(b"text")
    with open_source(pattern) as source, pytest.raises(SrDeployError, match="frame_000001"):
        list(source.frames())


def test_deep_and_transparent_pictures(tmp_path: Path) -> None:
    deep = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    Image.fromarray(deep).save(tmp_path / "deep1.png")
    with open_source(tmp_path / "deep%d.png") as source:
        assert (source.format.depth, source.format.pixel_format) == (16, "rgb48le")
        assert np.array_equal(next(source.frames()).pixels, deep[..., None].repeat(3, 2))
    with open_source(numbered(tmp_path, [1], mode="RGBA")) as source:
        assert source.notes == ("Its transparency is left out.",)
        assert next(source.frames()).pixels.shape == (6, 8, 3)


@pytest.mark.parametrize("name", ["gif", "apng"])
def test_animations_keep_their_times(clips: Clips, name: str) -> None:
    with open_source(clips[name]) as source:
        frames = list(source.frames())
        base = source.format.time_base
    assert [frame.pts * base for frame in frames] == reader.times_of(clips[name])
    assert [frame.pts * base for frame in frames][:4] == [0, Fraction(9, 100), Fraction(22, 100), Fraction(31, 100)]
    with Image.open(clips[name]) as image:
        for number, frame in enumerate(frames):
            image.seek(number)
            assert np.array_equal(frame.pixels, np.asarray(image.convert("RGB")))


def test_a_published_animation(shared: Path) -> None:
    path = shared / "images" / "odd" / "newtonscradle.gif"
    with open_source(path) as source, Image.open(path) as image:
        frames = list(source.frames())
        assert len(frames) == image.n_frames == 36
        for number, frame in enumerate(frames):
            image.seek(number)
            assert np.array_equal(frame.pixels, np.asarray(image.convert("RGB")))
            assert frame.duration * source.format.time_base == Fraction(image.info["duration"], 1000)


def test_an_animated_webp(tmp_path: Path) -> None:
    pictures = [Image.effect_noise((20, 12), 90 + number).convert("RGB") for number in range(4)]
    path = tmp_path / "é 漢字.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[40, 70, 0, 90], lossless=True)
    with open_source(path) as source:
        frames = list(source.frames())
        assert source.frame_count == 4 and source.duration == Fraction(300, 1000)
        assert [frame.pts for frame in source.frames(after=40)] == [110, 210]
    assert [(frame.pts, frame.duration) for frame in frames] == [(0, 40), (40, 70), (110, 100), (210, 90)]
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.array_equal(frame.pixels, np.asarray(picture))


def test_a_cut_webp_is_an_error(clips: Clips, tmp_path: Path) -> None:
    path = tmp_path / "cut.webp"
    path.write_bytes(clips["webp"].read_bytes()[:600])
    with pytest.raises(VideoError, match="cannot be read as an animation"):
        open_source(path)


class Unseekable(io.RawIOBase):
    """Standard input: it gives what it has, and never all that is asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 777))


def test_raw_frames_on_a_pipe(clips: Clips) -> None:
    with open_source(Unseekable(clips["y4m"].read_bytes())) as source:  # type: ignore[arg-type]
        assert not source.repeatable
        assert source.format.rate == NTSC
        frames = list(source.frames())
    with open_source(clips["y4m"]) as whole:
        wanted = list(whole.frames())
    assert [frame.pts for frame in frames] == reader.pts_of(clips["y4m"]) == [frame.pts for frame in wanted]
    assert all(np.array_equal(frame.pixels, want.pixels) for frame, want in zip(frames, wanted, strict=True))


def test_reading_goes_on_on_a_pipe(clips: Clips) -> None:
    with open_source(Unseekable(clips["y4m"].read_bytes())) as source:  # type: ignore[arg-type]
        assert [frame.pts for frame in source.frames(after=6)] == [7, 8, 9]


def test_a_pipe_that_ends_within_a_frame_is_damaged(clips: Clips) -> None:
    with open_source(Unseekable(clips["y4m"].read_bytes()[:-500])) as source:  # type: ignore[arg-type]
        frames = []
        with pytest.raises(VideoError, match="standard input is damaged"):
            for frame in source.frames():
                frames.append(frame)  # noqa: PERF402 - what came before the error counts
    assert len(frames) == 9


@pytest.mark.parametrize("data", [b"", b"not y4m at all\n", b"YUV4MPEG2 W8 H8\n"])
def test_other_data_on_a_pipe_is_refused(data: bytes) -> None:
    with pytest.raises(VideoError, match="standard input"):
        open_source(Unseekable(data))  # type: ignore[arg-type]
