"""A film made segment by segment, by anybody, in any order, is the film of one run."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.errors import CancelledError, UsageError, VideoError
from sr_deploy.film import decide
from sr_deploy.film.compute import compute_segment
from sr_deploy.film.decide import plan_video
from sr_deploy.film.finish import finish
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.plan import VideoPlan
from sr_deploy.film.run import upscale_video
from sr_deploy.film.times import frame_times
from sr_deploy.pictures.size import TargetSize
from sr_deploy.video.input import input_of
from sr_deploy.video.source import VideoSource
from tests import short_and_long
from tests.film.test_run import Nearest
from tests.video.clips import INTACT, Clips, ffmpeg, pts_of

FAST: dict[str, Any] = {"preset": "ultrafast", "segment_frames": 5}
FILMS = {
    "cfr_sound": (".mp4", {}),
    "vfr_mp4": (".mp4", {}),
    "rich": (".mkv", {}),
    "vfr": (".mkv", {"codec": "libx265"}),
    "hdr10": (".mkv", {}),
    "late_sound": (".mov", {"start": Fraction(1, 5), "until": Fraction(9, 10)}),
    "interlaced": (".mkv", {}),
    "gif": (".mp4", {"size": TargetSize.parse("short=90")}),
    "webp": (".mkv", {}),
}


def options(**changes: Any) -> VideoOptions:
    return VideoOptions(**FAST | changes)


@pytest.fixture
def plan(clips: Clips, tmp_path: Path) -> VideoPlan:
    return plan_video(clips["cfr_sound"], tmp_path / "film.mp4", Nearest(), options=options())


def computed(plan: VideoPlan) -> VideoPlan:
    for index in range(len(plan.segments)):
        compute_segment(plan, index, Nearest())
    return plan


@pytest.mark.parametrize("name", short_and_long(FILMS, list(FILMS)[:4]))
def test_segments_make_the_film_of_one_run(clips: Clips, tmp_path: Path, name: str) -> None:
    suffix, changes = FILMS[name]
    whole, target = tmp_path / f"whole{suffix}", tmp_path / f"é 漢字 [x] 'q'{suffix}"
    upscale_video(clips[name], whole, Nearest(), options=options(**changes))
    plan = plan_video(clips[name], target, Nearest(), options=options(**changes))
    read = VideoPlan.load(plan.part)
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert replace(read, target=plan.target) == plan
    assert read.target == target.absolute()
    for index in reversed(range(len(read.segments))):
        compute_segment(read, index, Nearest())
    summary = finish(read)
    assert summary.frames == plan.frames == sum(segment.frames for segment in plan.segments)
    assert target.read_bytes() == whole.read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted([whole, target])


def test_a_run_goes_on_with_what_segments_left_and_the_other_way_round(clips: Clips, tmp_path: Path) -> None:
    source, whole, target = clips["cfr_sound"], tmp_path / "whole.mp4", tmp_path / "film.mp4"
    upscale_video(source, whole, Nearest(), options=options())
    plan = plan_video(source, target, Nearest(), options=options())
    compute_segment(plan, 1, Nearest())
    summary = upscale_video(source, target, upscaler := Nearest(), options=options())
    assert (summary.resumed, upscaler.seen) == (5, plan.frames - 5)
    assert target.read_bytes() == whole.read_bytes()

    def die(seen: int) -> None:
        if seen == 8:
            raise KeyboardInterrupt

    target.unlink()
    with pytest.raises(KeyboardInterrupt):
        upscale_video(source, target, Nearest(die), options=options())
    plan, first = plan_video(source, target, Nearest(), options=options()), Nearest()
    compute_segment(plan, 0, first)
    assert first.seen == 0
    finish(computed(plan))
    assert target.read_bytes() == whole.read_bytes()


def test_what_is_missing_is_told(plan: VideoPlan) -> None:
    computed(plan)
    for index in (0, 2, 3):
        (plan.part / f"{index:06d}.nut").write_bytes(b"damaged")
    with pytest.raises(VideoError, match=r"3 of \d+ segments are missing or damaged: 0, 2-3; compute them"):
        finish(plan)
    assert not plan.target.exists()
    finish(computed(plan))
    assert plan.target.exists()
    assert finish(plan).status == "skipped"


def test_a_stopped_segment_leaves_nothing_and_is_made_again(plan: VideoPlan) -> None:
    def die(seen: int) -> None:
        if seen == 3:
            raise KeyboardInterrupt

    before = sorted(plan.part.iterdir())
    with pytest.raises(KeyboardInterrupt):
        compute_segment(plan, 1, Nearest(die))
    assert sorted(plan.part.iterdir()) == before


def test_a_process_that_would_make_others_is_refused_before_it_computes(
    plan: VideoPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscaler = Nearest()
    monkeypatch.setattr(decide, "__version__", "9.9")
    with pytest.raises(UsageError, match=r"this process would make other segments .*versions was .*now sr-deploy 9\.9") as told:
        compute_segment(plan, 0, upscaler)
    assert upscaler.seen == 0
    assert "\n" not in str(told.value)


def test_a_copy_of_the_source_elsewhere_will_do_and_another_film_not(plan: VideoPlan, clips: Clips, tmp_path: Path) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(Path(plan.source).read_bytes())
    compute_segment(plan, 0, Nearest(), source=str(copy))
    with pytest.raises(UsageError, match="source was bytes"):
        compute_segment(plan, 1, Nearest(), source=str(clips["vfr_mp4"]))


@pytest.mark.parametrize("index", [-1, 99])
def test_a_number_without_a_segment_is_refused(plan: VideoPlan, index: int) -> None:
    with pytest.raises(UsageError, match=f"segment {index}: there is none; the plan has {len(plan.segments)}, the first is 0"):
        compute_segment(plan, index, Nearest())


def test_what_is_no_plan_is_refused(tmp_path: Path, plan: VideoPlan) -> None:
    with pytest.raises(UsageError, match="no plan there"):
        VideoPlan.load(tmp_path / "nothing")
    path = plan.part / "plan.json"
    for text in ("{", "[]", '{"source": 3}', json.dumps(json.loads(path.read_text()) | {"more": 1})):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"plan\.json"):
            VideoPlan.load(plan.target)


def test_pipes_and_pictures_are_not_planned(clips: Clips, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use `upscale` for pipes"):
        plan_video("-", tmp_path / "film.mp4", Nearest())
    with pytest.raises(UsageError, match="use `upscale` for pipes"):
        plan_video(clips["cfr"], tmp_path / "frame_%03d.png", Nearest())


def test_a_plan_that_is_refused_leaves_nothing(clips: Clips, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="gives no frame"):
        plan_video(clips["cfr"], tmp_path / "film.mp4", Nearest(), options=options(start=Fraction(99)))
    assert not list(tmp_path.iterdir())


def test_segments_can_be_cancelled(plan: VideoPlan) -> None:
    import threading

    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CancelledError):
        compute_segment(plan, 0, Nearest(), cancel=cancel)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The times that were decoded."""
    times: list[int] = []
    plainly = VideoSource.times

    def seen(self: VideoSource) -> Iterator[int]:
        for pts in plainly(self):
            times.append(pts)
            yield pts

    monkeypatch.setattr(VideoSource, "times", seen)
    return times


