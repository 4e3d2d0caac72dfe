"""Colors of frames, against the formulas of ITU-T H.273 written down once more, and against ffmpeg's command line."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.device.video_planes import PlaneFormat
from sr_deploy.device.ycbcr import Meaning
from sr_deploy.errors import VideoError
from sr_deploy.video.colors import codes_from_frame, frame_from_codes, frame_from_rgb, layout_of, meaning_of, rgb_from_frame
from sr_deploy.video.frame import ColorTags, VideoFormat
from sr_deploy.video.source import VideoSource
from tests.video import clips as reader
from tests.video.clips import Clips

WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
PATCH = 32
FORMATS = ["yuv420p", "yuv422p", "yuv444p", "nv12", "yuv420p10le", "yuv422p10le", "yuv420p12le", "yuv444p16le", "p010le"]


def chart() -> NDArray[np.float64]:
    """Patches of primary, gray and random colors, (H,W,3) in 0 to 1."""
    rng = np.random.default_rng(3)
    colors = rng.random((3, 6, 3))
    colors[0] = [[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5]]
    return colors.repeat(PATCH, 0).repeat(PATCH, 1)


def middles(array: NDArray[Any]) -> NDArray[Any]:
    return array[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]


def codes(rgb: NDArray[np.float64], matrix: int, full: bool, depth: int) -> NDArray[np.float64]:
    """Y, Cb, Cr of H.273, before rounding."""
    red, blue = WEIGHTS[matrix]
    luma = red * rgb[..., 0] + (1 - red - blue) * rgb[..., 1] + blue * rgb[..., 2]
    cb, cr = (rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)
    top, step = 2**depth - 1, 2 ** (depth - 8)
    if full:
        return np.stack([luma * top, cb * top + 128 * step, cr * top + 128 * step], -1).clip(0, top)
    return np.stack([(219 * luma + 16) * step, (224 * cb + 128) * step, (224 * cr + 128) * step], -1)


def form(pixel_format: str, tags: ColorTags, shape: tuple[int, ...]) -> VideoFormat:
    return VideoFormat(shape[1], shape[0], pixel_format, layout_of(pixel_format).depth, Fraction(1, 25), tags=tags)


def pixels_of(rgb: NDArray[np.float64], depth: int) -> NDArray[Any]:
    peak, dtype = (255, np.uint8) if depth == 8 else (65535, np.uint16)
    return np.round(rgb * peak).astype(dtype)


def plane(frame: av.VideoFrame, number: int) -> NDArray[Any]:
    shown = frame.planes[number]
    dtype = np.uint8 if "le" not in frame.format.name else np.dtype("<u2")
    rows = np.frombuffer(shown, dtype).reshape(shown.height, -1)  # type: ignore[call-overload]
    return np.asarray(rows[:, : shown.width])


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le", "yuv422p12le", "yuv444p16le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_codes_are_those_of_the_standard(matrix: int, full: bool, pixel_format: str) -> None:
    rgb = chart()
    target = form(pixel_format, ColorTags(matrix, 2 if full else 1), rgb.shape)
    frame = frame_from_rgb(pixels_of(rgb, target.depth), target)
    want = codes(pixels_of(rgb, target.depth) / (255 if target.depth == 8 else 65535), matrix, full, target.depth)
    for number in range(3):
        found = plane(frame, number)
        tall, wide = PATCH * found.shape[0] // rgb.shape[0], PATCH * found.shape[1] // rgb.shape[1]
        away = np.abs(found[tall // 2 :: tall, wide // 2 :: wide] - middles(want[..., number]))
        assert away.max() <= 0.75


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_there_and_back_is_within_two_codes(matrix: int, full: bool, pixel_format: str) -> None:
    rgb = chart()
    target = form(pixel_format, ColorTags(matrix, 2 if full else 1), rgb.shape)
    first = frame_from_rgb(pixels_of(rgb, target.depth), target)
    once = rgb_from_frame(first, target)
    larger = once.repeat(2, 0).repeat(2, 1)
    wide = target.scaled(larger.shape[1], larger.shape[0])
    again = rgb_from_frame(frame_from_rgb(larger, wide), wide)[::2, ::2]
    code = 1 if target.depth == 8 else 65535 / (2**target.depth - 1)
    assert np.abs(middles(once).astype(int) - middles(pixels_of(rgb, target.depth))).max() <= 2 * code + 1
    assert np.abs(middles(again).astype(int) - middles(once)).max() <= 2 * code


@pytest.mark.parametrize("pixel_format", ["rgb24", "bgra", "gbrp", "gbrp10le", "gbrp12le", "rgb48le"])
def test_rgb_stays_as_it_is(pixel_format: str) -> None:
    target = form(pixel_format, ColorTags(0, 2), chart().shape)
    pixels = pixels_of(chart(), target.depth)
    back = rgb_from_frame(frame_from_rgb(pixels, target), target)
    assert back.dtype == pixels.dtype
    assert np.abs(back.astype(int) - pixels).max() <= (0 if target.depth in (8, 16) else 65535 / (2**target.depth - 1) / 2 + 1)


@pytest.mark.parametrize("pixel_format", ["gray", "gray10le", "gray16le"])
@pytest.mark.parametrize("range_", [0, 1, 2])
def test_gray_is_gray(pixel_format: str, range_: int) -> None:
    target = form(pixel_format, ColorTags(range=range_), chart().shape)
    pixels = pixels_of(chart().mean(axis=2, keepdims=True).repeat(3, 2), target.depth)
    back = rgb_from_frame(frame_from_rgb(pixels, target), target)
    assert back.shape == pixels.shape and (back[..., :1] == back).all()
    code = 1 if target.depth == 8 else 65535 / (2**target.depth - 1)
    assert np.abs(back.astype(int) - pixels).max() <= code + 1


def test_a_palette_is_looked_up() -> None:
    frame = av.VideoFrame.from_ndarray(np.arange(256, dtype=np.uint8).reshape(16, 16), format="gray").reformat(format="rgb8")
    paletted = av.VideoFrame(16, 16, "pal8")
    indices = np.frombuffer(paletted.planes[0], np.uint8).reshape(16, -1)
    indices[:, :16] = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colors = np.random.default_rng(0).integers(0, 256, (256, 4), np.uint8)
    colors[:, 3] = 255
    np.frombuffer(paletted.planes[1], np.uint8)[:] = colors.ravel()
    found = rgb_from_frame(paletted, form("pal8", ColorTags(), (16, 16)))
    assert (found.reshape(-1, 3) == colors[:, 2::-1]).all()
    assert rgb_from_frame(frame, form("rgb8", ColorTags(), (16, 16))).shape == (16, 16, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (5, 7), (97, 63)])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le", "yuv422p", "yuv444p", "gray", "rgb24"])
def test_odd_sizes_keep_their_size(size: tuple[int, int], pixel_format: str) -> None:
    target = form(pixel_format, ColorTags(1, 1), size)
    pixels = np.full((*size, 3), 200 if target.depth == 8 else 200 * 257, np.uint8 if target.depth == 8 else np.uint16)
    frame = frame_from_rgb(pixels, target)
    assert (frame.height, frame.width, frame.format.name) == (*size, pixel_format)
    back = rgb_from_frame(frame, target)
    assert back.shape == pixels.shape and np.abs(back.astype(int) - pixels).max() <= (1 if target.depth == 8 else 65)


def test_tags_are_set_and_pixels_belong_to_the_caller() -> None:
    target = form("yuv420p10le", ColorTags(9, 1, 9, 16), chart().shape)
    frame = frame_from_rgb(pixels_of(chart(), 10), target)
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (9, 1, 9, 16)
    once = rgb_from_frame(frame, target)
    kept = once.copy()
    once[:] = 0
    assert np.array_equal(rgb_from_frame(frame, target), kept)


def test_depths_may_differ_between_pixels_and_frame() -> None:
    deep, shallow = form("yuv444p10le", ColorTags(1, 1), chart().shape), form("yuv444p", ColorTags(1, 1), chart().shape)
    from_bytes = rgb_from_frame(frame_from_rgb(pixels_of(chart(), 8), deep), deep)
    assert np.abs(from_bytes / 257 - pixels_of(chart(), 8)).max() <= 1
    from_words = rgb_from_frame(frame_from_rgb(pixels_of(chart(), 16), shallow), shallow)
    assert np.abs(from_words.astype(int) - pixels_of(chart(), 8)).max() <= 2


def test_what_untagged_codes_mean() -> None:
    assert meaning_of(ColorTags(), "yuv420p", 719).matrix == 6
    assert meaning_of(ColorTags(), "yuv420p", 720).matrix == 1
    assert not meaning_of(ColorTags(), "yuv420p", 720).full
    assert meaning_of(ColorTags(), "yuvj420p", 720).full
    assert meaning_of(ColorTags(range=1), "yuvj420p", 720).full
    assert meaning_of(ColorTags(), "gray", 720).full and not meaning_of(ColorTags(range=1), "gray", 720).full
    assert meaning_of(ColorTags(matrix=9, range=2), "yuv420p10le", 64) == meaning_of(ColorTags(9, 2), "yuv444p", 4000)


@pytest.mark.parametrize(
    ("location", "across", "down"),
    [(0, 0, -0.25), (1, 0, -0.25), (2, -0.25, -0.25), (3, 0, 0), (4, -0.25, 0), (5, 0, -0.5), (6, -0.25, -0.5)],
)
def test_chroma_is_read_from_where_it_lies(location: int, across: float, down: float) -> None:
    target = form("yuv420p10le", ColorTags(1, 2, chroma_location=location), (64, 64))
    frame = frame_from_rgb(np.full((64, 64, 3), 32768, np.uint16), target)
    ramp = 320 + 12 * np.arange(32)
    plane(frame, 1)[:] = ramp
    plane(frame, 2)[:] = ramp[:, None]
    found = codes(rgb_from_frame(frame, target) / 65535, 1, True, 10)[24:40, 24:40]
    where = np.arange(24, 40) / 2
    # A quarter of a sample is 3 codes.
    assert np.abs(found[..., 1] - 320 - 12 * (where + across)).max() < 1.5
    assert np.abs(found[..., 2] - 320 - 12 * (where[:, None] + down)).max() < 1.5


@pytest.mark.parametrize(
    ("name", "number"), [("left", 1), ("center", 0), ("topleft", 3), ("top", 4), ("bottomleft", 5), ("bottom", 6)]
)
def test_the_place_of_chroma_is_found_out(tmp_path: Path, name: str, number: int) -> None:
    path = tmp_path / "clip.mkv"
    reader.ffmpeg(*reader.pattern(count=2), *reader.X264, "-chroma_sample_location", name, path)
    assert reader.video_stream(path)["chroma_location"] == name
    with VideoSource(path) as source:
        assert source.format.tags.chroma_location == number


def test_strange_formats_are_refused() -> None:
    with pytest.raises(VideoError, match="xyz12le cannot be converted"):
        layout_of("xyz12le")


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize(
    ("pixel_format", "range_"), [("yuv444p", "tv"), ("yuv444p10le", "tv"), ("yuv444p", "pc"), ("yuv444p10le", "pc")]
)
def test_files_are_read_as_ffmpeg_reads_them(tmp_path: Path, matrix: str, pixel_format: str, range_: str) -> None:
    deep = pixel_format.endswith("le")
    pixels = pixels_of(chart(), 16 if deep else 8)
    height, width = pixels.shape[:2]
    path = tmp_path / "chart.mkv"
    name = {"bt709": "bt709", "smpte170m": "bt601", "bt2020nc": "bt2020"}[matrix]
    scale = f"scale=out_color_matrix={name}:out_range={range_}:flags=accurate_rnd+full_chroma_int,format={pixel_format}"
    reader.encode(
        path,
        pixels,
        (width, height),
        "rgb48le" if deep else "rgb24",
        *("-vf", scale, "-colorspace", matrix, "-color_range", range_),
    )
    with VideoSource(path) as source:
        found = next(source.frames()).pixels
    assert found.dtype == pixels.dtype
    # Its own conversions are off by two codes of 8 bits, and by 255 of 65535 at white.
    assert np.abs(found.astype(int) - pixels).max() <= (3 if not deep else 600)
    told = reader.decode(path, "rgb48le" if deep else "rgb24")[0].astype(int)
    assert np.abs(found.astype(int) - told).max() <= (3 if not deep else 600)


@pytest.mark.parametrize("name", ["bikes.mp4", "bbb_vp8_vorbis.webm", "derived_odd_319x239_vp9.webm", "h265_10bit.mp4"])
def test_published_files_look_as_ffmpeg_shows_them(shared: Path, name: str) -> None:
    path = shared / "videos" / name
    deep = "10bit" in name
    scale = "scale=in_color_matrix=bt601:in_range=tv:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
    data = reader.ffmpeg(
        "-i", path, "-frames:v", "3", "-vf", scale, "-f", "rawvideo", "-pix_fmt", "rgb48le" if deep else "rgb24", "-"
    )
    with VideoSource(path) as source:
        found = source.frames()
        shape = (3, source.format.height, source.format.width, 3)
        wanted = np.frombuffer(data, "<u2" if deep else np.uint8).reshape(shape).astype(int)
        for want in wanted:
            away = np.abs(next(found).pixels.astype(int) - want) / (257 if deep else 1)
            # Edges of chroma differ: the old libswscale of the command line places it elsewhere.
            assert away.mean() < 3 and np.median(away) <= 1


def test_full_range_files_look_as_ffmpeg_shows_them(clips: Clips) -> None:
    want = reader.decode(clips["full_range"], "rgb24", filters="scale=in_color_matrix=bt709:in_range=pc:flags=accurate_rnd")
    with VideoSource(clips["full_range"]) as source:
        for frame, told in zip(source.frames(), want, strict=True):
            assert np.median(np.abs(frame.pixels.astype(int) - told)) <= 1


@pytest.mark.parametrize(("pixel_format", "planar"), [("nv12", "yuv420p"), ("p010le", "yuv420p10le"), ("yuv444p", "yuv444p")])
def test_codes_of_a_frame_are_without_padding_and_as_kernels_lay_them_out(pixel_format: str, planar: str) -> None:
    height, width, depth = 18, 46, 10 if "10" in pixel_format else 8
    format = PlaneFormat((height, width), planar, Meaning(1, full=False))
    codes = np.random.default_rng(3).integers(0, 2**depth, format.count).astype(format.dtype)
    frame = frame_from_codes(codes, VideoFormat(width, height, planar, depth, Fraction(1, 25)))
    chroma = codes[height * width :].reshape(2, -1)
    paired = np.concatenate([codes[: height * width], chroma.T.ravel()])
    expected = codes if planar == pixel_format else paired << (6 if depth == 10 else 0)
    np.testing.assert_array_equal(codes_from_frame(frame.reformat(format=pixel_format)), expected)
