from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy import Upscaler
from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.card import GraphCard, ModelCard
from sr_deploy.errors import CancelledError, UsageError, VideoError
from sr_deploy.film import output
from sr_deploy.film.observer import VideoObserver, VideoProgress, VideoStart
from sr_deploy.film.options import VideoOptions, parse_rate, parse_time
from sr_deploy.film.run import upscale_video, upscaled_frames
from sr_deploy.pictures.image import Picture, read_image, write_image
from sr_deploy.pictures.size import TargetSize
from tests.graphs import image_graph, save
from tests.video.clips import (
    Clips,
    chapters,
    decode,
    ffprobe,
    frame_hashes,
    frames,
    pts_of,
    stream_hashes,
    streams,
    times_of,
    video_stream,
)

Pixels = NDArray[Any]
FAST = {"preset": "ultrafast", "segment_frames": 5}


@dataclass
class Nearest:
    """Doubles every pixel; `before` may raise or wait; `seen` counts the frames."""

    before: Callable[[int], object] = lambda _: None
    scale: int = 2
    seen: int = 0

    def __call__(self, image: Pixels) -> Pixels:
        self.before(self.seen)
        self.seen += 1
        return image.repeat(2, 0).repeat(2, 1)


@dataclass
class Recorder(VideoObserver):
    starts: list[VideoStart] = field(default_factory=list)
    ticks: list[VideoProgress] = field(default_factory=list)

    def started(self, start: VideoStart) -> None:
        self.starts.append(start)

    def written(self, progress: VideoProgress) -> None:
        self.ticks.append(progress)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    pools = "ThreadPoolExecutor"  # of the packages that compute, and as old as they are
    assert {thread for thread in threading.enumerate() if not thread.name.startswith(pools)} <= before


def options(**changes: Any) -> VideoOptions:
    return VideoOptions(**FAST | changes)


def stopped_at(number: int) -> Nearest:
    """An upscaler whose process dies, as it were, at that frame."""

    def die(seen: int) -> None:
        if seen == number:
            raise KeyboardInterrupt

    return Nearest(die)


@pytest.mark.parametrize("name", ["cfr_mkv", "vfr", "offset", "hdr10", "rotated", "anamorphic", "odd", "yuv444"])
def test_every_frame_at_its_time(clips: Clips, tmp_path: Path, name: str) -> None:
    source, target = clips[name], tmp_path / "é 漢字 [x] 'q'.mkv"
    watch = Recorder()
    summary = upscale_video(source, target, Nearest(), options=options(), observer=watch)
    ticks = Fraction(1, 1000)
    begin = Fraction(ffprobe(source, "-show_format")["format"]["start_time"])
    assert [round(when / ticks) for when in times_of(target)] == [round((when - begin) / ticks) for when in times_of(source)]
    count = len(frames(source))
    assert (summary.status, summary.target, summary.frames, summary.resumed) == ("done", target, count, 0)
    assert (summary.timing.items, summary.bytes) == (count, target.stat().st_size)
    assert [tick.frames for tick in watch.ticks] == list(range(1, count + 1))
    small, large = video_stream(source), video_stream(target)
    assert (large["width"], large["height"]) == (2 * small["width"], 2 * small["height"])
    assert list(tmp_path.iterdir()) == [target]


def test_all_streams_come_along(clips: Clips, tmp_path: Path) -> None:
    source, target = clips["rich"], tmp_path / "out.mkv"
    upscale_video(source, target, Nearest(), options=options(segment_frames=20))
    kinds = [stream["codec_type"] for stream in streams(target)]
    assert kinds == [stream["codec_type"] for stream in streams(source)]
    assert len(chapters(target)) == len(chapters(source))
    ours, theirs = stream_hashes(target), stream_hashes(source)
    assert {index for index in ours if ours[index] != theirs[index]} == {0}


def test_the_joined_video_does_not_depend_on_where_segments_end(clips: Clips, tmp_path: Path) -> None:
    """FFV1 keeps pixels: any segment length gives the same frames, and those are the doubled frames of the source."""
    source = clips["yuv444"]
    hashes = []
    for length in (1, 7, 1000):
        target = tmp_path / f"{length}.mkv"
        upscale_video(source, target, Nearest(), options=VideoOptions(codec="ffv1", segment_frames=length))
        hashes.append(frame_hashes(target))
    assert hashes[0] == hashes[1] == hashes[2]
    small, large = decode(source), decode(tmp_path / "7.mkv")
    assert np.abs(large[:, ::2, ::2].astype(int) - small).mean() < 2


