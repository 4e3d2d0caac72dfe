from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from sr_deploy import UsageError, VideoError, VideoOptions
from sr_deploy.export.probes import probe_picture
from sr_deploy.film.preview import parts_of, upright
from sr_deploy.video.images import open_source
from tests import short_and_long
from tests.video.clips import Clips, ffmpeg, times_of, video_stream

ALL = VideoOptions()
LAID_OUT = ["offset_ts", "gif", "cfr", "cfr_mkv", "vfr", "y4m", "offset", "edit_list", "interlaced"]


def frames_in(clip: Path, part: tuple[Fraction, Fraction]) -> list[Fraction]:
    """Times of the frames of a part, in seconds from the start of the file, as ffprobe tells them."""
    zero = Fraction(video_stream(clip).get("start_time", 0))
    return [shown for shown in times_of(clip) if part[0] <= shown - zero < part[1]]


@pytest.mark.parametrize("name", short_and_long(LAID_OUT, LAID_OUT[:2]))
def test_three_parts_lie_all_over_a_video(clips: Clips, name: str) -> None:
    clip = clips[name]
    shown = times_of(clip)
    length = (shown[-1] - shown[0]) * Fraction(1, 8)
    parts = parts_of(clip, length, ALL)
    assert len(parts) == 3 and all(0 < until - start <= length for start, until in parts)
    assert all(one[1] <= other[0] for one, other in pairwise(parts))
    for place, part in zip((1, 3, 5), parts, strict=True):
        middle = shown[0] + (shown[-1] - shown[0]) * place / 6 - Fraction(video_stream(clip).get("start_time", 0))
        assert abs(sum(part, Fraction(0)) / 2 - middle) < length + max(later - one for one, later in pairwise(shown))
        assert frames_in(clip, part)


def test_a_short_video_is_shown_whole_in_thirds(clips: Clips) -> None:
    clip = clips["cfr"]
    parts = parts_of(clip, Fraction(5), ALL)
    assert [one[1] for one in parts[:-1]] == [one[0] for one in parts[1:]]
    assert sum(len(frames_in(clip, part)) for part in parts) == len(times_of(clip))


def test_parts_lie_between_from_and_until(clips: Clips) -> None:
    clip = clips["cfr"]
    shown = times_of(clip)
    start, until = shown[4], shown[-3]
    parts = parts_of(clip, Fraction(1, 100), VideoOptions(start=start, until=until))
    assert start <= parts[0][0] and parts[-1][1] <= until


def test_one_frame_is_one_part(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=32x32:rate=24", "-frames:v", "1", tmp_path / "one.mkv")
    (part,) = parts_of(tmp_path / "one.mkv", Fraction(5), ALL)
    assert len(frames_in(tmp_path / "one.mkv", part)) == 1


def test_what_has_no_preview(clips: Clips) -> None:
    with pytest.raises(UsageError, match="a preview of 0 s; expected more than 0"):
        parts_of(clips["cfr"], Fraction(0), ALL)
    with pytest.raises(UsageError, match="standard input: a preview needs a file"):
        parts_of("-", Fraction(5), ALL)
    with pytest.raises(VideoError, match="gives no frame"):
        parts_of(clips["cfr"], Fraction(5), VideoOptions(start=Fraction(1000)))


TURNS = {
    "as it is": (1, 0, 0, 1),
    "a quarter": (0, 1, -1, 0),
    "a half": (-1, 0, 0, -1),
    "three quarters": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed and a half": (0, -1, -1, 0),
}


@pytest.mark.parametrize("turn", short_and_long(TURNS, ["a quarter", "mirrored"]))
def test_frames_are_upright_as_ffmpeg_turns_them(tmp_path: Path, turn: str) -> None:
    """All eight ways to turn and mirror."""
    path = tmp_path / "turned.mp4"
    across, down, over, under = (65536 * value for value in TURNS[turn])
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", 1, width=48, height=32, pix_fmt="yuv444p", options={"qp": "0"})
        stream.set_display_matrix((across, down, 0, over, under, 0, 0, 0, 1 << 30))
        film.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(probe_picture()[:32, :48]))))
        film.mux(stream.encode())
    with open_source(path) as source:
        shown = upright(next(iter(source.frames())).pixels, source.format)
    expected = np.frombuffer(ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"), np.uint8).reshape(shown.shape)
    assert np.abs(shown.astype(int) - expected).mean() < 3
