"""How a run of `upscale` is told: progress and errors on stderr, the paths that were written on stdout."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

import click

from sr_deploy.batch.folder import Observer, Outcome, Summary
from sr_deploy.batch.naming import Failure, Job, Plan
from sr_deploy.cli.output import to_json
from sr_deploy.cli.pace import FilmPace, Pace
from sr_deploy.pipeline import Timing
from sr_deploy.video.names import PIPE
from sr_deploy.video.observer import VideoProgress, VideoStart, VideoSummary

SECONDS_BETWEEN_TILE_LINES = 5.0
SECONDS_BETWEEN_TILE_EVENTS = 0.5
SECONDS_BETWEEN_FRAME_EVENTS = 1.0
SECONDS_BETWEEN_FRAME_REDRAWS = 0.1

Advice = Callable[[Plan], Iterable[str]]


class Report(Observer):
    """Tells errors, notes and written paths, and no progress.

    paths: whether stdout gets the paths. advice: what the user should know about a plan, a note each.
    """

    def __init__(self, *, paths: bool = True, verbose: bool = False, advice: Advice = lambda _: ()) -> None:
        self._paths = paths
        self._verbose = verbose
        self._advice = advice
        self._pace = Pace(())
        self._film = FilmPace()
        self._told: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def planned(self, plan: Plan) -> None:
        self._pace = Pace(sorted(plan.jobs, key=lambda job: job.video))
        for failure in plan.failures:
            self.failed(failure)
        for path, note in plan.notes:
            self.say(f"note: {path}: {note}")
        for line in self._advice(plan):
            self.say(f"note: {line}")

    def tiles(self, job: Job, done: int, total: int) -> None:
        with self._lock:
            self._pace.tiles(job, done, total)

    def video(self, job: Job, start: VideoStart) -> None:
        self._film = FilmPace(start)
        self._told = start.notes
        for note in start.notes:
            self.say(f"note: {job.source}: {note}")
        if start.resumed:
            self.say(f"{job.source}: {start.resumed} frames are done already, going on from there")

    def frames(self, job: Job, progress: VideoProgress) -> None:
        with self._lock:
            self._film.advance(progress)
            self._pace.advance(job, self._film.fraction)

    def finished(self, outcome: Outcome) -> None:
        with self._lock:
            self._pace.finish(outcome)
        for note in outcome.notes:
            if note not in self._told:
                self.say(f"note: {outcome.job.source}: {note}")
        self._told = ()
        if outcome.failure:
            self.failed(outcome.failure)
        elif outcome.status == "skipped":
            self.say(f"skipped: {outcome.job.target} exists already; --overwrite makes it again")
        elif self._paths and outcome.job.target != PIPE:
            self.print_path(str(outcome.job.target))

    def failed(self, failure: Failure) -> None:
        if self._verbose and failure.details:
            self.say(failure.details.rstrip())
        hint = "; run again with -v for the whole story" if failure.details and not self._verbose else ""
        self.say(f"error: {failure}{hint}")

    def say(self, text: str) -> None:
        click.echo(text, err=True)

    def print_path(self, text: str) -> None:
        click.echo(text)

    def summarize(self, summary: Summary) -> None:
        """Tell how the run went."""

    def profile(self, timing: Timing) -> None:
        """Tell where the time went."""
        self.say(f"profile: {shares(timing)}")

    def close(self) -> None:
        """Leave the terminal clean."""


class LineReport(Report):
    """One line per picture, and one now and then inside a large one: for logs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._last = time.monotonic()

    def tiles(self, job: Job, done: int, total: int) -> None:
        super().tiles(job, done, total)
        now = time.monotonic()
        if done < total and now - self._last >= SECONDS_BETWEEN_TILE_LINES:
            self._last = now
            self.say(f"{self._pace.position(job)} {job.source}: tile {done} of {total}{self._pace.left}")

    def frames(self, job: Job, progress: VideoProgress) -> None:
        super().frames(job, progress)
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_TILE_LINES:
            self._last = now
            self.say(f"{self._pace.position(job)} {job.source}: {self._film}")

    def finished(self, outcome: Outcome) -> None:
        super().finished(outcome)
        self._last = time.monotonic()
        if outcome.status == "done":
            job, seconds = outcome.job, outcome.seconds
            self.say(f"{self._pace.position(job)} {job.source} -> {job.target}, {seconds:.2f} s{self._pace.left}")
        if outcome.video and outcome.status == "done":
            self.say(video_line(outcome.video))

    def summarize(self, summary: Summary) -> None:
        self.say(summary_line(summary))


