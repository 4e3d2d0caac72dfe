"""What would fail at the end of a run fails before its first frame, with the stream and the codec."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.errors import VideoError
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.output import Output
from sr_deploy.film.plan import VideoPlan
from sr_deploy.film.rehearsal import rehearse
from sr_deploy.film.run import upscale_video
from sr_deploy.video import join
from sr_deploy.video.input import input_of
from sr_deploy.video.streams import StreamPlan, plan_streams
from sr_deploy.video.survey import PacketSurvey
from tests.film.test_run import Nearest
from tests.video import clips as reader
from tests.video.clips import Clips
from tests.video.writing import fast_encoding, video_format

FAST = VideoOptions(preset="ultrafast")


def test_a_pixel_aspect_that_would_be_lost_is_told(tmp_path: Path) -> None:
    wide = video_format(sample_aspect=Fraction(32, 27))
    encoding = fast_encoding(wide, ".webm", "libvpx-vp9")
    output = Output(wide, encoding, StreamPlan("webm"), 10)
    plan = VideoPlan("-", tmp_path / "a.webm", FAST, wide, output, PacketSurvey(), {})
    plan.part.mkdir()
    with pytest.raises(VideoError, match=r"the pixel aspect is 1, expected 32/27; use \.mkv, or another --codec"):
        rehearse(plan, input_of(tmp_path / "a.gif"), 0, None)
    assert list(plan.part.iterdir()) == []


@pytest.mark.parametrize("name", ["anamorphic", "alpha"])
def test_no_frame_is_computed_for_what_cannot_be_written(clips: Clips, tmp_path: Path, name: str) -> None:
    source = clips[name]
    if name == "alpha":
        source = tmp_path / "wide.mkv"
        reader.ffmpeg(*reader.pattern(extra="setsar=32/27"), "-c:v", "libx264", "-pix_fmt", "yuv420p10le", source)
    nearest, target = Nearest(), tmp_path / "a.webm"
    with pytest.raises(VideoError, match="tried with one frame, and it would not be right: the pixel aspect"):
        upscale_video(source, target, nearest, options=VideoOptions(preset=None))
    assert nearest.seen == 0 and not target.exists() and not (tmp_path / "a.webm.part").exists()


@pytest.mark.parametrize("step", ["join", "check_result"])
def test_whatever_the_last_steps_refuse_is_refused_first(
    clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise VideoError("no")

    monkeypatch.setattr(f"sr_deploy.film.rehearsal.{step}", refuse)
    nearest = Nearest()
    with pytest.raises(VideoError, match="tried with one frame"):
        upscale_video(clips["cfr"], tmp_path / "a.mkv", nearest, options=FAST)
    assert nearest.seen == 0 and list(tmp_path.iterdir()) == []


def test_a_packet_that_is_refused_is_named(clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(copies: Any, packet: Any) -> Any:
        for moved in copy(copies, packet):
            moved.dts = None if moved.dts is None else -4096 * copies.counts[1]
            yield moved

    copy = join.Copies._copy
    monkeypatch.setattr(join.Copies, "_copy", late)
    with pytest.raises(VideoError, match=r"audio 1 \(aac, ...\) cannot be written \(Invalid argument\); use another container"):
        upscale_video(clips["cfr_sound"], tmp_path / "a.mp4", Nearest(), options=FAST)


def test_times_of_decoding_that_do_not_rise_are_moved(clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shaken(cut: Any, packet: Any, base: Fraction) -> None:
        move(cut, packet, base)
        if packet.dts is not None and packet.dts // 1024 % 7 == 3:
            packet.dts -= 3000

    move = join.Cut.move
    monkeypatch.setattr(join.Cut, "move", shaken)
    target = tmp_path / "a.mkv"
    summary = upscale_video(clips["cfr_sound"], target, Nearest(), options=FAST)
    assert any("packets of other streams were moved" in note for note in summary.notes)
    found = reader.ffprobe(target, "-show_packets", "-select_streams", "a", "-show_entries", "packet=dts")["packets"]
    times = [int(packet["dts"]) for packet in found]
    assert times == sorted(times)


def test_a_sound_that_comes_late_is_tried_too(tmp_path: Path) -> None:
    source = tmp_path / "late.mkv"
    tone = ("-itsoffset", "12", *reader.tone(seconds=0.5))
    reader.ffmpeg(*reader.pattern("32x32", count=330), *tone, *reader.X264, "-c:a", "pcm_s16le", source)
    plan = plan_streams(input_of(source), ".mp4", video_format(), fast_encoding(video_format(), ".mp4"))
    assert "audio 1 (pcm_s16le" in str(plan.problems) or plan.copied[0].codec == "pcm_s16le"
    target = tmp_path / "large.mkv"
    assert upscale_video(source, target, Nearest(), options=FAST).frames == 330
    assert reader.stream_hashes(target, "0:a") == reader.stream_hashes(source, "0:a")
