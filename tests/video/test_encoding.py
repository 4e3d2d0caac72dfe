"""Encodings are chosen so that nothing of the source is lost, and wrong settings are refused before anything is computed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from sr_deploy.errors import UsageError
from sr_deploy.video.encoding import CODECS, choose_encoding, container_format, encoded_format
from sr_deploy.video.frame import ColorTags
from tests.video import clips
from tests.video.test_join import HDR
from tests.video.writing import fast_encoding, video_format, write_segments


@pytest.mark.parametrize(
    ("pixel_format", "depth", "container", "codec", "written"),
    [
        ("yuv420p", 8, ".mkv", "libx264", "yuv420p"),
        ("yuvj420p", 8, ".mp4", "libx264", "yuv420p"),
        ("yuv422p", 8, ".mkv", "libx264", "yuv422p"),
        ("yuv444p", 8, ".mkv", "libx264", "yuv444p"),
        ("gray", 8, ".mkv", "libx264", "yuv420p"),
        ("pal8", 8, ".mkv", "libx264", "yuv444p"),
        ("gbrp", 8, ".mkv", "libx264", "yuv444p"),
        ("yuv420p10le", 10, ".mkv", "libx265", "yuv420p10le"),
        ("yuv422p12le", 12, ".mp4", "libx265", "yuv422p12le"),
        ("yuv420p16le", 16, ".mkv", "ffv1", "yuv420p16le"),
        ("yuv420p", 8, ".webm", "libvpx-vp9", "yuv420p"),
        ("yuv420p10le", 10, ".webm", "libsvtav1", "yuv420p10le"),
    ],
)
def test_depth_and_chroma_of_the_source_are_kept(
    pixel_format: str, depth: int, container: str, codec: str, written: str
) -> None:
    source = video_format(pixel_format=pixel_format, depth=depth)
    encoding = choose_encoding(source, source.scaled(128, 96), container)
    assert (encoding.codec, encoding.pixel_format, encoding.notes) == (codec, written, ())


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_odd_sizes_are_written_with_full_chroma_and_said(codec: str) -> None:
    encoding = fast_encoding(video_format(width=65, height=49), codec=codec)
    assert encoding.pixel_format == "yuv444p"
    assert "65x49" in encoding.notes[0]


@pytest.mark.parametrize(("container", "codec"), [(".webm", "libvpx-vp9"), (".mkv", "libsvtav1"), (".mkv", "ffv1")])
def test_codecs_that_take_odd_sizes_keep_the_chroma(container: str, codec: str) -> None:
    encoding = fast_encoding(video_format(width=65, height=49), container, codec)
    assert (encoding.pixel_format, encoding.notes) == ("yuv420p", ())


def test_what_a_codec_cannot_keep_is_said() -> None:
    assert (
        "10 bits become 8" in fast_encoding(video_format(pixel_format="yuv420p10le", depth=10), ".webm", "libvpx-vp9").notes[0]
    )
    assert "fewer samples" in fast_encoding(video_format(pixel_format="yuv444p"), ".mkv", "libsvtav1").notes[0]


def test_lost_transparency_is_left_to_the_notes_of_the_source() -> None:
    assert fast_encoding(video_format(pixel_format="yuva420p")).notes == ()


def test_full_range_formats_and_rgb_get_true_tags() -> None:
    full = video_format(pixel_format="yuvj420p")
    assert encoded_format(full, fast_encoding(full)).tags == ColorTags(range=2)
    rgb = video_format(pixel_format="gbrp", tags=ColorTags(matrix=0, range=2, primaries=1))
    assert encoded_format(rgb, fast_encoding(rgb)).tags == ColorTags(matrix=1, range=1, primaries=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codec": "h266"}, "no codec 'h266'.*libx264"),
        ({"codec": "prores_ks", "container": ".mp4"}, "'.mp4' cannot hold prores_ks.*mkv"),
        ({"codec": "libx264", "container": ".webm"}, "'.webm' cannot hold libx264"),
        ({"container": ".wmv"}, "'.wmv'; expected one of .mkv"),
        ({"preset": "quick"}, "no preset 'quick'.*ultrafast"),
        ({"codec": "libsvtav1", "preset": "99"}, "preset"),
        ({"codec": "ffv1", "crf": 20}, "ffv1 has no crf"),
        ({"codec": "ffv1", "preset": "fast"}, "ffv1 has no presets"),
        ({"crf": 52}, "crf 52 is out of the range"),
        ({"pixel_format": "rgb24"}, "no pixel format 'rgb24'.*yuv420p"),
        ({"options": (("nonsense", "1"),)}, "no option nonsense=1"),
        ({"options": (("g", "many"),)}, "g"),
        ({"options": (("x264-params", "nonsense=1"),)}, "nonsense"),
        ({"codec": "libx265", "options": (("x265-params", "nonsense=1"),)}, "nonsense"),
        ({"codec": "libsvtav1", "options": (("svtav1-params", "nonsense=1"),)}, "nonsense"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    container = settings.pop("container", ".mkv")
    with pytest.raises(UsageError, match=message):
        choose_encoding(video_format(), video_format(), container, **settings)


def test_nvenc_is_refused_where_it_does_not_open() -> None:
    try:
        context = av.CodecContext.create("h264_nvenc", "w")
        context.width, context.height, context.pix_fmt, context.time_base = 256, 256, "yuv420p", Fraction(1, 25)  # type: ignore[attr-defined]
        context.open()
    except av.FFmpegError:
        with pytest.raises(UsageError, match="h264_nvenc"):
            fast_encoding(video_format(width=256, height=256), codec="h264_nvenc")
    else:
        assert fast_encoding(video_format(width=256, height=256), codec="h264_nvenc").codec == "h264_nvenc"


def test_a_pass_through_option_reaches_the_encoder(tmp_path: Path) -> None:
    out = video_format()
    pts = [number * 3600 for number in range(12)]
    plain = fast_encoding(out, codec="libx264")
    tight = fast_encoding(out, codec="libx264", options=(("g", "4"), ("x264-params", "scenecut=0")))
    keys = [
        sum(frame.key for frame in clips.frames(write_segments(tmp_path / name, out, encoding, pts, 12)[0].path))
        for name, encoding in (("plain", plain), ("tight", tight))
    ]
    assert keys == [1, 3]


def test_options_of_the_user_come_after_ours_and_keep_hdr(tmp_path: Path) -> None:
    encoding = fast_encoding(HDR, codec="libx265", options=(("x265-params", "bframes=0"),))
    segment = write_segments(tmp_path, HDR, encoding, [0, 3600], 2)[0]
    sides = {side["side_data_type"] for side in clips.frames(segment.path)[0].side_data}
    assert {"Mastering display metadata", "Content light level metadata"} <= sides


def test_containers_and_codecs_are_named() -> None:
    assert container_format("MKV") == container_format(".mkv") == "matroska"
    assert set(CODECS) >= {"libx264", "libx265", "libsvtav1", "libvpx-vp9", "prores_ks", "ffv1", "hevc_nvenc"}