class BarReport(Report):
    """A bar on the terminal, the last line below what is printed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        from tqdm import tqdm

        self._bar = tqdm(
            total=1.0,
            file=sys.stderr,
            leave=False,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}{postfix}",
            **_width(),
        )
        self._drawn = 0.0

    def planned(self, plan: Plan) -> None:
        super().planned(plan)
        self._show()

    def tiles(self, job: Job, done: int, total: int) -> None:
        super().tiles(job, done, total)
        self._show(f"{self._pace.position(job)} {job.source.name[:40]}")

    def frames(self, job: Job, progress: VideoProgress) -> None:
        super().frames(job, progress)
        now = time.monotonic()
        if now - self._drawn >= SECONDS_BETWEEN_FRAME_REDRAWS:
            self._drawn = now
            self._show(f"{self._pace.position(job)} {job.source.name[:24]}", after=str(self._film))

    def finished(self, outcome: Outcome) -> None:
        super().finished(outcome)
        if outcome.video and outcome.status == "done":
            self.say(video_line(outcome.video))
        self._show()

    def say(self, text: str) -> None:
        self._above_the_bar(text, err=True)

    def print_path(self, text: str) -> None:
        self._above_the_bar(text, err=False)

    def summarize(self, summary: Summary) -> None:
        self.say(summary_line(summary))

    def close(self) -> None:
        self._bar.close()

    def _show(self, where: str | None = None, after: str | None = None) -> None:
        with self._lock:
            self._bar.n = self._pace.fraction
            if where is not None:
                self._bar.set_description_str(where, refresh=False)
            self._bar.set_postfix_str(after or self._pace.left.removeprefix(", "), refresh=False)
            self._bar.refresh()

    def _above_the_bar(self, text: str, *, err: bool) -> None:
        with self._lock:
            self._bar.clear()
            sys.stderr.flush()
            click.echo(text, err=err)
            self._bar.refresh()


def _width() -> dict[str, Any]:
    """Follow the terminal's width; some terminals, in containers above all, say that it is 0."""
    try:
        known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        known = False
    return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}


