"""How a run of `upscale` is told: progress and errors on stderr, the paths that were written on stdout."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.batch.folder import Observer, Outcome, Summary
from sr_deploy.pictures.image import PIPE

if TYPE_CHECKING:
    from sr_deploy.batch.jobs import Failure, Job, Plan
    from sr_deploy.film.observer import VideoProgress, VideoStart, VideoSummary
    from sr_deploy.pipeline import Timing

SECONDS_BETWEEN_TILE_LINES = 5.0

Advice = Callable[["Plan"], Iterable[str]]


class Pace:
    """How far a run is, and how long the rest will take at the pace so far; skipped pictures cost nothing.

    Pictures are upscaled ahead of the ones that are being written, so a run is where its upscaling is.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.total = len(jobs)
        self.done = 0
        self._indices = {job: index for index, job in enumerate(jobs)}
        self._reached = 0.0
        self._skipped = 0
        self._started = time.monotonic()

    def tiles(self, job: Job, done: int, total: int) -> None:
        self.advance(job, done / max(1, total))

    def advance(self, job: Job, share: float) -> None:
        """That share of a job is done."""
        self._reached = self._indices[job] + share

    def finish(self, outcome: Outcome) -> None:
        self.done += 1
        self._skipped += outcome.status == "skipped"
        self._reached = max(self._reached, self.done)

    def position(self, job: Job) -> str:
        return f"[{self._indices[job] + 1}/{self.total}]"

    @property
    def fraction(self) -> float:
        return min(1.0, self._reached / self.total) if self.total else 1.0

    @property
    def seconds_left(self) -> float | None:
        worked, left = self._reached - self._skipped, self.total - self._reached
        if worked <= 0 or left <= 0:
            return None
        return round((time.monotonic() - self._started) / worked * left, 1)

    @property
    def left(self) -> str:
        return _left(self.seconds_left)


class FilmPace:
    """How far one video is, and how fast; what an earlier run did counts as done and took no time."""

    def __init__(self, start: VideoStart | None = None) -> None:
        self.total = start.frames if start else None
        self.done = self._resumed = start.resumed if start else 0
        self.bitrate: float | None = None
        self._started = time.monotonic()

    def advance(self, progress: VideoProgress) -> None:
        self.done = progress.frames
        self.bitrate = progress.bitrate

    @property
    def is_complete(self) -> bool:
        return self.done == self.total

    @property
    def fraction(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def fps(self) -> float:
        seconds = time.monotonic() - self._started
        return round((self.done - self._resumed) / seconds, 3) if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        if not self.total or self.total <= self.done or not self.fps:
            return None
        return round((self.total - self.done) / self.fps, 1)

    def __str__(self) -> str:
        frames = f"frame {self.done} of {self.total}" if self.total else f"frame {self.done}"
        bitrate = f", {self.bitrate / 1e6:.1f} Mbit/s" if self.bitrate else ""
        return f"{frames}, {self.fps:.3g} fps{bitrate}{_left(self.seconds_left)}"


def duration(seconds: float) -> str:
    """In words: '3 h 05 min', '5 min 03 s', '4 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f", {duration(seconds)} left"


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
        self._noted: tuple[object, set[str]] = (None, set())
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
        for note in start.notes:
            self._note(job, note)
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
            self._note(outcome.job, note)
        if outcome.failure:
            self.failed(outcome.failure)
        elif outcome.status == "skipped":
            self.say(f"skipped: {outcome.job.target} exists already; --overwrite makes it again")
        elif self._paths and outcome.job.target != PIPE:
            self.print_path(str(outcome.job.target))

    def _note(self, job: Job, note: str) -> None:
        """Tell what is to be known of a source, each note once, also where several parts are made of it."""
        if self._noted[0] != job.source:
            self._noted = (job.source, set())
        if note not in self._noted[1]:
            self._noted[1].add(note)
            self.say(f"note: {job.source}: {note}")

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
    if kind == "bar":
        from sr_deploy.cli.progress_bar import BarReport

        return BarReport(**options)
    if kind == "json":
        from sr_deploy.cli.progress_json import JsonReport

        return JsonReport(**options)
    return LineReport(**options) if kind == "line" else Report(**options)


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