@pytest.mark.parametrize("stop", [0, 3, 5, 12, 23])
def test_a_run_goes_on_where_it_stopped(clips: Clips, tmp_path: Path, stop: int) -> None:
    source, whole, target = clips["vfr"], tmp_path / "whole.mkv", tmp_path / "target.mkv"
    upscale_video(source, whole, Nearest(), options=options())
    with pytest.raises(KeyboardInterrupt):
        upscale_video(source, target, stopped_at(stop), options=options())
    assert not target.exists()
    part = tmp_path / "target.mkv.part"
    assert not list(part.glob("*.part")) and part.exists() == bool(list(part.glob("0*.nut")))
    for segment in part.glob("0*.nut"):
        assert len(frames(segment)) == 5, "what is there is playable"
    watch, again = Recorder(), Nearest()
    summary = upscale_video(source, target, again, options=options(), observer=watch)
    finished = watch.starts[0].resumed
    # Frames that were queued behind the writer when the run stopped are computed again, with their segment.
    assert stop - 10 <= finished <= stop and finished % 5 == 0
    assert (summary.resumed, again.seen) == (finished, 24 - finished)
    assert frame_hashes(target) == frame_hashes(whole)
    assert pts_of(target) == pts_of(whole)
    assert not part.exists()


@pytest.mark.parametrize("name", ["interlaced", "odd", "offset_ts", "edit_list", "apng"])
def test_every_kind_of_source_goes_on_in_its_middle(clips: Clips, tmp_path: Path, name: str) -> None:
    whole, target = tmp_path / "whole.mkv", tmp_path / "target.mkv"
    count = upscale_video(clips[name], whole, Nearest(), options=options(segment_frames=3)).frames
    with pytest.raises(KeyboardInterrupt):
        upscale_video(clips[name], target, stopped_at(count - 1), options=options(segment_frames=3))
    assert upscale_video(clips[name], target, Nearest(), options=options(segment_frames=3)).resumed > 0
    assert frame_hashes(target) == frame_hashes(whole)
    assert pts_of(target) == pts_of(whole)


def test_a_segment_that_was_damaged_is_made_again(clips: Clips, tmp_path: Path) -> None:
    source, whole, target = clips["vfr"], tmp_path / "whole.mkv", tmp_path / "target.mkv"
    upscale_video(source, whole, Nearest(), options=options())
    with pytest.raises(KeyboardInterrupt):
        upscale_video(source, target, stopped_at(23), options=options())
    (second,) = (tmp_path / "target.mkv.part").glob("000001.nut")
    second.write_bytes(second.read_bytes()[:-1])
    again = Nearest()
    summary = upscale_video(source, target, again, options=options())
    assert again.seen == 24 - summary.resumed and summary.resumed % 5 == 0
    assert frame_hashes(target) == frame_hashes(whole)


def test_another_run_is_noticed(clips: Clips, tmp_path: Path) -> None:
    source, target = clips["cfr_mkv"], tmp_path / "target.mkv"
    with pytest.raises(KeyboardInterrupt):
        upscale_video(source, target, stopped_at(20), options=options())
    with pytest.raises(UsageError, match=r"encoding was .*crf 17.*now .*crf 30.*--overwrite to start anew"):
        upscale_video(source, target, Nearest(), options=options(crf=30))
    with pytest.raises(UsageError, match="size was"):
        upscale_video(source, target, Nearest(), options=options(size=TargetSize.parse("3")))
    with pytest.raises(UsageError, match="source was"):
        upscale_video(clips["vfr"], target, Nearest(), options=options())
    with pytest.raises(UsageError, match="network was function Nearest"):
        upscale_video(source, target, lambda_upscaler(), options=options())
    assert upscale_video(source, target, Nearest(), options=options(crf=30, overwrite=True)).resumed == 0


def lambda_upscaler() -> Any:
    class Other(Nearest):
        pass

    return Other()


def test_not_to_resume(clips: Clips, tmp_path: Path) -> None:
    source, target = clips["cfr_mkv"], tmp_path / "target.mkv"
    with pytest.raises(KeyboardInterrupt):
        upscale_video(source, target, stopped_at(20), options=options())
    assert upscale_video(source, target, Nearest(), options=options(resume=False)).resumed == 0