@pytest.mark.parametrize("name", INTACT)
def test_times_are_those_that_ffprobe_decodes(clips: Clips, name: str) -> None:
    with decide.opened(input_of(clips[name]), VideoOptions(deinterlace="off")) as source:
        assert frame_times(source) == frame_times(source, decode_all=True)
        if name not in ("edit_list",):
            assert len(frame_times(source)) == len(pts_of(clips[name]))


def test_a_long_film_is_not_decoded_for_its_times(tmp_path: Path, decoded: list[int]) -> None:
    path = tmp_path / "long.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=size=32x32:rate=25:duration=20", "-c:v", "libx264", path)
    with decide.opened(input_of(path), VideoOptions()) as source:
        times = frame_times(source)
    assert (len(times), len(decoded)) == (500, 48)
    assert times == pts_of(path)


def test_frames_that_are_never_shown_are_no_frames(tmp_path: Path, decoded: list[int]) -> None:
    path = tmp_path / "hidden.webm"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25:duration=3", "-c:v", "libvpx", "-auto-alt-ref", "1", path)
    with decide.opened(input_of(path), VideoOptions()) as source:
        assert frame_times(source) == pts_of(path)
    assert len(decoded) == 75


def test_a_decoder_that_gives_less_than_was_planned_is_told(plan: VideoPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    plainly: Callable[..., Iterator[Any]] = VideoSource.frames
    monkeypatch.setattr(VideoSource, "frames", lambda self, after=None: (f for f in plainly(self, after) if f.pts % 2))
    with pytest.raises(VideoError, match=r"the plan says 5 from .*plan again with --decode-all"):
        compute_segment(plan, 1, Nearest())
