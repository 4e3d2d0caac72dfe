"""What is known of a source before its first frame, or noted while it is read: nothing is lost without a word."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import pytest

from sr_deploy.batch.naming import holds_video
from sr_deploy.errors import VideoError
from sr_deploy.filetypes import begins_as_video
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.run import upscale_video
from sr_deploy.video.source import VideoSource
from tests.film.test_run import Nearest
from tests.video import clips as reader
from tests.video.clips import Clips
from tests.video.test_survey import read


def with_record(whole: bytes, profile: int, compatible: int) -> bytes:
    """A file of profile 5 with another profile in its Dolby Vision record."""
    begin = whole.index(b"dvcC") + 4
    record = bytes((1, 0, profile << 1, 0x0D, compatible << 4))
    return whole[:begin] + record + whole[begin + 5 :]


def test_dolby_vision_without_a_base_layer_is_refused(shared: Path, tmp_path: Path) -> None:
    source = shared / "faults" / "dv5.mp4"
    assert reader.video_stream(source)["side_data_list"][0]["dv_profile"] == 5
    with pytest.raises(VideoError, match=r"dv5\.mp4: it is Dolby Vision of profile 5, whose pictures are no YCbCr"):
        VideoSource(source)
    for profile, compatible, fine in ((8, 1, True), (7, 6, True), (10, 0, False), (10, 1, True)):
        path = tmp_path / f"{profile}-{compatible}.mp4"
        path.write_bytes(with_record(source.read_bytes(), profile, compatible))
        record = reader.video_stream(path)["side_data_list"][0]
        assert (record["dv_profile"], record["dv_bl_signal_compatibility_id"]) == (profile, compatible)
        if fine:
            assert f"Its Dolby Vision metadata (profile {profile}) is left out" in str(read(path)[2])
        else:
            with pytest.raises(VideoError, match="Dolby Vision"):
                VideoSource(path)


def test_dolby_vision_in_matroska_is_known(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "dv.mkv"
    reader.ffmpeg("-i", shared / "faults" / "dv5.mp4", "-c", "copy", "-strict", "unofficial", path)
    if "side_data_list" not in reader.video_stream(path):
        pytest.skip("this ffmpeg writes no such record into Matroska")
    with pytest.raises(VideoError, match="profile 5"):
        VideoSource(path)


def test_closed_captions_are_noted(shared: Path, clips: Clips) -> None:
    assert "Closed captions in its pictures are left out." in read(shared / "faults" / "cc.mp4")[2]
    assert "captions" not in str(read(clips["cfr"])[2])


def test_another_aspect_in_the_middle_is_noted(tmp_path: Path) -> None:
    parts = []
    for number, aspect in enumerate(("16/15", "64/45")):
        part = tmp_path / f"{number}.ts"
        reader.ffmpeg(*reader.pattern(count=15, extra=f"setsar={aspect}"), *reader.X264, "-output_ts_offset", number * 2, part)
        parts.append(part.read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    count, error, notes = read(tmp_path / "both.ts")
    assert (count, error) == (30, "")
    assert any("changes from 16/15 to 64/45 near 0:00:0" in note for note in notes)
    assert "changes" not in str(read(tmp_path / "0.ts")[2])


@pytest.mark.parametrize("linked", [True, False])
def test_a_time_code_track_becomes_a_tag(tmp_path: Path, linked: bool) -> None:
    source, target = tmp_path / "timecode.mov", tmp_path / "large.mkv"
    reader.ffmpeg(*reader.pattern(), *reader.X264, "-timecode", "01:02:03:04", source)
    if not linked:
        source.write_bytes(source.read_bytes().replace(b"tref", b"free"))
    upscale_video(source, target, Nearest(), options=VideoOptions(preset="ultrafast"))
    tags = {key.lower(): value for key, value in reader.video_stream(target)["tags"].items()}
    assert tags["timecode"] == "01:02:03:04"


KINDS = {
    "h264": (*reader.X264, "-f", "h264"),
    "hevc": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none", "-f", "hevc"),
    "m2v": ("-c:v", "mpeg2video", "-f", "mpeg2video"),
    "m2t": (*reader.X264, "-f", "mpegts"),
    "m2ts": (*reader.X264, "-f", "mpegts", "-mpegts_m2ts_mode", "1"),
    "f4v": (*reader.X264, "-f", "f4v"),
    "asf": ("-c:v", "wmv2", "-f", "asf"),
    "ivf": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-f", "ivf"),
    "mxf": ("-c:v", "mpeg2video", "-f", "mxf"),
    "vob": ("-c:v", "mpeg2video", "-f", "vob"),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("suffix", ["own", "odd"])
def test_a_video_is_known_by_its_content(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"film.{kind if suffix == 'own' else 'download'}"
    reader.ffmpeg(*reader.pattern(count=10), *KINDS[kind], path)
    assert holds_video(path)
    assert begins_as_video(path)
    assert read(path)[:2] == (10, "")


def test_pictures_and_texts_do_not_begin_as_videos(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "a.ico").write_bytes(b"\0\0\1\0\1\0" + bytes(100))
    (tmp_path / "a.txt").write_text("Good morning.\nGGGG")
    pictures = [path for path in (shared / "images").rglob("*") if path.is_file()]
    assert pictures and not any(map(begins_as_video, [*pictures, *tmp_path.iterdir()]))


def test_a_raw_stream_becomes_a_video(shared: Path, tmp_path: Path) -> None:
    source = tmp_path / "raw.download"
    shutil.copy(shared / "faults" / "raw.h264", source)
    assert upscale_video(source, tmp_path / "a.mkv", Nearest(), options=VideoOptions(preset="ultrafast")).frames == 50
    assert reader.frame_hashes(tmp_path / "a.mkv") and len(reader.times_of(tmp_path / "a.mkv")) == 50


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_threads_end_with_their_video(clips: Clips, tmp_path: Path) -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    def run(number: int) -> None:
        options = VideoOptions(preset="ultrafast", segment_frames=5)
        upscale_video(clips["vfr"], tmp_path / f"{number}.mkv", Nearest(), options=options)

    run(0)
    before = threads()
    gc.disable()
    try:
        for number in range(1, 4):
            run(number)
            assert threads() <= before
    finally:
        gc.enable()
