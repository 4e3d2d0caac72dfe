"""A bar on the terminal, the last line below what is printed."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.progress import Report, summary_line, video_line

if TYPE_CHECKING:
    from sr_deploy.batch.folder import Outcome, Summary
    from sr_deploy.batch.jobs import Job, Plan
    from sr_deploy.film.observer import VideoProgress

SECONDS_BETWEEN_FRAME_REDRAWS = 0.1


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
            **terminal_width(),
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


def terminal_width() -> dict[str, Any]:
    """Follow the terminal's width; some terminals, in containers above all, say that it is 0."""
    try:
        known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        known = False
    return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}