def test_what_exists_is_skipped_unless_overwritten(clips: Clips, tmp_path: Path) -> None:
    target = tmp_path / "target.mkv"
    target.write_bytes(b"old")
    assert upscale_video(clips["vfr"], target, Nearest(), options=options()).status == "skipped"
    assert target.read_bytes() == b"old"
    assert upscale_video(clips["vfr"], target, Nearest(), options=options(overwrite=True)).status == "done"
    assert len(frames(target)) == 24


def test_the_source_is_never_overwritten(clips: Clips, tmp_path: Path) -> None:
    source = tmp_path / "film.mkv"
    source.write_bytes(clips["vfr"].read_bytes())
    (tmp_path / "link.mkv").symlink_to(source)
    with pytest.raises(UsageError, match="would overwrite its own source"):
        upscale_video(source, tmp_path / "link.mkv", Nearest(), options=options(overwrite=True))


def test_two_runs_at_once(clips: Clips, tmp_path: Path) -> None:
    target = tmp_path / "target.mkv"
    caught: list[BaseException] = []

    def second(number: int) -> None:
        if number == 3:
            try:
                upscale_video(clips["vfr"], target, Nearest(), options=options())
            except VideoError as exc:
                caught.append(exc)

    upscale_video(clips["vfr"], target, Nearest(second), options=options())
    assert "another process is at work" in str(caught[0])
    assert len(frames(target)) == 24


def test_a_part_of_a_video(clips: Clips, tmp_path: Path) -> None:
    source, target = clips["cfr_mkv"], tmp_path / "target.mkv"
    start, until = times_of(source)[10], times_of(source)[20]
    upscale_video(source, target, Nearest(), options=options(start=start, until=until, codec="ffv1", preset=None))
    assert len(frames(target)) == 10
    assert times_of(target)[0] == 0
    whole = tmp_path / "whole.mkv"
    upscale_video(source, whole, Nearest(), options=options(codec="ffv1", preset=None))
    assert frame_hashes(target) == frame_hashes(whole)[10:20]
    with pytest.raises(VideoError, match="gives no frame"):
        upscale_video(source, tmp_path / "none.mkv", Nearest(), options=options(start=Fraction(900)))


@pytest.mark.parametrize(
    ("name", "size", "expected"), [("cfr_mkv", "3", 3.0), ("cfr_mkv", "long=120", 1.25), ("rotated", "short=90", None)]
)
def test_another_size(clips: Clips, tmp_path: Path, name: str, size: str, expected: float | None) -> None:
    target = tmp_path / "target.mkv"
    upscale_video(clips[name], target, Nearest(), options=options(size=TargetSize.parse(size)))
    small, large = video_stream(clips[name]), video_stream(target)
    assert large["width"] % 2 == large["height"] % 2 == 0
    if expected is not None:
        assert large["width"] == round(small["width"] * expected / 2) * 2
    else:
        assert min(large["width"], large["height"]) == 90


def test_what_a_container_cannot_hold_is_told_before_the_first_frame(clips: Clips, tmp_path: Path) -> None:
    nearest, target = Nearest(), tmp_path / "target.mp4"
    with pytest.raises(UsageError, match=r"\.mkv"):
        upscale_video(clips["rich"], target, nearest, options=options())
    assert (nearest.seen, list(tmp_path.iterdir())) == (0, [])
    summary = upscale_video(clips["rich"], target, nearest, options=options(drop_unsupported=True, segment_frames=30))
    assert any("cannot hold" in note for note in summary.notes)


