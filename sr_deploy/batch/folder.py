"""Files and folders of images and videos -> the same upscaled, one bad file never stopping the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sr_deploy.batch import UpscalerSpec, open_upscaler
from sr_deploy.batch.jobs import Failure, Job, Plan, failure_of
from sr_deploy.batch.naming import Naming, plan_jobs
from sr_deploy.engines.open import open_bundle
from sr_deploy.errors import UsageError
from sr_deploy.files import Address, sweep
from sr_deploy.models import resolve
from sr_deploy.pictures.image import Picture, check_target, is_whole, read_image, write_image
from sr_deploy.pipeline import Timing, run_pipeline
from sr_deploy.upscaling.image_upscaler import Stats

if TYPE_CHECKING:
    from sr_deploy.card import ModelCard
    from sr_deploy.film.observer import VideoProgress, VideoStart, VideoSummary
    from sr_deploy.film.options import VideoOptions
    from sr_deploy.pictures.size import TargetSize
    from sr_deploy.upscaling.image_upscaler import ImageUpscaler


@dataclass(frozen=True)
class Outcome:
    """What became of one job. `seconds` is the time that its three stages took together; `video` tells more of a video."""

    job: Job
    status: Literal["done", "skipped", "failed"]
    notes: tuple[str, ...] = ()
    failure: Failure | None = None
    seconds: float = 0.0
    video: VideoSummary | None = None


@dataclass(frozen=True)
class Summary:
    """What became of a whole run; `stats`: what the sentinel saw; `videos`: of those done;
    `outcomes`: of every job, in the order of the run."""

    done: tuple[Path, ...]
    skipped: tuple[Path, ...]
    failed: tuple[Failure, ...]
    notes: tuple[tuple[Path | Address, str], ...]
    seconds: float
    timing: Timing
    stats: Stats
    videos: tuple[VideoSummary, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


class Observer:
    """Is told how a run goes; does nothing by itself. `tiles` comes from the caller's thread, `finished` from the writer's."""

    def planned(self, plan: Plan) -> None:
        """Called once, before the first picture."""

    def tiles(self, job: Job, done: int, total: int) -> None:
        """`done` of `total` tiles of a picture are upscaled."""

    def video(self, job: Job, start: VideoStart) -> None:
        """A video is about to be upscaled."""

    def frames(self, job: Job, progress: VideoProgress) -> None:
        """One more frame of a video is written; called from the thread that writes."""

    def finished(self, outcome: Outcome) -> None:
        """A job is over, well or not; called in the order of the jobs, videos after pictures."""


@dataclass(frozen=True)
class WriteOptions:
    """How outputs are written. `quality` (1 to 100) is for the lossy formats; `overwrite` does existing outputs again."""

    quality: int | None = None
    strip_metadata: bool = False
    overwrite: bool = False


def upscale_files(
    inputs: Sequence[str | Path],
    output: Path | None,
    upscaler: ImageUpscaler,
    *,
    restorer: UpscalerSpec | None = None,
    size: TargetSize | None = None,
    suffix: str | None = None,
    extension: str | None = None,
    options: WriteOptions | None = None,
    video: VideoOptions | None = None,
    observer: Observer | None = None,
    upscaled: Callable[[Job, Picture], object] | None = None,
    shard: tuple[int, int] | None = None,
    preview: Fraction | None = None,
) -> Summary:
    """Upscale files and folders, see `naming.py` for what is called how; returns what became of them.

    Pictures come first, then videos. Reading, upscaling and writing overlap, a handful of pictures are in memory at any time.
    An output that exists and is whole is skipped, a torn one is made again. An error in one picture is reported and the next
    one is done. restorer: what upscales pictures that lost much to their compression, in place of `upscaler`. video: how videos
    are made; their size and whether they are overwritten is that of the pictures. upscaled: called with each picture as it was
    read, right after it was upscaled and before the next one is. shard: of N processes the one of number I, as (I, N), which
    takes every Nth job. preview: of each video, parts of so many seconds from three places.

    Raises: UsageError when `output`, `suffix` or `extension` do not suit the inputs, or `video` the only one; ImageError when
    the disk is full, because no other picture would fit either; MissingDependencyError.
    """
    plan = plan_run(inputs, output, upscaler.bundle.card, size=size, suffix=suffix, extension=extension, restorer=restorer)
    if shard is not None:
        plan = plan.shard(*shard)
    if preview is not None:
        from sr_deploy.batch.preview import preview_plan

        plan = preview_plan(plan, preview, video)
    sweep_targets(plan)
    with ExitStack() as opened:
        other = opened.enter_context(open_upscaler(restorer)) if restorer and any(job.restore for job in plan.jobs) else None
        return upscale_jobs(
            plan, upscaler, restorer=other, size=size, options=options, video=video, observer=observer, upscaled=upscaled
        )


def plan_run(
    inputs: Sequence[str | Path],
    output: Path | None,
    card: ModelCard,
    *,
    size: TargetSize | None,
    suffix: str | None,
    extension: str | None,
    restorer: UpscalerSpec | None = None,
) -> Plan:
    """What a run with a network makes of what. Raises: UsageError when `output`, `suffix` or `extension` do not suit."""
    label = (size.label if size else "") or f"x{card.scale}"
    other = open_bundle(resolve(restorer.model)).card.name if restorer else None
    return plan_jobs(inputs, output, Naming(card.name, label, suffix, extension, other))


def sweep_targets(plan: Plan) -> None:
    """Remove what dead processes left where the results of a run will be."""
    for folder in {job.target.parent for job in plan.jobs}:
        sweep(folder)


def upscale_jobs(
    plan: Plan,
    upscaler: ImageUpscaler,
    *,
    restorer: ImageUpscaler | None = None,
    size: TargetSize | None = None,
    options: WriteOptions | None = None,
    video: VideoOptions | None = None,
    observer: Observer | None = None,
    upscaled: Callable[[Job, Picture], object] | None = None,
) -> Summary:
    """`upscale_files` for jobs that are planned. Raises: as `upscale_files`."""
    return _FolderRun(upscaler, restorer, size, options or WriteOptions(), video, observer or Observer(), upscaled).run(plan)


def summary_of(plan: Plan, outcomes: Sequence[Outcome], timing: Timing, stats: Stats) -> Summary:
    """What became of a run. timing: of its pictures."""
    videos = tuple(outcome.video for outcome in outcomes if outcome.video and outcome.status == "done")
    timing = _sum([timing, *(video.timing for video in videos)])
    return Summary(
        done=tuple(outcome.job.target for outcome in outcomes if outcome.status == "done"),
        skipped=tuple(outcome.job.target for outcome in outcomes if outcome.status == "skipped"),
        failed=plan.failures + tuple(outcome.failure for outcome in outcomes if outcome.failure),
        notes=plan.notes + tuple((outcome.job.source, note) for outcome in outcomes for note in outcome.notes),
        seconds=timing.wall,
        timing=timing,
        stats=stats,
        videos=videos,
        outcomes=tuple(outcomes),
    )


@dataclass(frozen=True)
class _Item:
    """A job on its way through the stages: with a picture, or with the outcome that it already has."""

    job: Job
    started: float
    picture: Picture | None = None
    outcome: Outcome | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


class _FolderRun:
    def __init__(
        self,
        upscaler: ImageUpscaler,
        restorer: ImageUpscaler | None,
        size: TargetSize | None,
        options: WriteOptions,
        video: VideoOptions | None,
        observer: Observer,
        upscaled: Callable[[Job, Picture], object] | None,
    ) -> None:
        self._upscaler = upscaler
        self._restorer = restorer
        self._upscaled = upscaled
        self._size = size
        self._options = options
        self._video = video
        self._observer = observer
        self._outcomes: list[Outcome] = []
        self._alone = False

    def run(self, plan: Plan) -> Summary:
        before = self._stats
        self._alone = len(plan.jobs) == 1
        self._observer.planned(plan)
        pictures = self._read_all(job for job in plan.jobs if not job.video)
        timing = run_pipeline(pictures, self._upscale, self._write)
        for job in plan.jobs:
            if job.video:
                self._close(self._upscale_video(job))
        return summary_of(plan, self._outcomes, timing, self._stats - before)

    @property
    def _stats(self) -> Stats:
        return self._upscaler.stats if self._restorer is None else self._upscaler.stats + self._restorer.stats

    def _upscaler_of(self, job: Job) -> ImageUpscaler:
        return self._restorer if job.restore and self._restorer is not None else self._upscaler

    def _read_all(self, jobs: Iterable[Job]) -> Iterator[_Item]:
        for job in jobs:
            yield self._read(_Item(job, time.perf_counter(), notes=(job.note,) if job.note else ()))

    def _read(self, item: _Item) -> _Item:
        job = item.job
        try:
            notes = item.notes
            if not self._options.overwrite and job.target.exists():
                if is_whole(job.target):
                    return replace(item, outcome=Outcome(job, "skipped", notes))
                notes += (f"{job.target} was not complete, it is made again",)
            picture = read_image(job.location)
            check_target(job.target, picture, *self._size_of_result(job, picture))
            if picture.lost:
                notes += (f"left out: its {', '.join(picture.lost)}",)
            return _timed(replace(item, picture=picture, notes=notes))
        except Exception as exc:
            return self._failed(item, exc)

    def _size_of_result(self, job: Job, picture: Picture) -> tuple[int, int]:
        height, width = picture.pixels.shape[:2]
        scale = self._upscaler_of(job).scale
        return (height * scale, width * scale) if self._size is None else self._size.resolve(height, width, scale)

    def _upscale(self, item: _Item) -> _Item:
        picture = item.picture
        if picture is None:
            return item
        item = replace(item, started=time.perf_counter())
        upscaler = self._upscaler_of(item.job)
        before = upscaler.stats_of_thread
        try:
            large = upscaler.upscale_picture(
                picture,
                size=self._size,
                progress=lambda done, total: self._observer.tiles(item.job, done, total),
            )
            if self._upscaled is not None:
                self._upscaled(item.job, picture)
        except Exception as exc:
            return self._failed(item, exc)
        trouble = (upscaler.stats_of_thread - before).trouble
        notes = item.notes + ((trouble,) if trouble else ())
        return _timed(replace(item, picture=large, notes=notes))

    def _write(self, item: _Item) -> None:
        outcome = item.outcome or self._write_picture(replace(item, started=time.perf_counter())).outcome
        if outcome is not None:
            self._close(outcome)

    def _close(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._observer.finished(outcome)

    def _upscale_video(self, job: Job) -> Outcome:
        from sr_deploy.batch.video_job import run_video_job

        started = time.perf_counter()
        try:
            summary = run_video_job(
                job, self._upscaler, self._video, self._observer, size=self._size, overwrite=self._options.overwrite
            )
        except Exception as exc:
            if isinstance(exc, UsageError) and self._alone:
                raise
            failed = self._failed(_Item(job, started), exc).outcome
            assert failed is not None
            return failed
        notes = ((job.note,) if job.note else ()) + summary.notes
        return Outcome(job, summary.status, notes, seconds=summary.seconds, video=summary)

    def _write_picture(self, item: _Item) -> _Item:
        job, options = item.job, self._options
        if item.picture is None:
            return item
        try:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            lost = write_image(job.target, item.picture, quality=options.quality, strip_metadata=options.strip_metadata)
        except Exception as exc:
            return self._failed(item, exc)
        item = _timed(item)
        notes = item.notes + ((f"{job.target.suffix} cannot hold its {', '.join(lost)}",) if lost else ())
        return replace(item, picture=None, outcome=Outcome(job, "done", notes, seconds=item.seconds))

    def _failed(self, item: _Item, error: Exception) -> _Item:
        """The item with its failure, without its picture; raises when the next ones would fail the same way."""
        item = _timed(item)
        outcome = Outcome(item.job, "failed", item.notes, failure_of(item.job, error), item.seconds)
        return replace(item, picture=None, outcome=outcome)


def _sum(timings: Sequence[Timing]) -> Timing:
    """One after the other."""
    return Timing(*(sum(values) for values in zip(*map(astuple, timings), strict=True)))


def _timed(item: _Item) -> _Item:
    return replace(item, seconds=item.seconds + time.perf_counter() - item.started)
