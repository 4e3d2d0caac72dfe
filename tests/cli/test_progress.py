from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
from fractions import Fraction
from pathlib import Path

import pytest

from sr_deploy.batch.folder import Outcome, Summary
from sr_deploy.batch.jobs import Failure, Job
from sr_deploy.cli.progress import FilmPace, Pace, shares, summary_line, video_line, warnings_as_notes
from sr_deploy.cli.progress_json import JsonReport
from sr_deploy.film.observer import VideoProgress, VideoStart, VideoSummary
from sr_deploy.pipeline import Timing
from sr_deploy.upscaling.image_upscaler import Stats
from sr_deploy.upscaling.reuse import ReuseStats
from sr_deploy.video.frame import VideoFormat

JOBS = tuple(Job(Path(f"{index}.png"), Path(f"out/{index}.png")) for index in range(4))


@pytest.mark.parametrize("columns", [100, 0])
def test_a_bar_on_a_terminal(bundle: Path, pictures: list[Path], columns: int) -> None:
    """Everything of a terminal's session; a terminal of no width is taken for one of 80 columns."""
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    program = [sys.executable, "-c", "from sr_deploy.cli import main; main()"]
    process = subprocess.Popen([*program, "upscale", "in", "-m", bundle, "-o", "out"], stdout=inside, stderr=inside)
    os.close(inside)
    output = b""
    while True:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:
            break  # Linux says so when the other side is closed
        if not chunk:
            break
        output += chunk
    os.close(terminal)
    assert process.wait() == 0
    text = output.decode()
    assert "100% |██" in text
    lines = [line.split("\r")[-1] for line in text.split("\r\n")]
    assert [line for line in lines if line.startswith("out/")] == [f"out/{path.relative_to('in')}" for path in pictures]
    assert any(line.startswith("4 done in") for line in lines)


def test_what_is_told_while_a_picture_is_decoded_keeps_its_place() -> None:
    """Decoding takes what the decoders write to descriptor 2, and nothing of the bar."""
    told = """
import os, sys
from sr_deploy import cli
from sr_deploy.pictures.formats import decode
def program(prog_name):
    with decode._listening() as heard:
        print("bar é", file=sys.stderr, end="", flush=True)
        os.write(2, b"of a decoder ")
        os.write(1, b"path ")
    assert heard == b"of a decoder "
cli.program = program
cli.main()
"""
    command = [sys.executable, "-X", "utf8", "-c", told]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    assert result.stdout.decode() == "bar épath of a decoder "


@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-"])
def test_without_stderr_pictures_are_upscaled(bundle: Path, pictures: list[Path], closed: str) -> None:
    program = f"{sys.executable} -c 'from sr_deploy.cli import main; main()'"
    subprocess.run(["bash", "-c", f"{program} upscale in -m '{bundle}' -o out {closed}"], check=True)
    assert all((Path("out") / path.relative_to("in")).is_file() for path in pictures)


def test_the_pace_counts_pictures_where_the_upscaling_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    pace = Pace(JOBS)
    assert (pace.fraction, pace.seconds_left, pace.left) == (0.0, None, "")
    pace.finish(Outcome(JOBS[0], "skipped"))
    assert (pace.fraction, pace.seconds_left) == (0.25, None)
    now = 110.0
    pace.tiles(JOBS[1], 1, 2)
    assert (pace.position(JOBS[1]), pace.fraction, pace.seconds_left, pace.left) == ("[2/4]", 0.375, 50.0, ", 50 s left")
    now = 4000.0
    assert pace.left == ", 5 h 25 min left"
    now = 120.0
    pace.tiles(JOBS[2], 1, 2)
    pace.finish(Outcome(JOBS[1], "done"))
    assert (pace.fraction, pace.left) == (0.625, ", 20 s left")
    for job in JOBS[2:]:
        pace.tiles(job, 1, 1)
        pace.finish(Outcome(job, "done"))
    assert (pace.fraction, pace.left) == (1.0, "")
    assert (Pace(()).fraction, Pace(()).left) == (1.0, "")


def test_the_last_line() -> None:
    done = Summary((Path("a"),), (), (), (), 1.26, Timing(1, 0.1, 1.0, 0.1, 1.26), Stats(1))
    assert summary_line(done) == "1 done in 1.3 s"
    failure = Failure(Path("b"), "no")
    much = Summary((Path("a"),) * 3, (Path("c"),), (failure,), (), 9.0, Timing(5, 1.0, 8.0, 2.0, 9.0), Stats(12, 3, 1))
    assert summary_line(much) == (
        "3 done, 1 skipped, 1 failed in 9.0 s (reading 1.0 s, upscaling 8.0 s, writing 2.0 s); "
        "of 12 tiles 3 were not sane: 2 computed again in fp32, 1 bicubic"
    )


def film(frames: int | None, resumed: int = 0) -> FilmPace:
    out = VideoFormat(64, 64, "yuv420p", 8, Fraction(1, 25))
    return FilmPace(VideoStart(Path("a.mkv"), Path("b.mkv"), out, None, frames, resumed))


def test_the_pace_of_a_video_leaves_out_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    pace = film(1000, resumed=480)
    assert (pace.fraction, pace.fps, pace.seconds_left) == (0.48, 0.0, None)
    now = 110.0
    pace.advance(VideoProgress(500, 12.34e6))
    assert (pace.fraction, pace.fps, pace.seconds_left) == (0.5, 2.0, 250.0)
    assert str(pace) == "frame 500 of 1000, 2 fps, 12.3 Mbit/s, 4 min 10 s left"
    pace.advance(VideoProgress(1001, None))
    assert (pace.fraction, pace.seconds_left) == (1.0, None)
    unknown = film(None)
    now = 112.0
    unknown.advance(VideoProgress(10, None))
    assert str(unknown) == "frame 10, 5 fps"
    assert (unknown.fraction, unknown.is_complete) == (0.0, False)


def test_the_shares_of_the_stages() -> None:
    assert (
        shares(Timing(10, 1.0, 8.0, 2.0, 10.0))
        == "reading 10%, upscaling 80%, writing 20% of 10.0 s; upscaling is the bottleneck"
    )
    assert shares(Timing(0, 0.0, 0.0, 0.0, 0.0)).startswith("reading 0%")


def test_the_line_of_a_video() -> None:
    timing = Timing(20, 1.0, 8.0, 9.0, 10.0)
    reuse = ReuseStats(20, 5, 20, 60, 0.1, 12.5)
    video = VideoSummary(Path("a"), "done", 50, 30, 2_340_000, 11.0, timing, (), reuse, Stats(20, 2, 1))
    assert video_line(video) == (
        "50 frames (30 of them from an earlier run), 2 fps, 2.3 MB: "
        "reading 10%, upscaling 80%, writing 90% of 10.0 s; writing is the bottleneck; "
        "75% of the tiles reused, about 12.5 s saved; of 20 tiles 2 were not sane: 1 computed again in fp32, 1 bicubic"
    )


def test_warnings_of_the_library_are_notes(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("sr_deploy.engines")
    with warnings_as_notes(JsonReport()):
        logger.warning("building an engine of %s", "é")
        logger.info("nobody wants to know")
    assert json.loads(capsys.readouterr().err) == {"event": "note", "message": "building an engine of é"}
    assert logging.getLogger("sr_deploy").handlers == []