def test_a_disk_without_room_is_told_before_the_first_frame(
    clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(amount: int) -> None:
        monkeypatch.setattr(output.shutil, "disk_usage", lambda _: type("Usage", (), {"free": amount}))

    nearest, target = Nearest(), tmp_path / "target.mkv"
    free(100)
    with pytest.raises(VideoError, match=r"0 MB are free.*free some space"):
        upscale_video(clips["cfr_mkv"], target, nearest, options=options())
    assert (nearest.seen, list(tmp_path.iterdir())) == (0, [])
    free(10000)
    assert any("are free" in note for note in upscale_video(clips["cfr_mkv"], target, nearest, options=options()).notes)


def test_cancelling_from_another_thread(clips: Clips, tmp_path: Path) -> None:
    target, cancel, reached = tmp_path / "target.mkv", threading.Event(), threading.Event()

    def wait(number: int) -> None:
        if number == 12:
            reached.set()
            cancel.wait(5)

    caught: list[BaseException] = []

    def work() -> None:
        try:
            upscale_video(clips["vfr"], target, Nearest(wait), options=options(), cancel=cancel)
        except CancelledError as exc:
            caught.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    assert reached.wait(5)
    cancel.set()
    thread.join(5)
    assert not thread.is_alive()
    assert "the same call goes on" in str(caught[0])
    assert not target.exists()
    assert upscale_video(clips["vfr"], target, Nearest(), options=options()).resumed >= 5


def test_frames_for_embedding(clips: Clips) -> None:
    large = list(upscaled_frames(clips["yuv444"], Nearest()))
    assert [frame.pts for frame in large] == pts_of(clips["yuv444"])
    small = decode(clips["yuv444"])
    assert large[7].pixels.shape == (2 * small.shape[1], 2 * small.shape[2], 3)
    assert np.abs(large[7].pixels[::2, ::2].astype(int) - small[7]).mean() < 2


def test_a_consumer_that_stops_closes_everything(clips: Clips) -> None:
    nearest = Nearest()
    generator = upscaled_frames(clips["vfr"], nearest)
    next(generator)
    generator.close()
    assert nearest.seen == 1
    cancel = threading.Event()
    generator = upscaled_frames(clips["vfr"], nearest, cancel=cancel)
    next(generator)
    cancel.set()
    with pytest.raises(CancelledError):
        next(generator)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    folder = tmp_path / "network"
    folder.mkdir()
    path = save(image_graph(scale=2), folder, "fp32.onnx")
    graphs = {"fp32": GraphCard(path.name, "fp32", sha256_of(path), 20)}
    card = ModelCard("network", "test", 2, 3, tiling="exact", halo=3, activation_bytes=100)
    Bundle(folder, card, graphs).write_card()
    return folder


def test_reuse_changes_no_pixel(clips: Clips, tmp_path: Path, network: Path) -> None:
    hashes = []
    with Upscaler(network, precision="fp32", tile=32) as upscaler:
        for reuse in (True, False):
            target = tmp_path / f"{reuse}.mkv"
            summary = upscale_video(
                clips["cfr_mkv"], target, upscaler, options=VideoOptions(codec="ffv1", segment_frames=9, reuse=reuse)
            )
            hashes.append(frame_hashes(target))
            assert summary.reuse is not None and summary.reuse.frames == len(hashes[0])
            assert summary.stats.tiles == summary.reuse.tiles_computed
    assert hashes[0] == hashes[1]
    assert summary.reuse.tiles_reused == 0


def test_reuse_starts_anew_with_each_segment(tmp_path: Path, network: Path) -> None:
    """Else a run that goes on at a segment would compute its frames in other tiles than the run that was stopped."""
    for number in range(12):
        write_image(tmp_path / f"still_{number:02}.png", Picture(np.full((40, 48, 3), 90, np.uint8)))
    with Upscaler(network, precision="fp32") as upscaler:
        chosen = VideoOptions(codec="ffv1", segment_frames=5, fps=Fraction(10))
        summary = upscale_video(tmp_path / "still_%02d.png", tmp_path / "large.mkv", upscaler, options=chosen)
    assert summary.reuse is not None
    assert (summary.reuse.frames, summary.reuse.frames_reused) == (12, 12 - 3)


def test_another_network_is_noticed(clips: Clips, tmp_path: Path, network: Path) -> None:
    target = tmp_path / "target.mkv"
    with pytest.raises(KeyboardInterrupt):
        upscale_video(clips["vfr"], target, stopped_at(12), options=options())
    with Upscaler(network, precision="fp32") as upscaler, pytest.raises(UsageError, match=r"network was function Nearest.*now"):
        upscale_video(clips["vfr"], target, upscaler, options=options())


def test_pictures_in_and_out(clips: Clips, tmp_path: Path) -> None:
    folder = clips["pictures"]
    summary = upscale_video(
        folder / "frame_%06d.png", tmp_path / "out.mkv", Nearest(), options=options(fps=Fraction(10), codec="ffv1", preset=None)
    )
    assert summary.frames == 6
    assert times_of(tmp_path / "out.mkv") == [Fraction(number, 10) for number in range(6)]
    pattern = tmp_path / "large" / "f_%03d.png"
    assert upscale_video(folder / "frame_%06d.png", pattern, Nearest()).frames == 6
    small, large = read_image(folder / "frame_000009.png").pixels, read_image(tmp_path / "large" / "f_003.png").pixels
    assert np.array_equal(large, small.repeat(2, 0).repeat(2, 1))
    assert upscale_video(folder / "frame_%06d.png", pattern, Nearest()).status == "skipped"


@pytest.mark.parametrize("name", ["gif", "apng", "webp"])
def test_animations(clips: Clips, tmp_path: Path, name: str) -> None:
    target = tmp_path / "target.mkv"
    summary = upscale_video(clips[name], target, Nearest(), options=options())
    assert summary.frames == len(frames(target)) == (6 if name == "webp" else 8)
    times = times_of(target)
    steps = {round(1000 * (after - before)) for before, after in pairwise(times)}
    assert steps == ({40} if name == "webp" else {90, 130})


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90.5s", Fraction(181, 2)), ("1:30", 90), ("0:01:30.25", Fraction(361, 4)), ("0", 0)]
)
def test_times(text: str, seconds: Fraction) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1:2:3:4", "soon", "1:", ".5.", "1h"])
def test_no_times(text: str) -> None:
    with pytest.raises(UsageError, match="not understood"):
        parse_time(text)


