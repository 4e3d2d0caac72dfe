"""How far a run of `upscale` is, how fast it goes, and when it will be done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sr_deploy.batch.folder import Outcome
    from sr_deploy.batch.naming import Job
    from sr_deploy.video.observer import VideoProgress, VideoStart


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


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    return f", {text} left"
