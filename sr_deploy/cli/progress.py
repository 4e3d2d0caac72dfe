"""How a run of `upscale` is told: progress and errors on stderr, the paths that were written on stdout."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import click

from sr_deploy.runtime.folder import Observer, Outcome, Summary
from sr_deploy.runtime.jobs import Failure, Job, Plan

SECONDS_BETWEEN_TILE_LINES = 5.0
SECONDS_BETWEEN_TILE_EVENTS = 0.5


class Report(Observer):
    """Tells errors, notes and written paths, and no progress. `paths` says whether stdout gets the paths."""

    def __init__(self, *, paths: bool = True, verbose: bool = False) -> None:
        self._paths = paths
        self._verbose = verbose
        self._pace = Pace(())
        self._lock = threading.Lock()

    def planned(self, plan: Plan) -> None:
        self._pace = Pace(plan.jobs)
        for failure in plan.failures:
            self.failed(failure)
        for path, note in plan.notes:
            self.say(f"note: {path}: {note}")

    def tiles(self, job: Job, done: int, total: int) -> None:
        with self._lock:
            self._pace.tiles(job, done, total)

    def finished(self, outcome: Outcome) -> None:
        with self._lock:
            self._pace.finish(outcome)
        for note in outcome.notes:
            self.say(f"note: {outcome.job.source}: {note}")
        if outcome.failure:
            self.failed(outcome.failure)
        elif outcome.status == "skipped":
            self.say(f"skipped: {outcome.job.target} exists already; --overwrite makes it again")
        elif self._paths:
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

    def finished(self, outcome: Outcome) -> None:
        super().finished(outcome)
        self._last = time.monotonic()
        if outcome.status == "done":
            job, seconds = outcome.job, outcome.seconds
            self.say(f"{self._pace.position(job)} {job.source} -> {job.target}, {seconds:.2f} s{self._pace.left}")

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

    def planned(self, plan: Plan) -> None:
        super().planned(plan)
        self._show()

    def tiles(self, job: Job, done: int, total: int) -> None:
        super().tiles(job, done, total)
        self._show(f"{self._pace.position(job)} {job.source.name[:40]}")

    def finished(self, outcome: Outcome) -> None:
        super().finished(outcome)
        self._show()

    def say(self, text: str) -> None:
        self._above_the_bar(text, err=True)

    def print_path(self, text: str) -> None:
        self._above_the_bar(text, err=False)

    def summarize(self, summary: Summary) -> None:
        self.say(summary_line(summary))

    def close(self) -> None:
        self._bar.close()

    def _show(self, where: str | None = None) -> None:
        with self._lock:
            self._bar.n = self._pace.fraction
            if where is not None:
                self._bar.set_description_str(where, refresh=False)
            self._bar.set_postfix_str(self._pace.left.removeprefix(", "), refresh=False)
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
    """One JSON object per line on stderr: events `plan`, `tiles`, `file`, `error`, `note`, `end`."""

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
        )
        if self._paths and outcome.status == "done":
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

    def _event(self, kind: str, **facts: Any) -> None:
        click.echo(json.dumps({"event": kind, **facts}, ensure_ascii=False), err=True)


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
        self._reached = self._indices[job] + done / max(1, total)

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
        seconds = self.seconds_left
        if seconds is None:
            return ""
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        text = f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
        return f", {text} left"


def summary_line(summary: Summary) -> str:
    """The run in one line."""
    counts = {"done": summary.done, "skipped": summary.skipped, "failed": summary.failed}
    parts = [f"{len(paths)} {name}" for name, paths in counts.items() if paths or name == "done"]
    line = f"{', '.join(parts)} in {summary.seconds:.1f} s"
    if summary.timing.items > 1 and summary.done:
        timing = summary.timing
        line += f" (reading {timing.read:.1f} s, upscaling {timing.work:.1f} s, writing {timing.write:.1f} s)"
    if summary.recomputed or summary.replaced:
        line += (
            f"; of {summary.tiles} tiles {summary.recomputed} computed again in fp32, {summary.replaced} replaced by bicubic"
        )
    return line


def make_report(kind: str | None, *, paths: bool, verbose: bool) -> Report:
    """The report of that kind; by default a bar on a terminal, lines elsewhere."""
    if kind is None:
        kind = "bar" if sys.stderr.isatty() else "line"
    return {"bar": BarReport, "line": LineReport, "json": JsonReport, "none": Report}[kind](paths=paths, verbose=verbose)
