"""The final file holds every frame at its time and every stream of the source, by the word of ffprobe and ffmpeg."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import pytest

from sr_deploy.errors import UsageError, VideoError
from sr_deploy.video import join as module
from sr_deploy.video.check import check_result
from sr_deploy.video.frame import ColorTags
from sr_deploy.video.input import input_of
from sr_deploy.video.join import join
from sr_deploy.video.streams import plan_streams
from tests.video import clips as made
from tests.video.clips import Clips
from tests.video.writing import fast_encoding, video_format, write_segments, written

MASTERING = struct.pack(
    "=22i",
    *(35400, 50000, 14600, 50000, 8500, 50000, 39850, 50000, 6550, 50000, 2300, 50000, 15635, 50000, 16450, 50000),
    *(50, 10000, 10000000, 10000, 1, 1),
)
HDR = video_format(
    pixel_format="yuv420p10le",
    depth=10,
    tags=ColorTags(9, 1, 9, 16, 3),
    mastering=MASTERING,
    light=struct.pack("=2I", 1000, 400),
)
QUARTER_TURN = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)


def in_clock(times: list[Fraction], target: Path) -> list[Fraction]:
    """Rounded to the clock of a container."""
    base = Fraction(made.video_stream(target)["time_base"])
    return [int(time / base + Fraction(1, 2)) * base for time in times]


@pytest.mark.parametrize("container", [".mkv", ".mp4", ".mov"])
@pytest.mark.parametrize("name", ["cfr_sound", "vfr_mp4", "late_sound", "edit_list", "offset"])
def test_times_streams_and_frames_are_those_of_the_source(clips: Clips, tmp_path: Path, name: str, container: str) -> None:
    run = written(tmp_path, clips[name], container, preset="medium")
    assert made.times_of(run.target) == in_clock(made.times_of(clips[name]), run.target)
    hashes, found = made.stream_hashes(clips[name]), made.stream_hashes(run.target)
    assert [hashes[copied.index] for copied in run.plan.copied] == list(found.values())[1:]
    frames = [digest for segment in run.segments for digest in made.frame_hashes(segment.path)]
    assert made.frame_hashes(run.target) == frames


@pytest.mark.parametrize("container", [".mkv", ".mp4"])
def test_sound_stays_where_it_was_beside_the_pictures(clips: Clips, tmp_path: Path, container: str) -> None:
    def gap(path: Path) -> float:
        starts = {stream["codec_type"]: float(stream["start_time"]) for stream in made.streams(path)}
        return starts["audio"] - starts["video"]

    for name in ("late_sound", "offset"):
        folder = tmp_path / name
        folder.mkdir()
        assert gap(written(folder, clips[name], container).target) == pytest.approx(gap(clips[name]), abs=0.001)


@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_the_length_is_right_with_frames_decoded_out_of_order(clips: Clips, tmp_path: Path, codec: str, preset: str) -> None:
    run = written(tmp_path, clips["vfr_mp4"], ".mp4", codec, preset=preset)
    found = float(made.video_stream(run.target)["duration"])
    wanted = float(made.video_stream(clips["vfr_mp4"])["duration"])
    assert found == pytest.approx(wanted, abs=wanted / 24)
    assert found == pytest.approx((run.joined.pts[-1] + run.joined.last_duration) / 90000, abs=1e-5)
    assert float(made.ffprobe(run.target, "-show_format")["format"]["duration"]) == pytest.approx(found, abs=1e-5)
    packets = made.ffprobe(run.target, "-show_packets", "-select_streams", "v:0")["packets"]
    decoding = [int(packet["dts"]) for packet in packets]
    assert decoding == sorted(set(decoding))
    assert all(int(packet["dts"]) <= int(packet["pts"]) for packet in packets)


def test_everything_of_a_rich_file_is_copied(clips: Clips, tmp_path: Path) -> None:
    source = clips["rich"]
    target = written(tmp_path, source).target
    assert list(made.stream_hashes(target).values())[1:] == list(made.stream_hashes(source).values())[1:]
    assert made.chapters(target) == made.chapters(source)
    for before, after in zip(made.streams(source), made.streams(target), strict=True):
        assert after["disposition"] == before["disposition"]
        for tag in ("title", "language", "filename", "mimetype"):
            assert after.get("tags", {}).get(tag) == before.get("tags", {}).get(tag)
    assert made.ffprobe(target, "-show_format")["format"]["tags"]["title"] == "A title é 漢字"


@pytest.mark.parametrize("container", [".mkv", ".mp4"])
def test_a_cover_stays_a_cover(clips: Clips, tmp_path: Path, container: str) -> None:
    target = written(tmp_path, clips["cover"], container).target
    covers = [stream for stream in made.streams(target) if stream["disposition"]["attached_pic"]]
    assert [cover["codec_name"] for cover in covers] == ["png"]
    (before,) = made.stream_hashes(clips["cover"], "0:v:1").values()
    assert before in made.stream_hashes(target).values()


def test_what_mp4_cannot_hold_is_told_before_any_frame(clips: Clips) -> None:
    out, encoding = video_format(), fast_encoding(video_format(), ".mp4")
    plan = plan_streams(input_of(clips["rich"]), ".mp4", out, encoding)
    assert [word in problem for word, problem in zip(("subrip", "pgs", "font.ttf"), plan.problems, strict=True)] == [True] * 3
    assert all("use .mkv" in problem for problem in plan.problems)
    with pytest.raises(UsageError, match="cannot hold"):
        plan.require()
    dropped = plan_streams(input_of(clips["rich"]), ".mp4", out, encoding, drop_unsupported=True)
    assert not dropped.problems
    assert len(dropped.notes) == 3
    assert [copied.codec for copied in dropped.copied] == ["aac", "flac"]


def test_webm_holds_neither_aac_nor_h264(clips: Clips) -> None:
    encoding = fast_encoding(video_format(), ".webm", "libvpx-vp9")
    assert "aac" in plan_streams(input_of(clips["cfr_sound"]), ".webm", video_format(), encoding).problems[0]
    with pytest.raises(UsageError, match=r"'\.webm' cannot hold libx264"):
        plan_streams(None, ".webm", video_format(), fast_encoding(video_format()))


def test_subtitles_of_mp4_become_text_in_matroska(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text(made.SUBTITLES, encoding="utf-8")
    source = tmp_path / "source.mp4"
    made.ffmpeg(
        *made.pattern(count=50), "-i", tmp_path / "a.srt", "-map", "0", "-map", "1", *made.X264, "-c:s", "mov_text", source
    )
    run = written(tmp_path, source)
    assert "becomes subrip" in run.plan.notes[0]
    text = made.ffmpeg("-i", run.target, "-map", "0:s", "-f", "srt", "-").decode()
    assert text == made.ffmpeg("-i", source, "-map", "0:s", "-f", "srt", "-").decode()


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        (".mkv", "libx265"),
        (".mp4", "libx265"),
        (".mov", "prores_ks"),
        (".mp4", "libsvtav1"),
        (".mkv", "ffv1"),
        (".mp4", "libx264"),
    ],
)
def test_tags_hdr_and_rotation_are_written_in_the_stream(tmp_path: Path, container: str, codec: str) -> None:
    out = video_format(**{**vars(HDR), "display_matrix": QUARTER_TURN})
    stream = made.video_stream(written(tmp_path, None, container, codec, out=out).target)
    tags = [stream.get(key) for key in ("color_range", "color_space", "color_primaries", "color_transfer")]
    assert tags == ["tv", "bt2020nc", "bt2020", "smpte2084"]
    if codec != "prores_ks":
        assert stream["chroma_location"] == "topleft"
    side = {entry["side_data_type"]: entry for entry in stream["side_data_list"]}
    assert side["Display Matrix"]["rotation"] == -90
    assert side["Content light level metadata"]["max_content"] == 1000
    mastering = side["Mastering display metadata"]
    assert Fraction(mastering["red_x"]) == Fraction(35400, 50000)
    assert Fraction(mastering["min_luminance"]) == Fraction(50, 10000)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_tags_and_hdr_are_written_in_the_frames(tmp_path: Path, codec: str) -> None:
    segment = write_segments(tmp_path, HDR, fast_encoding(HDR, codec=codec), [0, 3600], 2)[0]
    frame = made.ffprobe(segment.path, "-show_frames", "-read_intervals", "%+#1")["frames"][0]
    tags = [frame[key] for key in ("color_range", "color_space", "color_primaries", "color_transfer", "chroma_location")]
    assert tags == ["tv", "bt2020nc", "bt2020", "smpte2084", "topleft"]
    if codec != "libx264":  # This ffprobe does not read them from H.264.
        kinds = {entry["side_data_type"] for entry in frame["side_data_list"]}
        assert {"Mastering display metadata", "Content light level metadata"} <= kinds


@pytest.mark.parametrize("codec", ["libx264", "libx265", "ffv1"])
def test_what_is_unspecified_stays_unspecified(tmp_path: Path, codec: str) -> None:
    stream = made.video_stream(written(tmp_path, codec=codec).target)
    assert {stream.get(key, "unknown") for key in ("color_space", "color_primaries", "color_transfer")} == {"unknown"}


@pytest.mark.parametrize(("container", "codec"), [(".mkv", "libx264"), (".mp4", "libsvtav1"), (".mov", "prores_ks")])
def test_the_pixel_aspect_is_kept(tmp_path: Path, container: str, codec: str) -> None:
    out = video_format(sample_aspect=Fraction(32, 27))
    assert made.video_stream(written(tmp_path, None, container, codec, out=out).target)["sample_aspect_ratio"] == "32:27"


def test_a_range_begins_at_zero_and_cuts_all_streams(clips: Clips, tmp_path: Path) -> None:
    run = written(tmp_path, clips["rich"], start=Fraction(1, 2), until=Fraction(3, 2))
    times = made.times_of(run.target)
    assert (times[0], len(times)) == (0, 25)
    for stream in made.ffprobe(run.target, "-show_packets")["packets"]:
        assert 0 <= float(stream["pts_time"]) < 1.0
    assert [(chapter["tags"]["title"], float(chapter["start_time"])) for chapter in made.chapters(run.target)] == [
        ("Opening", 0.0),
        ("Ending", pytest.approx(0.48, abs=0.03)),
    ]


def test_a_broken_source_gives_what_it_has(clips: Clips, tmp_path: Path) -> None:
    whole = clips["rich"]
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    run = written(tmp_path, broken, pts=[number * 40 for number in range(20)])
    assert len(made.times_of(run.target)) == 20
    assert made.stream_hashes(run.target).keys() >= {0, 1, 2}


@pytest.mark.parametrize(("container", "pts"), [(".mp4", [0]), (".mp4", [7, 9]), (".mkv", [-9000, 0, 900])], ids=str)
def test_few_frames_and_times_before_zero(tmp_path: Path, container: str, pts: list[int]) -> None:
    target = written(tmp_path, container=container, pts=pts, preset="medium").target
    assert made.times_of(target) == [Fraction(one - min(pts[0], 0), 90000) for one in pts]


def test_segments_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    out, encoding = video_format(), fast_encoding(video_format())
    plan = plan_streams(None, ".mkv", out, encoding)
    target = tmp_path / "target.mkv"
    one, two = (segment.path for segment in write_segments(tmp_path / "a", out, encoding, [0, 1, 2, 3], 2))
    other = write_segments(tmp_path / "b", out, fast_encoding(out, preset="medium"), [4, 5], 2)[0].path
    for segments, message in [
        ([], "nothing to join"),
        ([two, one], "is shown before it"),
        ([one, other], "other settings"),
        ([one, tmp_path / "absent.nut"], "cannot be read as a segment"),
    ]:
        with pytest.raises(VideoError, match=message):
            join(segments, target, out, encoding, plan)
        assert not list(tmp_path.glob("target*"))


def test_a_full_disk_while_joining_keeps_the_segments(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this machine")
    out, encoding = video_format(), fast_encoding(video_format())
    segments = [segment.path for segment in write_segments(tmp_path / "a", out, encoding, list(range(0, 90000, 900)), 10)]
    (tmp_path / "target.mkv.part").symlink_to("/dev/full")
    with pytest.raises(VideoError, match=r"target\.mkv: cannot be written \(No space left on device\)"):
        join(segments, tmp_path / "target.mkv", out, encoding, plan_streams(None, ".mkv", out, encoding))
    assert not list(tmp_path.glob("target*"))
    assert all(path.exists() for path in segments)


def test_an_interrupted_join_leaves_an_older_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    out, encoding = video_format(), fast_encoding(video_format())
    segments = [segment.path for segment in write_segments(tmp_path / "a", out, encoding, [0, 1], 2)]
    target = tmp_path / "target.mkv"
    target.write_bytes(b"older")
    monkeypatch.setattr(module, "put_in_place", interrupted)
    with pytest.raises(KeyboardInterrupt):
        join(segments, target, out, encoding, plan_streams(None, ".mkv", out, encoding))
    assert target.read_bytes() == b"older"
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("container", [".mkv", ".mov"])
def test_a_time_code_is_kept(clips: Clips, tmp_path: Path, container: str) -> None:
    source = tmp_path / "timecode.mov"
    made.ffmpeg("-i", clips["cfr_sound"], "-c", "copy", "-timecode", "01:00:00:00", source)
    assert [stream["codec_type"] for stream in made.streams(source)] == ["video", "audio", "data"]
    run = written(tmp_path, source, container)
    check_result(run.target, run.expected)
    tags = {key.lower(): value for key, value in made.video_stream(run.target)["tags"].items()}
    assert tags["timecode"] == "01:00:00:00"
    kinds = [stream["codec_type"] for stream in made.streams(run.target)]
    assert kinds == ["video", "audio"] + ["data"] * (container == ".mov")


@pytest.mark.parametrize("container", [".mkv", ".mp4"])
@pytest.mark.parametrize("name", ["fire2_phone.mp4", "unordered_pts.mov", "realshort.mp4", "nasa_13013_multistream.mp4"])
def test_published_clips_keep_every_time_and_packet(shared: Path, tmp_path: Path, name: str, container: str) -> None:
    source = shared / "videos" / name
    run = written(tmp_path, source, container)
    assert made.times_of(run.target) == in_clock(made.times_of(source), run.target)
    hashes, found = made.stream_hashes(source), list(made.stream_hashes(run.target).values())[1:]
    for copied, digest in zip(run.plan.copied, found, strict=True):
        assert copied.convert or digest == hashes[copied.index]