class JsonReport(Report):
    """One JSON object per line on stderr, an event each: plan, tiles, video, frames, file, error, note, profile, end."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._last = 0.0

    def planned(self, plan: Plan) -> None:
        self._event("plan", files=len(plan.jobs))
        super().planned(plan)

    def tiles(self, job: Job, done: int, total: int) -> None:
        super().tiles(job, done, total)
        now = time.monotonic()
        if done == total or now - self._last >= SECONDS_BETWEEN_TILE_EVENTS:
            self._last = now
            self._event("tiles", file=str(job.source), done=done, total=total, seconds_left=self._pace.seconds_left)

    def video(self, job: Job, start: VideoStart) -> None:
        self._film = FilmPace(start)
        self._event(
            "video",
            file=str(job.source),
            output=str(job.target),
            frames=start.frames,
            resumed=start.resumed,
            width=start.out.width,
            height=start.out.height,
            codec=start.encoding.codec if start.encoding else None,
            notes=start.notes,
        )

    def frames(self, job: Job, progress: VideoProgress) -> None:
        super().frames(job, progress)
        now, film = time.monotonic(), self._film
        if film.is_complete or now - self._last >= SECONDS_BETWEEN_FRAME_EVENTS:
            self._last = now
            self._event(
                "frames",
                file=str(job.source),
                done=film.done,
                total=film.total,
                fps=film.fps,
                bitrate=film.bitrate,
                seconds_left=film.seconds_left,
            )

    def finished(self, outcome: Outcome) -> None:
        with self._lock:
            self._pace.finish(outcome)
        self._event(
            "file",
            file=str(outcome.job.source),
            output=str(outcome.job.target),
            status=outcome.status,
            notes=outcome.notes,
            message=outcome.failure.message if outcome.failure else None,
            seconds=round(outcome.seconds, 3),
            finished=self._pace.done,
            files=self._pace.total,
            seconds_left=self._pace.seconds_left,
            video=video_facts(outcome.video) if outcome.video else None,
        )
        if self._paths and outcome.status == "done" and outcome.job.target != PIPE:
            self.print_path(str(outcome.job.target))

    def failed(self, failure: Failure) -> None:
        self._event("error", file=str(failure.path), message=failure.message)

    def say(self, text: str) -> None:
        self._event("note", message=text.removeprefix("note: "))

    def summarize(self, summary: Summary) -> None:
        self._event(
            "end",
            done=len(summary.done),
            skipped=len(summary.skipped),
            failed=len(summary.failed),
            seconds=round(summary.seconds, 3),
        )

    def profile(self, timing: Timing) -> None:
        self._event("profile", **asdict(timing), bottleneck=timing.bottleneck)

    def _event(self, kind: str, **facts: Any) -> None:
        click.echo(to_json({"event": kind, **facts}), err=True)


def video_facts(video: VideoSummary) -> dict[str, Any]:
    """What JSON tells of a finished video beside its paths and notes."""
    return {name: getattr(video, name) for name in ("frames", "resumed", "bytes", "seconds", "timing", "reuse", "stats")}


def shares(timing: Timing) -> str:
    """What share of the time each stage was busy; they overlap, so that the shares may add up to more than one."""
    wall = max(timing.wall, 1e-9)
    stages = {"reading": timing.read, "upscaling": timing.work, "writing": timing.write}
    slowest = {"read": "reading", "work": "upscaling", "write": "writing"}[timing.bottleneck]
    told = ", ".join(f"{name} {seconds / wall:.0%}" for name, seconds in stages.items())
    return f"{told} of {timing.wall:.1f} s; {slowest} is the bottleneck"


def video_line(video: VideoSummary) -> str:
    """A finished video in one line."""
    timing, stats, reuse = video.timing, video.stats, video.reuse
    resumed = f" ({video.resumed} of them from an earlier run)" if video.resumed else ""
    line = f"{video.frames} frames{resumed}, {timing.items / max(timing.wall, 1e-9):.3g} fps, {video.bytes / 1e6:.1f} MB: "
    line += shares(timing)
    if reuse and reuse.tiles_reused:
        share = reuse.tiles_reused / (reuse.tiles_computed + reuse.tiles_reused)
        line += f"; {share:.0%} of the tiles reused, about {reuse.saved:.1f} s saved"
    return f"{line}; {stats.trouble}" if stats.trouble else line


def summary_line(summary: Summary) -> str:
    """The run in one line."""
    counts = {"done": summary.done, "skipped": summary.skipped, "failed": summary.failed}
    parts = [f"{len(paths)} {name}" for name, paths in counts.items() if paths or name == "done"]
    line = f"{', '.join(parts)} in {summary.seconds:.1f} s"
    if summary.timing.items > 1 and summary.done:
        timing = summary.timing
        line += f" (reading {timing.read:.1f} s, upscaling {timing.work:.1f} s, writing {timing.write:.1f} s)"
    return f"{line}; {summary.stats.trouble}" if summary.stats.trouble else line


def make_report(kind: str | None, **options: Any) -> Report:
    """The report of that kind, with the options of `Report`; by default a bar on a terminal, lines elsewhere."""
    if kind is None:
        kind = "bar" if sys.stderr.isatty() else "line"
    return {"bar": BarReport, "line": LineReport, "json": JsonReport, "none": Report}[kind](**options)


@contextlib.contextmanager
def warnings_as_notes(report: Report) -> Iterator[None]:
    """Inside the block, what the library logs, such as that it builds an engine now, becomes notes of the report."""
    logger, handler = logging.getLogger("sr_deploy"), _Notes(report)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Notes(logging.Handler):
    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report.say(f"note: {record.getMessage()}")
