"""Faults in every stage, at the first, a middle and the last frame; a full disk; kill -9."""

from __future__ import annotations

import errno
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from sr_deploy.errors import VideoError
from sr_deploy.film import decide, finish, stages
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.run import upscale_video
from sr_deploy.video.frame import Frame
from tests.video.clips import Clips, ffmpeg, frame_hashes, frames, pts_of

COUNT = 24
PER_SEGMENT = 5
PATIENCE = 20.0
OPTIONS = VideoOptions(preset="ultrafast", segment_frames=PER_SEGMENT)
WHERE = pytest.mark.parametrize("number", [0, 12, COUNT - 1])


class BoomError(Exception):
    pass


class Nearest:
    scale = 2

    def __init__(self, step: Callable[[int], object] = lambda _: None) -> None:
        self._step = step
        self.seen = 0

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        self._step(self.seen)
        self.seen += 1
        return image.repeat(2, 0).repeat(2, 1)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target.mkv"


def boom_at(number: int, error: Exception | None = None) -> Callable[[int], None]:
    def step(seen: int) -> None:
        if seen == number:
            raise error or BoomError("boom")

    return step


def fails(source: Path, target: Path, upscaler: Nearest | None = None) -> BaseException:
    """What a run raises; a thread that is left would be found by the fixture above."""
    with pytest.raises((BoomError, VideoError)) as caught:
        upscale_video(source, target, upscaler or Nearest(), options=OPTIONS)
    assert not target.exists()
    assert "\n" not in str(caught.value)
    return caught.value


def goes_on(source: Path, target: Path, at_least: int = 0) -> None:
    """The same call continues, and the result is whole."""
    again = Nearest()
    summary = upscale_video(source, target, again, options=OPTIONS)
    assert summary.resumed >= at_least
    assert again.seen == COUNT - summary.resumed
    assert pts_of(target) == pts_of(source)
    assert not list(target.parent.glob("*.part"))


def kept(number: int) -> int:
    """How many frames are in finished segments when that frame fails, but for those that wait in queues."""
    return max(0, number - 6) // PER_SEGMENT * PER_SEGMENT


@WHERE
def test_the_reader_fails(clips: Clips, target: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    opened = decide.open_source

    class Failing:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._source = opened(*arguments, **options)

        def __enter__(self) -> Failing:
            return self

        def __exit__(self, *_: object) -> None:
            self._source.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._source, name)

        def frames(self, after: int | None = None) -> Iterator[Frame]:
            for seen, frame in enumerate(self._source.frames(after)):
                boom_at(number)(seen)
                yield frame

    monkeypatch.setattr(decide, "open_source", Failing)
    error = fails(clips["vfr"], target)
    assert f"frame {number}, reading" in error.__notes__
    monkeypatch.undo()
    goes_on(clips["vfr"], target, kept(number))


@WHERE
def test_the_upscaler_fails(clips: Clips, target: Path, number: int) -> None:
    error = fails(clips["vfr"], target, Nearest(boom_at(number)))
    assert isinstance(error, BoomError)
    assert f"frame {number}, upscaling" in error.__notes__
    goes_on(clips["vfr"], target, kept(number))