def test_rates() -> None:
    assert parse_rate("30000/1001") == Fraction(30000, 1001)
    assert parse_rate("23.976") == Fraction(2997, 125)
    for text in ("0", "-1", "x", "1/0", "5000"):
        with pytest.raises(UsageError, match="not understood"):
            parse_rate(text)


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="nothing lies between"):
        VideoOptions(start=Fraction(5), until=Fraction(5))
    with pytest.raises(UsageError, match="1 or more"):
        VideoOptions(segment_frames=0)


def test_memory_stays_flat(clips: Clips, tmp_path: Path) -> None:
    """Of 60 frames, never more than a handful are alive."""
    alive = most = 0

    def forget() -> None:
        nonlocal alive
        alive -= 1

    class Counting(Nearest):
        def __call__(self, image: Pixels) -> Pixels:
            nonlocal alive, most
            large = super().__call__(image)
            weakref.finalize(large, forget)
            alive += 1
            most = max(most, alive)
            return large

    assert upscale_video(clips["cfr_mkv"], tmp_path / "a.mkv", Counting(), options=options(segment_frames=1000)).frames == 60
    assert most <= 5


def test_what_is_known_is_told_before_the_first_frame(clips: Clips, tmp_path: Path) -> None:
    watch = Recorder()
    changes = {"drop_unsupported": True, "pixel_format": "yuv420p"}
    upscale_video(clips["yuv444"], tmp_path / "a.mp4", Nearest(), options=options(**changes), observer=watch)
    assert any("color is written in fewer samples" in note for note in watch.starts[0].notes)


def test_stages_overlap(clips: Clips, tmp_path: Path) -> None:
    summary = upscale_video(clips["vfr"], tmp_path / "a.mkv", Nearest(lambda _: time.sleep(0.05)), options=options())
    assert summary.timing.bottleneck == "work" and summary.timing.work >= 24 * 0.05


@pytest.mark.parametrize("name", ["rotated_90.mov", "h265_10bit.mp4", "derived_vfr.mkv", "derived_interlaced_tff_h264.mp4"])
def test_published_clips(shared: Path, tmp_path: Path, name: str) -> None:
    source, target = shared / "videos" / name, tmp_path / "target.mkv"
    upscale_video(source, target, Nearest(), options=options(segment_frames=17))
    tolerance = Fraction(1, 2000)  # the clock of Matroska ticks in milliseconds
    pairs = zip(times_of(target), times_of(source), strict=True)
    assert all(abs(ours - theirs) <= tolerance for ours, theirs in pairs)
    small, large = video_stream(source), video_stream(target)
    for fact in ("pix_fmt", "color_space", "color_transfer", "color_primaries", "sample_aspect_ratio"):
        assert large.get(fact, "unknown") == small.get(fact, "unknown"), fact
    turns = [[side["rotation"] for side in stream.get("side_data_list", ()) if "rotation" in side] for stream in (small, large)]
    assert turns[0] == turns[1]
