"""Frames held against what the file promises, and times that start anew, against ffmpeg and ffprobe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from sr_deploy.errors import VideoError
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.run import upscale_video
from sr_deploy.video.packets import packets_of
from sr_deploy.video.source import VideoSource
from tests import short_and_long
from tests.film.test_run import Nearest
from tests.video import clips as reader
from tests.video.clips import Clips

FAST = VideoOptions(preset="ultrafast", segment_frames=100)
SOUND = ("-c:a", "aac")


def upscaled(source: Path, folder: Path, suffix: str = ".mkv", **options: object) -> Path:
    target = folder / f"large{suffix}"
    upscale_video(source, target, Nearest(), options=VideoOptions(preset="ultrafast", segment_frames=100, **options))  # type: ignore[arg-type]
    return target


def read(path: Path, **options: object) -> tuple[int, str, tuple[str, ...]]:
    """How many frames came, the error, and the notes."""
    count = 0
    with VideoSource(path, **options) as source:  # type: ignore[arg-type]
        try:
            for _ in source.frames():
                count += 1
        except VideoError as error:
            return count, str(error), source.notes
        return count, "", source.notes


def starts(path: Path) -> list[float]:
    """When each stream begins, in seconds."""
    packets = reader.ffprobe(path, "-show_packets", "-show_entries", "packet=stream_index,pts_time")["packets"]
    return [min(float(p["pts_time"]) for p in packets if p["stream_index"] == i) for i in {p["stream_index"] for p in packets}]


def packets(path: Path) -> list[int]:
    """How many packets each stream has."""
    found = reader.ffprobe(path, "-count_packets", "-show_entries", "stream=nb_read_packets")["streams"]
    return [int(stream["nb_read_packets"]) for stream in found]


@pytest.mark.parametrize(
    ("name", "frames"),
    [("video_10_zero.mkv", 2), ("video_56_flip1.mkv", 8), ("video_253_zero.webm", 146), ("video_124_index.mp4", 10)],
)
def test_frames_that_the_file_promises_and_does_not_give(shared: Path, name: str, frames: int) -> None:
    count, error, _ = read(shared / "faults" / name)
    assert count == frames and "is damaged at 0:00:0" in error
    count, error, notes = read(shared / "faults" / name, on_damage="skip")
    assert count >= frames and not error
    assert any("damaged" in note and " at 0:00:0" in note for note in notes)


@pytest.mark.parametrize("name", ["video_10_orig.mkv", "video_56_orig.mkv", "video_253_orig.webm"])
def test_whole_files_are_not_in_doubt(shared: Path, name: str) -> None:
    count, error, _ = read(shared / "faults" / name)
    assert (count, error) == (len(reader.frames(shared / "faults" / name)), "")


@pytest.mark.parametrize("b_frames", ["0", "2"])
@pytest.mark.parametrize("suffix", [".mkv", ".flv", ".avi", ".mp4", ".mov", ".ts", ".mpg", ".m4v", ".nut"])
def test_nothing_is_said_of_whole_files(tmp_path: Path, suffix: str, b_frames: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    reader.ffmpeg(*reader.pattern(count=30), *reader.X264, "-bf", b_frames, "-g", "10", whole)
    count, error, notes = read(whole)
    assert (count, error) == (30, "")
    assert not [note for note in notes if "damaged" in note or "lost" in note or "hides" in note]


@pytest.mark.parametrize("suffix", [".mkv", ".flv", ".avi"])
@pytest.mark.parametrize("place", [0.5, 0.8])
def test_a_hole_in_a_file_is_no_short_success(tmp_path: Path, suffix: str, place: float) -> None:
    whole = tmp_path / f"whole{suffix}"
    reader.ffmpeg(*reader.pattern(count=50), *reader.X264, "-bf", "0", "-g", "5", whole)
    data = bytearray(whole.read_bytes())
    begin = int(len(data) * place)
    data[begin : begin + len(data) // 6] = bytes(len(data) // 6)
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(data)
    assert read(whole)[:2] == (50, "")
    count, error, _ = read(broken)
    assert count < 50 and "is damaged at" in error
    count, error, notes = read(broken, on_damage="skip")
    assert not error and any("damaged" in note for note in notes)


def test_one_picture_less_at_the_end_is_a_loss_and_an_unknown_codec_an_error(clips: Clips, tmp_path: Path) -> None:
    path, whole = tmp_path / "film.mkv", clips["cfr_mkv"].read_bytes()
    last = int(max(reader.ffprobe(clips["cfr_mkv"], "-show_packets")["packets"], key=lambda packet: packet["pts"])["pos"])
    path.write_bytes(whole[:last] + b"\xec" + whole[last + 1 :])
    count, error, _ = read(path)
    assert count in (58, 59) and "is damaged at 0:00:01." in error
    (tmp_path / "film.mp4").write_bytes(clips["cfr"].read_bytes().replace(b"avc1", b"qqqq"))
    with pytest.raises(VideoError, match="FFmpeg does not know the codec"):
        VideoSource(tmp_path / "film.mp4")


def test_a_file_that_breaks_after_its_first_picture_keeps_its_promise(tmp_path: Path) -> None:
    """Matroska tells no time of decoding for the first pictures where some are out of order."""
    path = tmp_path / "film.mkv"
    reader.ffmpeg(*reader.pattern(count=12, rate="12"), *reader.X264, "-g", "6", path)
    whole = path.read_bytes()
    begin = min(int(packet["pos"]) for packet in reader.ffprobe(path, "-show_packets")["packets"][1:])
    path.write_bytes(whole[:begin] + bytes(len(whole) - begin))
    count, error, _ = read(path)
    assert count == 1 and "its header says that it ends at" in error


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_packets_that_show_nothing_are_no_loss(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "hidden.webm"
    reader.ffmpeg(
        *reader.pattern(count=40), "-c:v", codec, "-auto-alt-ref", "1", "-lag-in-frames", "16", "-cpu-used", "5", path
    )
    assert len(reader.ffprobe(path, "-show_packets")["packets"]) >= 40
    assert read(path)[:2] == (40, "")


@pytest.mark.parametrize(
    ("codec", "bit", "suffix"),
    [("libvpx-vp9", 0x02, ".webm"), ("libvpx-vp9", 0x02, ".mp4"), ("libvpx-vp9", 0x02, ".ivf"), ("libvpx", 0x10, ".webm")],
)
@pytest.mark.parametrize("number", short_and_long((0, 5, 10), (0, 5)))
def test_a_keyframe_that_a_flipped_bit_hides_is_lost(tmp_path: Path, codec: str, bit: int, suffix: str, number: int) -> None:
    path = tmp_path / f"flipped{suffix}"
    reader.ffmpeg(*reader.pattern(count=11), "-c:v", codec, "-g", "5", "-deadline", "realtime", "-cpu-used", "8", path)
    with av.open(str(path)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0) if packet.size][number]
    whole = path.read_bytes()
    assert whole.count(packet) == 1 and packet[0] & bit
    path.write_bytes(whole.replace(packet, bytes([packet[0] & ~bit]) + packet[1:]))
    assert len(reader.frames(path)) == 10
    count, error, _ = read(path)
    assert count == number and "a frame is missing that the file has packets of" in error
    count, error, notes = read(path, on_damage="skip")
    assert (count, error) == (10, "") and any("1 damaged packets were skipped" in note for note in notes)


def test_hidden_frames_of_vp9_that_stand_apart_are_no_loss(tmp_path: Path) -> None:
    together, apart = tmp_path / "together.webm", tmp_path / "apart.nut"
    for at in ("1", "2"):
        reader.ffmpeg(
            *reader.pattern(count=40), "-c:v", "libvpx-vp9", "-b:v", "200k", "-auto-alt-ref", "1", "-lag-in-frames", "25",
            "-cpu-used", "5", "-pass", at, "-passlogfile", tmp_path / "log", together,
        )  # fmt: skip
    reader.ffmpeg("-i", together, "-c", "copy", "-bsf:v", "vp9_superframe_split", apart)
    assert (
        len(reader.ffprobe(apart, "-show_packets")["packets"]) > len(reader.ffprobe(together, "-show_packets")["packets"]) == 40
    )
    assert read(together)[:2] == read(apart)[:2] == (40, "")


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("suffix", [".ts", ".vob"])
def test_times_that_start_anew_go_on(tmp_path: Path, sound: bool, suffix: str) -> None:
    part, joined = tmp_path / f"part{suffix}", tmp_path / f"joined{suffix}"
    codec = reader.X264 if suffix == ".ts" else ("-c:v", "mpeg2video", "-bf", "2")
    tone = (*reader.tone(seconds=0.6), "-c:a", "ac3" if suffix == ".vob" else "aac") if sound else ()
    inputs, options = (tone[:4], tone[4:]) if sound else ((), ())
    reader.ffmpeg(*reader.pattern(count=15), *inputs, *codec, "-g", "12", *options, part)
    joined.write_bytes(part.read_bytes() * 3)
    target = upscaled(joined, tmp_path)
    times = reader.times_of(target)
    assert len(times) == 45 == 3 * len(reader.frames(part))
    assert all(Fraction(0) < after - before < Fraction(1, 5) for before, after in pairwise(times))
    assert packets(target) == packets(joined)
    if sound:
        assert packets(target)[1] >= 3 * 15
    assert starts(target)[0] < 0.1 and float(times[-1]) < 2.1


def test_pictures_are_missing_where_times_of_decoding_have_a_hole(tmp_path: Path) -> None:
    """The beginning of a program stream twice: its first picture, and then the middle of what follows."""
    path = tmp_path / "film.mpg"
    reader.ffmpeg(*reader.pattern("48x32", 36, "12"), "-c:v", "mpeg2video", "-bf", "0", path)
    whole = path.read_bytes()
    path.write_bytes(whole[:1048] + whole[24:])
    assert 0 < len(reader.frames(path)) < 36 and "missing there" in read(path)[1]


def test_times_that_start_anew_are_resumed_right(tmp_path: Path) -> None:
    part, joined = tmp_path / "part.ts", tmp_path / "joined.ts"
    reader.ffmpeg(*reader.pattern(count=25), *reader.X264, "-g", "5", part)
    joined.write_bytes(part.read_bytes() * 2)
    with VideoSource(joined) as source:
        whole = [frame.pts for frame in source.frames()]
        assert len(whole) == 50 and "start anew in 1 place" in str(source.notes)
        assert [frame.pts for frame in source.frames(after=whole[30])] == whole[31:]


@pytest.mark.parametrize(
    ("name", "frames"), [("cat_na.ts", 150), ("cat.ts", 150), ("late_start.ts", 75), ("late_small.vob", 350)]
)
def test_recordings_that_start_somewhere(shared: Path, tmp_path: Path, name: str, frames: int) -> None:
    source = shared / "faults" / name
    target = upscaled(source, tmp_path)
    assert packets(target) == packets(source)
    assert len(reader.times_of(target)) == frames
    assert min(starts(target)) == 0
    assert float(reader.ffprobe(target, "-show_format")["format"]["duration"]) < frames / 25 + 0.2


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_late_start_is_taken_back_from_all_streams(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / "late.ts"
    reader.ffmpeg(*reader.pattern(count=25), *reader.tone(), *reader.X264, *SOUND, "-output_ts_offset", "5000", source)
    before, after = starts(source), starts(upscaled(source, tmp_path, suffix))
    assert min(before) > 5000 and min(after) == pytest.approx(0, abs=0.025)
    assert after[0] - after[1] == pytest.approx(before[0] - before[1], abs=0.002)


def test_a_window_of_a_late_start_cuts_all_streams(tmp_path: Path) -> None:
    source = tmp_path / "late.ts"
    reader.ffmpeg(*reader.pattern(count=50), *reader.tone(seconds=2), *reader.X264, *SOUND, "-output_ts_offset", "500", source)
    target = upscaled(source, tmp_path, start=Fraction(1, 2), until=Fraction(1))
    video, sound = packets(target)
    assert 12 <= video <= 13 and 20 <= sound <= 26
    assert max(starts(target)) < 0.05


def test_y4m_files_are_as_strict_as_pipes(shared: Path, clips: Clips, tmp_path: Path) -> None:
    assert "1 bytes are missing" in read(shared / "faults" / "cut_last_frame.y4m")[1]
    whole = clips["y4m"].read_bytes()
    for cut in (1, 700, len(whole) // 3):
        path = tmp_path / f"{cut}.y4m"
        path.write_bytes(whole[:-cut])
        count, error, _ = read(path)
        assert count < 10 and "is damaged at its end" in error
    assert read(clips["y4m"])[:2] == (10, "")


def test_a_range_alone_is_kept(shared: Path, tmp_path: Path) -> None:
    for suffix in (".mp4", ".mov", ".mkv"):
        target = upscaled(shared / "faults" / "range_only.mp4", tmp_path, suffix)
        assert len(reader.frames(target)) == 50
        assert reader.video_stream(target).get("color_range") in ("tv", None)


def without_packets(path: Path, *lost: int) -> Path:
    """A transport stream without some of its packets of 188 bytes."""
    data = path.read_bytes()
    path.write_bytes(b"".join(data[188 * n : 188 * n + 188] for n in range(len(data) // 188) if n not in lost))
    return path


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """A transport stream whose pictures but the first have a packet each, and follow each other alike."""
    path = tmp_path / "film.ts"
    reader.ffmpeg(*reader.pattern("48x32", 20, "12"), "-c:v", "libx264", "-bf", "0", path)
    return path


def picture_packets(path: Path, which: int) -> list[int]:
    """Numbers of the transport packets of a picture."""
    found = reader.ffprobe(path, "-show_packets", "-select_streams", "v", "-show_entries", "packet=pos")["packets"]
    places = [int(packet["pos"]) // 188 for packet in found]
    video = path.read_bytes()[188 * places[0] + 1 : 188 * places[0] + 3]
    numbers = range(places[which], places[which + 1])
    return [n for n in numbers if path.read_bytes()[188 * n + 2] == video[1]]


def test_a_picture_that_a_transport_stream_lost(stream: Path) -> None:
    assert read(stream)[:2] == (20, "")
    count, error, _ = read(without_packets(stream, *picture_packets(stream, 9)))
    assert count == 9 and "is damaged at 0:00:00" in error
    count, error, notes = read(stream, on_damage="skip")
    assert (count, error) == (19, "") and any("damaged" in note for note in notes)


@pytest.mark.parametrize("cut", [0, 1, 2000])
@pytest.mark.parametrize("late", ["0", "0.3"])
def test_an_index_tells_of_sound_what_its_packets_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, late: str
) -> None:
    path = tmp_path / "film.mp4"
    start = ("-itsoffset", late, *reader.tone(seconds=3), "-c:a", "aac", "-movflags", "+faststart")
    reader.ffmpeg(*reader.pattern(count=25), *start[:6], *reader.X264, *start[6:], path)
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - cut])
    by_index = VideoSource(path).survey
    monkeypatch.setattr("sr_deploy.video.survey.sample_tables", lambda _file: {})
    by_packets = VideoSource(path).survey
    assert (by_index.begin, by_index.start, by_index.faults) == (by_packets.begin, by_packets.start, by_packets.faults)
    assert by_index.packets.keys() == by_packets.packets.keys() == {0, 1}
    assert bool(by_index.faults) == bool(cut)


def test_a_picture_without_a_time_is_not_one_that_is_lost(stream: Path) -> None:
    data = bytearray(stream.read_bytes())
    begin = 188 * picture_packets(stream, 9)[0]
    flags = data.index(b"\0\0\1\xe0", begin) + 7
    assert data[flags] & 0x80
    data[flags] &= 0x3F  # its times are stuffing then
    stream.write_bytes(data)
    count, error, notes = read(stream)
    assert (count, error) == (20, "")
    assert not [note for note in notes if "missing" in note]


def test_a_picture_lost_behind_a_place_where_times_start_anew(stream: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.ts"
    path.write_bytes(stream.read_bytes() * 2)
    assert read(path)[:2] == (40, "")
    lost = picture_packets(stream, 9)
    path.write_bytes(stream.read_bytes() + without_packets(stream, *lost).read_bytes())
    count, error, _ = read(path)
    assert count == 29 and "1 picture is missing there" in error
    count, error, notes = read(path, on_damage="skip")
    assert (count, error) == (39, "") and any("is missing there" in note for note in notes)


def test_what_ffmpeg_says_of_the_first_packets_is_heard(tmp_path: Path) -> None:
    """The first pictures belong to a track that there is not: the demuxer says so when it looks for what streams there are."""
    path = tmp_path / "film.mkv"
    reader.ffmpeg(*reader.pattern("48x32", 24, "12"), "-c:v", "ffv1", "-g", "1", "-cluster_time_limit", "400", path)
    data = bytearray(path.read_bytes())
    block = re.search(rb"\xa3[\x40-\x7f].\x81\0\0\x80", data, re.DOTALL)
    assert block
    place = block.start() + 3
    data[place] = 0x91
    path.write_bytes(data)
    count, error, _ = read(path)
    assert count == 0 and "is damaged at 0:00:00.000: FFmpeg says: Invalid track number 17" in error
    count, error, notes = read(path, on_damage="skip")
    assert 0 < count < 24 and not error and any("Invalid track number" in note for note in notes)


def test_pictures_before_the_first_keyframe_are_told(tmp_path: Path) -> None:
    path = tmp_path / "film.ts"
    reader.ffmpeg(*reader.pattern("48x32", 20, "12"), "-c:v", "libx264", "-bf", "0", "-g", "5", path)
    count, error, notes = read(without_packets(path, *picture_packets(path, 0)))
    assert (count, error) == (15, "")
    assert "It begins with 4 pictures before a keyframe: lost, nothing can decode them." in notes


def test_pictures_that_an_edit_list_hides_are_told(tmp_path: Path) -> None:
    reader.ffmpeg(*reader.pattern("48x32", 20, "10"), *reader.X264, "-g", "20", tmp_path / "film.mov")
    reader.ffmpeg("-ss", "0.5", "-i", tmp_path / "film.mov", "-c", "copy", tmp_path / "cut.mov")
    count, error, notes = read(tmp_path / "cut.mov")
    assert (count, error) == (len(reader.frames(tmp_path / "cut.mov")), "") == (15, "")
    assert "Its edit list hides 5 pictures: they are left out." in notes


def test_what_ffmpeg_says_behind_the_last_picture_is_heard(tmp_path: Path) -> None:
    """The last packet is gone, and a picture that is shown later is there."""
    path = tmp_path / "film.mkv"
    reader.ffmpeg(*reader.pattern("48x32", 12, "12"), *reader.X264, "-bf", "2", "-x264-params", "b-adapt=0", path)
    packets = reader.ffprobe(path, "-show_packets")["packets"]
    assert packets[-1]["pts"] < packets[-2]["pts"]
    data = bytearray(path.read_bytes())
    data[int(packets[-1]["pos"])] = 0
    path.write_bytes(data)
    assert "is damaged at" in read(path)[1]


def test_a_hole_between_pictures_that_follow_each_other_alike(tmp_path: Path) -> None:
    path = tmp_path / "film.ts"
    late = "setpts='if(gte(N,9),N+2,N)/(12*TB)'"
    reader.ffmpeg(*reader.pattern("48x32", 20, "12", late), "-fps_mode", "passthrough", "-c:v", "libx264", path)
    assert "2 pictures are missing there" in read(path)[1]
    vfr = tmp_path / "vfr.ts"
    late = "setpts='(N+mod(N*N,5)*0.13)/(12*TB)'"
    reader.ffmpeg(*reader.pattern("48x32", 20, "12", late), "-fps_mode", "passthrough", "-c:v", "libx264", vfr)
    assert read(vfr)[:2] == (20, "")


@pytest.mark.parametrize("which", [3, 10])
def test_a_block_that_is_no_longer_one(tmp_path: Path, which: int) -> None:
    """FFmpeg passes over elements that it does not know, and says nothing."""
    path = tmp_path / "film.mkv"
    reader.ffmpeg(*reader.pattern("48x32", 12, "12"), "-c:v", "ffv1", "-g", "1", path)
    assert read(path)[:2] == (12, "")
    data = bytearray(path.read_bytes())
    place = int(reader.ffprobe(path, "-show_packets")["packets"][which]["pos"])
    block = data.rindex(b"\xa3", place - 9, place)
    data[block] = 0x9F
    path.write_bytes(data)
    assert len(reader.frames(path)) == 11
    count, error, _ = read(path)
    assert count == which and f"what lies at byte {block} is nothing that Matroska has" in error


def test_what_matroska_may_hold_beside_pictures(tmp_path: Path) -> None:
    film = (*reader.pattern("48x32", 75), *reader.tone(seconds=3), "-c:v", "libx264", "-c:a", "mp3", "-f", "matroska")
    (tmp_path / "live.mkv").write_bytes(reader.ffmpeg(*film, "-"))
    reader.ffmpeg("-i", tmp_path / "live.mkv", "-c", "copy", "-reserve_index_space", "5000", tmp_path / "index.mkv")
    reader.ffmpeg(
        *reader.pattern("48x32", 25, "25", "format=yuva420p"), "-c:v", "libvpx", "-auto-alt-ref", "0", tmp_path / "alpha.webm"
    )
    for name, count in {"live.mkv": 75, "index.mkv": 75, "alpha.webm": 25}.items():
        assert read(tmp_path / name)[:2] == (count, "")


def test_two_holes_of_a_short_stream(tmp_path: Path) -> None:
    path = tmp_path / "film.ts"
    late = "setpts='(N+gte(N,2)+gte(N,3))/(12*TB)'"
    reader.ffmpeg(*reader.pattern("48x32", 10, "12", late), "-fps_mode", "passthrough", "-c:v", "libx264", path)
    assert "1 picture is missing there" in read(path)[1]


def test_a_small_picture_of_mpeg4_is_missed(tmp_path: Path) -> None:
    """With frame threads FFmpeg says nothing of a last packet that it cannot decode."""
    path = tmp_path / "film.avi"
    reader.ffmpeg("-f", "lavfi", "-i", "color=red:s=48x32:r=12:d=1", "-c:v", "mpeg4", "-g", "50", path)
    last = reader.ffprobe(path, "-show_packets")["packets"][-1]
    assert int(last["size"]) < 16
    data = bytearray(path.read_bytes())
    place = data.index(b"\0\0\1\xb6", int(last["pos"]))
    data[place + 1] = 7
    path.write_bytes(data)
    count, error, _ = read(path)
    assert count == 11 and "damaged" in error


def test_a_picture_whose_time_is_far_behind_the_end(tmp_path: Path) -> None:
    path = tmp_path / "film.mov"
    reader.ffmpeg(*reader.pattern("48x32", 12, "12"), "-c:v", "libx264", "-bf", "2", path)
    data = bytearray(path.read_bytes())
    offsets = data.index(b"ctts") + 12
    data[offsets + 8 * 3 + 4] = 1
    path.write_bytes(data)
    count, error, _ = read(path)
    assert count < 12 and "a picture would be shown at" in error


def test_a_length_that_is_none_is_not_believed(clips: Clips, tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    path.write_bytes(clips["cfr_mkv"].read_bytes().replace(b"00:00:0", b"00x00:0"))
    assert read(path)[:2] == read(clips["cfr_mkv"])[:2]


def test_a_packet_of_a_stream_that_pyav_does_not_know_is_passed_over() -> None:
    """As in a damaged transport stream, where PyAV fails at it and goes on behind it when it is asked again."""

    class Container:
        rest = iter([1, 2, None, 3])

        def demux(self, *_: object) -> Iterator[Any]:
            for packet in self.rest:
                if packet is None:
                    raise IndexError("list index out of range")
                yield packet

    assert list(packets_of(Container())) == [1, 2, 3]


def test_a_picture_of_an_avi_whose_length_became_none_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    reader.ffmpeg(*reader.pattern("48x32", 12, "12"), "-c:v", "mjpeg", path)
    whole = bytearray(path.read_bytes())
    place = [match.start() for match in re.finditer(b"00dc", bytes(whole))][5]
    whole[place + 4 : place + 8] = bytes(4)
    path.write_bytes(whole)
    assert len(reader.frames(path)) == 11
    assert "1 of the pictures that its index counts are not there" in read(path)[1]