@WHERE
@pytest.mark.parametrize("error", [BoomError("boom"), OSError(errno.ENOSPC, "No space left on device")])
def test_the_writer_fails(clips: Clips, target: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: Exception) -> None:
    written = 0

    class Failing(stages.SegmentWriter):
        def write(self, frame: Frame) -> None:
            nonlocal written
            boom_at(number, error)(written)
            written += 1
            super().write(frame)

    monkeypatch.setattr(stages, "SegmentWriter", Failing)
    with pytest.raises(type(error)) as caught:
        upscale_video(clips["vfr"], target, Nearest(), options=OPTIONS)
    assert f"frame {number}, writing" in caught.value.__notes__
    assert not target.exists()
    part = target.with_name("target.mkv.part")
    assert len(list(part.glob("0*.nut"))) == number // PER_SEGMENT, "segments are kept, and nothing half-written"
    monkeypatch.undo()
    goes_on(clips["vfr"], target, number // PER_SEGMENT * PER_SEGMENT)


@pytest.mark.parametrize("broken", ["join", "check_result", "put_in_place"])
def test_the_last_steps_fail(clips: Clips, target: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise VideoError("the result is not what it should be")

    monkeypatch.setattr(finish, broken, fail)
    fails(clips["vfr"], target)
    assert len(list(target.with_name("target.mkv.part").glob("0*.nut"))) == 5
    monkeypatch.undo()
    goes_on(clips["vfr"], target, COUNT)


def test_a_target_that_cannot_be_made(clips: Clips, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    upscaler = Nearest()
    error = fails(clips["vfr"], tmp_path / "file" / "target.mkv", upscaler)
    assert "cannot be written (Not a directory)" in str(error)
    assert upscaler.seen == 0
    assert upscale_video(clips["vfr"], tmp_path / "new" / "folder" / "a.mkv", Nearest(), options=OPTIONS).frames == COUNT


def test_the_smallest_video(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=1x1:rate=25,trim=end_frame=1,format=yuv444p", "-c:v", "ffv1", tmp_path / "a.mkv")
    summary = upscale_video(tmp_path / "a.mkv", tmp_path / "b.mkv", Nearest(), options=OPTIONS)
    assert (summary.frames, len(frames(tmp_path / "b.mkv"))) == (1, 1)


def test_a_truncated_source_is_no_short_success(clips: Clips, target: Path) -> None:
    error = fails(clips["truncated"], target)
    assert isinstance(error, VideoError)
    assert str(clips["truncated"]) in str(error)
    assert list(target.with_name("target.mkv.part").glob("000000.nut"))


PROGRAM = """
import sys, time, os
from pathlib import Path
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.run import upscale_video
source, target, log, pause = sys.argv[1:]
class Slow:
    scale = 2
    def __call__(self, image):
        time.sleep(float(pause))
        with open(log, "a") as file:
            file.write("x")
        return image.repeat(2, 0).repeat(2, 1)
upscale_video(source, target, Slow(), options=VideoOptions(preset="ultrafast", segment_frames=6))
"""


def start(source: Path, target: Path, log: Path, pause: float, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(source), str(target), str(log), str(pause)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def test_kill_9_again_and_again(clips: Clips, tmp_path: Path) -> None:
    source, whole, target, log = clips["cfr_mkv"], tmp_path / "whole.mkv", tmp_path / "é 漢字 [x] 'q'.mkv", tmp_path / "log"
    with start(source, whole, log, 0) as process:
        assert process.wait(30) == 0
    total = log.stat().st_size
    log.unlink()
    chance = random.Random(4)
    for _ in range(5):
        log.touch()
        goal = log.stat().st_size + chance.randrange(4, 20)
        with start(source, target, log, 0.01) as process:
            while process.poll() is None and log.stat().st_size < goal:
                time.sleep(0.002)
            time.sleep(chance.random() * 0.02)
            process.kill()
    kills = 5
    with start(source, target, log, 0) as process:
        assert process.wait(30) == 0, process.stderr.read() if process.stderr else ""
    assert frame_hashes(target) == frame_hashes(whole)
    assert pts_of(target) == pts_of(whole)
    in_queues = 4
    assert log.stat().st_size - total <= kills * (6 + in_queues), "a kill costs one segment and what was in the queues"
    assert {path.name for path in tmp_path.iterdir()} == {whole.name, target.name, "log"}


def test_a_full_disk(clips: Clips, tmp_path: Path) -> None:
    """A limit of the system on the size of files refuses a write as a full disk does."""
    target = tmp_path / "target.mkv"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))

    with start(clips["cfr_mkv"], target, tmp_path / "log", 0, preexec_fn=limit) as process:
        _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "VideoError" in told and "cannot be written (File too large); free space" in told
    assert not target.exists()
    assert not list((tmp_path / "target.mkv.part").glob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_no_half_written_segment(clips: Clips, tmp_path: Path, number: int) -> None:
    target, log = tmp_path / "target.mkv", tmp_path / "log"
    log.touch()
    with start(clips["cfr_mkv"], target, log, 0.02) as process:
        while log.stat().st_size < 10:
            time.sleep(0.005)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    segments = sorted((tmp_path / "target.mkv.part").glob("0*.nut"))
    if number == signal.SIGINT:
        assert not list((tmp_path / "target.mkv.part").glob("*.part"))
    assert all(len(frames(path)) == 6 for path in segments)
    assert (tmp_path / "target.mkv.part" / "run.json").exists()
