from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from sr_deploy.cli.progress import Pace, summary_line
from sr_deploy.runtime.folder import Outcome, Summary
from sr_deploy.runtime.jobs import Failure, Job
from sr_deploy.runtime.pipeline import Timing

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
    done = Summary((Path("a"),), (), (), (), 1.26, Timing(1, 0.1, 1.0, 0.1, 1.26), tiles=1)
    assert summary_line(done) == "1 done in 1.3 s"
    failure = Failure(Path("b"), "no")
    much = Summary((Path("a"),) * 3, (Path("c"),), (failure,), (), 9.0, Timing(5, 1.0, 8.0, 2.0, 9.0), 12, 3, 1)
    assert summary_line(much) == (
        "3 done, 1 skipped, 1 failed in 9.0 s (reading 1.0 s, upscaling 8.0 s, writing 2.0 s); "
        "of 12 tiles 3 computed again in fp32, 1 replaced by bicubic"
    )
