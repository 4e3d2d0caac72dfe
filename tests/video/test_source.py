"""Frames and times of files, against ffprobe and ffmpeg's command line."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sr_deploy.errors import VideoError
from sr_deploy.video.decoding import Clock
from sr_deploy.video.source import VideoSource
from tests.video import clips as reader
from tests.video.clips import INTACT, Clips

PUBLISHED = (  # noqa: SIM905 - to be read
    "av1_video.mkv bbb_vp8_vorbis.webm bikes.mp4 bt709_full_range.mp4 carphone_talking_head.mp4 cockatoo_yuv444.mp4 "
    "counter_static_1080p.mp4 derived_interlaced_tff_h264.mp4 derived_odd_175x143_h264_444.mp4 derived_odd_319x239_vp9.webm "
    "derived_vfr.mkv fire2_phone.mp4 h265_10bit.mp4 interlaced_tff_mpeg2_sar.mkv nasa_13013_multistream.mp4 onepiece_demo.mp4 "
    "realshort.mp4 rotated_90.mov transparent_vp9_alpha.webm unordered_pts.mov webcam_no_duration.mkv"
).split()
LARGE = {"cockatoo_yuv444.mp4", "counter_static_1080p.mp4", "bt709_full_range.mp4", "fire2_phone.mp4"}


def times(path: Path, after: int | None = None, **options: object) -> list[int]:
    with VideoSource(path, **options) as source:  # type: ignore[arg-type]
        return [frame.pts for frame in source.frames(after)]


def collected(source: VideoSource, after: int | None = None) -> tuple[list[int], str]:
    got: list[int] = []
    try:
        for frame in source.frames(after):
            got.append(frame.pts)  # noqa: PERF401 - what came before the error counts
    except VideoError as error:
        return got, str(error)
    return got, ""


@pytest.mark.parametrize("name", INTACT)
def test_every_frame_comes_at_its_time(clips: Clips, name: str) -> None:
    assert times(clips[name]) == reader.pts_of(clips[name])


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_frame_of_published_files_comes_at_its_time(shared: Path, name: str) -> None:
    path = shared / "videos" / name
    assert times(path) == reader.pts_of(path)


@pytest.mark.parametrize("name", ["cfr", "cfr_mkv", "cfr_ts", "vfr", "offset_ts", "edit_list", "hdr10", "interlaced", "gif"])
def test_what_follows_a_frame_is_the_same_as_from_the_start(clips: Clips, name: str) -> None:
    with VideoSource(clips[name]) as source:
        whole = list(source.frames())
        for cut in (0, len(whole) // 2, len(whole) - 2, len(whole) - 1):
            rest = list(source.frames(after=whole[cut].pts))
            assert [(frame.pts, frame.duration) for frame in rest] == [(f.pts, f.duration) for f in whole[cut + 1 :]]
            assert all(np.array_equal(got.pixels, want.pixels) for got, want in zip(rest, whole[cut + 1 :], strict=True))


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in LARGE])
def test_reading_goes_on_in_published_files(shared: Path, name: str) -> None:
    path = shared / "videos" / name
    with VideoSource(path) as source:
        whole = list(source.frames())
        cut = len(whole) * 2 // 3
        rest = list(source.frames(after=whole[cut].pts))
    assert [frame.pts for frame in rest] == [frame.pts for frame in whole[cut + 1 :]]
    assert all(np.array_equal(got.pixels, want.pixels) for got, want in zip(rest, whole[cut + 1 :], strict=True))


@pytest.mark.parametrize("name", ["cfr", "offset", "offset_ts"])
def test_a_window_in_seconds_counts_from_the_start_of_the_file(clips: Clips, name: str) -> None:
    path = clips[name]
    start = Fraction(reader.ffprobe(path, "-show_format")["format"]["start_time"])
    begin, until = Fraction(3, 10), Fraction(7, 10)
    with VideoSource(path, begin=begin, until=until) as source:
        got = [frame.pts * source.format.time_base for frame in source.frames()]
    assert got == [time for time in reader.times_of(path) if begin <= time - start < until]
    assert got


def test_an_empty_window_gives_no_frame(clips: Clips) -> None:
    assert times(clips["cfr"], begin=Fraction(100)) == []


@pytest.mark.parametrize("name", ["rotated", "anamorphic", "full_range", "hdr10", "hdr10_mp4", "rich", "ten_bit_422", "odd"])
def test_the_format_is_what_ffprobe_shows(clips: Clips, name: str) -> None:
    stream = reader.video_stream(clips[name])
    with VideoSource(clips[name]) as source:
        found = source.format
    assert (found.width, found.height, found.pixel_format) == (stream["width"], stream["height"], stream["pix_fmt"])
    assert found.time_base == Fraction(stream["time_base"])
    assert found.rate == Fraction(stream["avg_frame_rate"])
    assert found.sample_aspect == Fraction(stream["sample_aspect_ratio"].replace(":", "/"))
    assert {1: "bt709", 9: "bt2020nc", 2: None, 0: "gbr"}[found.tags.matrix] == stream.get("color_space")
    assert {1: "bt709", 9: "bt2020", 2: None}[found.tags.primaries] == stream.get("color_primaries")
    assert {1: "bt709", 16: "smpte2084", 2: None}[found.tags.transfer] == stream.get("color_transfer")
    assert {1: "tv", 2: "pc", 0: None}[found.tags.range] == stream.get("color_range")
    assert {1: "left", 3: "topleft", 0: None}[found.tags.chroma_location] in (stream.get("chroma_location"), None)


def test_rotation_is_carried_and_pixels_stay_as_coded(clips: Clips) -> None:
    with VideoSource(clips["rotated"]) as source:
        matrix = source.format.display_matrix
        assert next(source.frames()).pixels.shape == (64, 96, 3)
    shown = reader.video_stream(clips["rotated"])["side_data_list"][0]["displaymatrix"]
    assert matrix == tuple(int(word) for line in shown.split("\n") if ":" in line for word in line.split(":")[1].split())


def test_hdr_metadata_is_carried_as_it_is(clips: Clips) -> None:
    with VideoSource(clips["hdr10"]) as source:
        mastering, light = source.format.mastering, source.format.light
        assert any("HDR" in note for note in source.notes)
        assert next(source.frames()).pixels.dtype == np.uint16
    assert light is not None and struct.unpack("=2I", light) == (1000, 400)
    shown = reader.frames(clips["hdr10"])[0].side_data[0]
    assert mastering is not None
    red_x, green_y = struct.unpack_from("=2i", mastering, 0), struct.unpack_from("=2i", mastering, 24)
    assert Fraction(*red_x) == Fraction(shown["red_x"]) and Fraction(*green_y) == Fraction(shown["green_y"])


def test_guesses_are_told(clips: Clips) -> None:
    with VideoSource(clips["cfr"]) as source:
        assert source.format.tags.matrix == 2
        assert source.notes == ("Its colors are untagged: they are taken for BT.601 because its height is below 720.",)
    with VideoSource(clips["full_range"]) as source:
        assert source.notes == ()
    with VideoSource(clips["alpha"]) as source:
        assert "Its transparency is left out." in source.notes


def test_fields_become_whole_frames(clips: Clips) -> None:
    path = clips["interlaced"]
    want = reader.decode(path, "yuv420p", filters="bwdif=mode=send_frame:deint=interlaced")
    woven = reader.decode(path, "yuv420p")
    with VideoSource(path) as source, VideoSource(path, deinterlace="off") as kept:
        assert source.format.field_order == "progressive" and kept.format.field_order == "top first"
        frames, plain = list(source.frames()), list(kept.frames())
    assert [frame.pts for frame in frames] == reader.pts_of(path) == [frame.pts for frame in plain]
    weights = np.array([0.299, 0.587, 0.114]) * 219 / 255
    for number in range(1, len(frames) - 1):
        told, before = want[number][: 96 * 64].reshape(64, 96), woven[number][: 96 * 64].reshape(64, 96)
        # Colors outside of RGB are clipped, and their luma with them.
        assert np.median(np.abs(frames[number].pixels @ weights + 16 - told)) <= 0.7
        assert np.median(np.abs(plain[number].pixels @ weights + 16 - before)) <= 0.7
        moving = told != before
        assert (
            np.abs((frames[number].pixels @ weights + 16 - told)[moving]).mean()
            < 2
            < np.abs(told.astype(int) - before)[moving].mean()
        )


def test_progressive_frames_are_deinterlaced_only_when_asked(clips: Clips) -> None:
    with VideoSource(clips["cfr"]) as source, VideoSource(clips["cfr"], deinterlace="on") as forced:
        plain, changed = list(source.frames()), list(forced.frames())
    assert [frame.pts for frame in plain] == [frame.pts for frame in changed]
    assert any(not np.array_equal(a.pixels, b.pixels) for a, b in zip(plain, changed, strict=True))


def test_the_wanted_stream_is_read(shared: Path, clips: Clips) -> None:
    path = shared / "videos" / "nasa_13013_multistream.mp4"
    with VideoSource(path, stream=3) as source:
        assert (source.format.width, source.format.height) == (480, 270)
    assert times(path, stream=3) == reader.pts_of(path, 1)
    with pytest.raises(VideoError, match=r"expected video in stream 1; its streams are: 0 video, 1 audio"):
        VideoSource(clips["rich"], stream=1)


def test_a_cover_is_no_video(clips: Clips) -> None:
    with VideoSource(clips["cover"]) as source:
        assert (source.format.width, source.format.height) == (96, 64)


@pytest.mark.parametrize("name", ["truncated", "truncated_mp4"])
def test_a_cut_file_gives_what_it_has_and_an_error(clips: Clips, name: str) -> None:
    path = clips[name]
    with VideoSource(path) as source:
        assert any("bytes are missing" in note for note in source.notes)
        got, error = collected(source)
    whole = reader.pts_of(path)
    assert got == whole[: len(got)] and len(got) >= len(whole) - 1
    assert "Fetch it again, or let damaged parts be skipped" in error
    with VideoSource(path, on_damage="skip") as source:
        assert collected(source) == (whole, "")


@pytest.mark.parametrize("name", ["corrupted.mp4", "damaged"])
def test_damage_is_no_end_of_file(shared: Path, clips: Clips, name: str) -> None:
    path = clips[name] if name == "damaged" else shared / "videos" / name
    whole = reader.pts_of(path)
    with VideoSource(path) as source:
        got, error = collected(source)
        assert 0 < len(got) < len(whole) and got == whole[: len(got)]
        assert "is damaged at 0:00:0" in error
        assert collected(source, after=got[-3])[0] == got[-2:]
    with VideoSource(path, on_damage="skip") as source:
        assert collected(source) == (whole, "")
        assert any(re.fullmatch(r"\d+ damaged packets were skipped, at 0:00:0.*", note) for note in source.notes)


def test_files_that_are_no_video_are_told_apart(clips: Clips, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video")
    for path, words in {
        clips["audio_only"]: "expected a video stream; its streams are: 0 audio",
        tmp_path / "empty.mp4": "It is empty",
        tmp_path / "text.mp4": "Expected a video file",
        tmp_path / "none.mp4": "No such file",
        tmp_path: "is a folder",
        shared / "videos" / "derived_truncated.mp4": "Its index is missing",
    }.items():
        with pytest.raises(VideoError, match=words):
            VideoSource(path)


@pytest.mark.parametrize("name", ["é 漢字 [x] 'q'.mp4", "http:x.mp4", "%03d.mp4", "-i.mp4", "a:b,c;d=e.mp4"])
def test_names_are_only_names(clips: Clips, tmp_path: Path, name: str) -> None:
    shutil.copy(clips["cfr"], tmp_path / name)
    assert len(times(tmp_path / name)) == 60


def test_a_change_of_size_is_told(clips: Clips, tmp_path: Path) -> None:
    other = tmp_path / "other.ts"
    reader.ffmpeg(*reader.pattern("64x48", count=5), *reader.X264, "-output_ts_offset", "2", other)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(clips["cfr_ts"].read_bytes() + other.read_bytes())
    with VideoSource(joined) as source:
        got, error = collected(source)
    assert len(got) == 60 and "changes from 96x64 yuv420p to 64x48 yuv420p" in error


def test_counts_and_durations_are_those_of_ffprobe(clips: Clips) -> None:
    for name in ("cfr", "edit_list", "offset", "rich"):
        with VideoSource(clips[name]) as source:
            count = len(reader.frames(clips[name]))
            assert source.frame_count is not None and abs(source.frame_count - count) <= 1
            assert source.duration is not None and abs(
                source.duration - Fraction(count, 25 if name != "cfr" else 30)
            ) < Fraction(1, 10)
            assert source.start_pts == reader.pts_of(clips[name])[0]


def test_times_that_cannot_be_used_are_repaired() -> None:
    clock = Clock()
    frames = []
    for pts in (0, 40, 40, None, 120, 80):
        frame = av.VideoFrame(16, 16, "gray")
        frame.pts, frame.duration = pts, 40
        frames.append(clock.stamp(frame))
    assert [frame.pts for frame in frames] == [0, 40, 41, 81, 120, 121]
    assert clock.repaired == 3


def test_a_generator_left_early_closes_its_file(clips: Clips) -> None:
    with VideoSource(clips["cfr"]) as source:
        frames = source.frames()
        next(frames)
        frames.close()
        assert len(list(source.frames())) == 60


def test_only_a_few_frames_are_alive(clips: Clips) -> None:
    import gc

    with VideoSource(clips["cfr"]) as source:
        most = 0
        for frame in source.frames():
            del frame
            most = max(most, sum(type(thing) is av.VideoFrame for thing in gc.get_objects()))
    # A decoder thread holds one, and there are at most 16.
    assert most <= 30


FREED_WHILE_IT_LOGS = """
import sys, av
from sr_deploy.video.decoding import decode_fast
from sr_deploy.video.log import heard
with heard(av.logging.DEBUG):
    for _ in range(100):
        with av.open(sys.argv[1]) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 4
            frames = decode_fast(container, stream, None)
            next(frames)
            frames.close()
            del frames, stream
        del container
"""


def test_a_decoder_that_is_left_while_its_threads_log_does_not_hang(tmp_path: Path) -> None:
    reader.ffmpeg(*reader.pattern("320x240", 100), *reader.X264, "-g", "5", tmp_path / "film.mp4")
    subprocess.run([sys.executable, "-c", FREED_WHILE_IT_LOGS, tmp_path / "film.mp4"], check=True, timeout=300)
