"""A run of `upscale` for programs: one JSON object per line on stderr."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.output import to_json
from sr_deploy.cli.progress import FilmPace, Report, video_facts
from sr_deploy.pictures.image import PIPE

if TYPE_CHECKING:
    from sr_deploy.batch.folder import Outcome, Summary
    from sr_deploy.batch.jobs import Failure, Job, Plan
    from sr_deploy.film.observer import VideoProgress, VideoStart
    from sr_deploy.pipeline import Timing

SECONDS_BETWEEN_TILE_EVENTS = 0.5
SECONDS_BETWEEN_FRAME_EVENTS = 1.0


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
