"""The check passes what is right, and names what is missing or wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.errors import VideoError
from sr_deploy.video.check import Expected, check_result
from sr_deploy.video.frame import ColorTags
from tests.video import clips as made
from tests.video.clips import Clips
from tests.video.test_join import HDR, QUARTER_TURN
from tests.video.writing import Run, written


@pytest.fixture(scope="module")
def rich(clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A file with every sort of stream."""
    return written(tmp_path_factory.mktemp("rich"), clips["rich"])


@pytest.mark.parametrize(
    ("name", "container"),
    [
        ("cfr_sound", ".mp4"),
        ("vfr", ".mkv"),
        ("cover", ".mkv"),
        ("cover", ".mp4"),
        ("offset_ts", ".mkv"),
        ("edit_list", ".mkv"),
    ],
)
def test_what_was_written_right_passes(clips: Clips, tmp_path: Path, name: str, container: str) -> None:
    run = written(tmp_path, clips[name], container)
    check_result(run.target, run.expected)


@pytest.mark.parametrize(
    ("container", "codec"), [(".mkv", "libx265"), (".mp4", "libsvtav1"), (".mov", "prores_ks"), (".webm", "libvpx-vp9")]
)
def test_hdr_and_rotation_pass_in_every_codec(tmp_path: Path, container: str, codec: str) -> None:
    out = dataclasses.replace(HDR, display_matrix=QUARTER_TURN)
    run = written(tmp_path, None, container, codec, out=out)
    check_result(run.target, run.expected)


def remuxed(run: Run, tmp_path: Path, *options: object) -> Path:
    """The file as ffmpeg's command line changes it."""
    changed = tmp_path / "changed.mkv"
    made.ffmpeg("-i", run.target, "-map", "0", "-c", "copy", "-copyts", *options, changed)
    return changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-bsf:v", "noise=drop='eq(n,30)'"), "the number of frames is 49, expected 50"),
        (("-map", "-0:a:1"), "the number of copied streams is 4, expected 5"),
        (("-map", "-0:t"), "the number of copied streams is 4, expected 5"),
        (("-metadata:s:a:0", "language=swe"), "audio 1.*the language is swe, expected jpn"),
        (("-disposition:a:1", "0"), "audio 2.*the disposition"),
        (("-map_chapters", "-1"), "the number of chapters is 0, expected 2"),
        (("-bsf:v", "setts=pts=PTS+eq(N\\,20)*5"), "the time of frame 20 is"),
        (("-bsf:v", "h264_metadata=colour_primaries=9"), "the color tag 'primaries' is 9, expected 2"),
    ],
)
def test_ffmpeg_changes_one_thing_and_it_is_named(rich: Run, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(VideoError, match=message):
        check_result(remuxed(rich, tmp_path, *options), rich.expected)


def lost_last(expected: Expected) -> Expected:
    return dataclasses.replace(expected, pts=[*expected.pts, expected.pts[-1] + 40])


def moved(expected: Expected) -> Expected:
    return dataclasses.replace(expected, pts=[*expected.pts[:7], expected.pts[7] + 1, *expected.pts[8:]])


def longer(expected: Expected) -> Expected:
    return dataclasses.replace(expected, last_duration=expected.last_duration * 40)


def other(**facts: Any) -> Callable[[Expected], Expected]:
    return lambda expected: dataclasses.replace(expected, encoded=dataclasses.replace(expected.encoded, **facts))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lost_last, "the number of frames is 50, expected 51"),
        (moved, "the time of frame 7 is"),
        (longer, "the duration is"),
        (other(tags=ColorTags(matrix=9)), "the color tag 'matrix' is 2, expected 9"),
        (other(tags=ColorTags(range=2)), "the color tag 'range'"),
        (other(depth=10), "the depth is 8, expected 10"),
        (other(pixel_format="yuv422p"), "the pixel format is yuv420p, expected yuv422p"),
        (other(pixel_format="p010le"), "the pixel format is yuv420p, expected yuv420p10le"),
        (other(width=128), "the size is 64x48, expected 128x48"),
        (other(display_matrix=QUARTER_TURN), "the display matrix is None"),
        (other(mastering=HDR.mastering), "the mastering display is None"),
        (other(light=HDR.light), "the content light level is None"),
        (other(sample_aspect=Fraction(4, 3)), "the pixel aspect is 1, expected 4/3"),
    ],
)
def test_what_is_expected_and_missing_is_named(rich: Run, change: Callable[[Expected], Expected], message: str) -> None:
    with pytest.raises(VideoError, match=message):
        check_result(rich.target, change(rich.expected))


def test_formats_that_encoders_take_in_another_order_are_those_of_decoders(rich: Run, tmp_path: Path) -> None:
    check_result(rich.target, other(pixel_format="nv12")(rich.expected))
    deep = written(tmp_path, None, ".mkv", "libx265", out=HDR)
    check_result(deep.target, other(pixel_format="p010le")(deep.expected))


def test_a_file_that_ends_early(rich: Run, tmp_path: Path) -> None:
    short = tmp_path / "short.mkv"
    short.write_bytes(rich.target.read_bytes()[: rich.target.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"short\.mkv"):
        check_result(short, rich.expected)
    with pytest.raises(VideoError, match="cannot be read back"):
        check_result(tmp_path / "absent.mkv", rich.expected)
