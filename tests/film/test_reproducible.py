"""Equal bytes from equal inputs, whatever the machine; what a stop costs; what a failure leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest

from sr_deploy import Upscaler
from sr_deploy.errors import VideoError
from sr_deploy.film import identity
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.output import segment_frames
from sr_deploy.film.run import upscale_video
from sr_deploy.upscaling.image_upscaler import ImageUpscaler
from tests.film.test_run import Nearest, stopped_at
from tests.video.clips import Clips
from tests.video.writing import fast_encoding, video_format, write_segments

FAST = VideoOptions(preset="ultrafast", segment_frames=10)


@pytest.fixture
def _one_core() -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core cannot be less than there are")
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("all_cores", "_one_core")
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "libsvtav1"])
def test_encoders_write_the_same_on_any_number_of_cores(tmp_path: Path, codec: str) -> None:
    out = video_format(width=192, height=160)
    encoding = replace(fast_encoding(out, codec=codec), options=(*fast_encoding(out, codec=codec).options, ("g", "8")))
    written = []
    for cores in (os.sched_getaffinity(0), {min(os.sched_getaffinity(0))}):
        os.sched_setaffinity(0, cores)
        (segment,) = write_segments(tmp_path / str(len(cores)), out, encoding, [n * 3600 for n in range(20)], 20)
        written.append(segment.path.read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
def test_files_are_reproducible(clips: Clips, tmp_path: Path, suffix: str) -> None:
    made = [tmp_path / name / f"film{suffix}" for name in ("one", "two")]
    for target in made:
        target.parent.mkdir()
        upscale_video(clips["rich" if suffix == ".mkv" else "cfr_sound"], target, Nearest(), options=FAST)
    assert made[0].read_bytes() == made[1].read_bytes()


class Known(ImageUpscaler):
    """A network of which only the cost is known."""

    def __init__(self, macs: int, refine: int | None = None) -> None:
        masked = None if refine is None else SimpleNamespace(macs=refine)
        self.bundle: Any = SimpleNamespace(card=SimpleNamespace(macs=macs, masked=masked))


Known.__abstractmethods__ = frozenset()


def test_segments_are_about_a_minute_of_work() -> None:
    hd, small = video_format(width=1920, height=1080), video_format()
    assert segment_frames(Known(11412), hd) == 101
    assert segment_frames(Known(11412, refine=11412), hd) == 50
    assert (segment_frames(Known(11412), small), segment_frames(Known(10**7), hd), segment_frames(Nearest(), hd)) == (
        240,
        12,
        240,
    )


def test_what_a_stop_costs_is_told(clips: Clips, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as error:
        upscale_video(clips["cfr_mkv"], tmp_path / "a.mkv", stopped_at(27), options=FAST)
    (note,) = [note for note in error.value.__notes__ if "kept" in note]
    kept, again = (int(word) for word in note.split() if word.isdigit())
    assert note == f"{kept} frames are kept, {again} will be computed again"
    assert kept in (10, 20) and 0 <= again < 10 and kept + again <= 27


def test_a_failure_without_a_segment_leaves_nothing(clips: Clips, tmp_path: Path) -> None:
    source = tmp_path / "film.mkv"
    whole = clips["cfr_mkv"].read_bytes()
    source.write_bytes(whole[: len(whole) // 4])
    with pytest.raises(VideoError):
        upscale_video(source, tmp_path / "large.mkv", Nearest(), options=replace(FAST, segment_frames=240))
    assert list(tmp_path.iterdir()) == [source]
    source.write_bytes(whole)
    assert upscale_video(source, tmp_path / "large.mkv", Nearest(), options=FAST).frames == 60


def test_a_folder_of_a_killed_run_without_segments_binds_nobody(clips: Clips, tmp_path: Path) -> None:
    target = tmp_path / "large.mkv"
    with pytest.raises(KeyboardInterrupt):
        upscale_video(clips["cfr_mkv"], target, stopped_at(12), options=FAST)
    part = target.with_name("large.mkv.part")
    for sidecar in part.glob("0*.json"):
        sidecar.unlink()
    assert upscale_video(clips["cfr_mkv"], target, Nearest(), options=replace(FAST, crf=40)).resumed == 0


def test_other_instructions_are_another_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    with Upscaler("fast-x2") as upscaler:
        first = identity.network_identity(upscaler, video_format())
        monkeypatch.setattr(cv2, "checkHardwareSupport", lambda _: False)
        second = identity.network_identity(upscaler, video_format())
    assert {key for key in first if first[key] != second[key]} == {"runs"}
