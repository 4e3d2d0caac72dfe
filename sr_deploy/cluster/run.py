"""A run over files and folders as tasks for the workers of a Ray cluster."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

from sr_deploy.batch import UpscalerSpec
from sr_deploy.batch.folder import Observer, Outcome, Summary, WriteOptions, plan_run, summary_of, sweep_targets
from sr_deploy.batch.jobs import Job, Plan, failure_of
from sr_deploy.cluster.crew import Crew, DeathError, Errand
from sr_deploy.cluster.worker import Work
from sr_deploy.engines.open import open_bundle
from sr_deploy.errors import MissingDependencyError, UsageError, first_line
from sr_deploy.film.journal import SegmentRecord
from sr_deploy.film.observer import VideoProgress, VideoStart, VideoSummary, bitrate_of
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.plan import VideoPlan
from sr_deploy.models import resolve
from sr_deploy.pictures.image import names_stream
from sr_deploy.pictures.size import TargetSize
from sr_deploy.pipeline import Timing
from sr_deploy.upscaling.image_upscaler import Stats

_BUNDLE_SECONDS = 1.0
"""How long a worker is busy with pictures that are handed out together: what that costs is little beside it."""

_ANSWER_SECONDS = 10.0

_FIRST_BUNDLE, _LARGEST_BUNDLE = 8, 256


@dataclass(frozen=True)
class RayOptions:
    """What of a cluster is used.

    address: of its head, such as 'ray://head:10001'; None is RAY_ADDRESS, a cluster on this machine, or a new one.
    workers: how many; None for as many as there is room for.
    worker_cpus: cores of each, which are the network's threads on a CPU.
    worker_gpus: GPUs of each.
    """

    address: str | None = None
    workers: int | None = None
    worker_cpus: int = 2
    worker_gpus: int = 0


def upscale_on_ray(
    inputs: Sequence[str | Path],
    output: Path | None,
    spec: UpscalerSpec,
    *,
    restorer: UpscalerSpec | None = None,
    size: TargetSize | None = None,
    suffix: str | None = None,
    extension: str | None = None,
    options: WriteOptions | None = None,
    video: VideoOptions | None = None,
    observer: Observer | None = None,
    ray: RayOptions | None = None,
) -> Summary:
    """Upscale files and folders as `upscale_files`, by the workers of a cluster that share the folders; the same bytes.

    A worker or machine that dies loses what it was at, which another does again. Started again, the run goes on.

    inputs: files and folders, as every machine sees them, and addresses of videos.
    output: a folder, or a file for one input; None is beside the inputs.
    spec: what upscales.
    restorer: what upscales pictures that lost much to their compression.
    size: of the results; None is the network's own factor.
    suffix: goes behind the stem of each result.
    extension: of the results.
    options: how pictures are written.
    video: how videos are made.
    observer: is told how the run goes, of each file when it is done.
    ray: what of which cluster is used.

    Raises: as `upscale_files`; UsageError where no worker can be had, or all have another version; MissingDependencyError.
    """
    try:
        import ray as library
    except ModuleNotFoundError as exc:
        raise MissingDependencyError('a cluster needs ray; install it with `pip install "sr-deploy[cluster]"`') from exc
    chosen = ray or RayOptions()
    spec = _of_worker(spec, chosen)
    restorer = restorer and _of_worker(restorer, chosen)
    card = open_bundle(resolve(spec.model)).card
    plan = plan_run(inputs, output, card, size=size, suffix=suffix, extension=extension, restorer=restorer)
    sweep_targets(plan)
    work = Work(spec, restorer, size, options or WriteOptions(), video or VideoOptions())
    ours = not library.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        require_answer(chosen.address or os.environ.get("RAY_ADDRESS"))
        try:
            library.init(address=chosen.address, include_dashboard=False, log_to_driver=False, logging_level="error")
        except Exception as exc:  # Ray has no type of its own for what goes wrong there
            raise UsageError(f"no cluster of Ray can be had: {first_line(exc)}") from exc
    try:
        with Crew(work, cpus=chosen.worker_cpus, gpus=chosen.worker_gpus, most=chosen.workers) as crew:
            return _ClusterRun(plan, crew, observer or Observer(), library.put).run()
    finally:
        if ours:
            library.shutdown()


def _of_worker(spec: UpscalerSpec, options: RayOptions) -> UpscalerSpec:
    """With the GPUs and threads that a worker has."""
    gpus = tuple(range(options.worker_gpus)) if spec.gpus is None and options.worker_gpus else spec.gpus
    return replace(spec, gpus=gpus, threads=spec.threads or options.worker_cpus)


def require_answer(address: str | None) -> None:
    """Ray waits for minutes for a head that is not there.

    Raises: UsageError where nobody answers at ray://HOST:PORT or HOST:PORT, or that is no address.
    """
    if address in (None, "auto", "local"):
        return
    host, _, port = str(address).removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"{address}: no address of a cluster; expected ray://HOST:PORT or HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as exc:
        raise UsageError(f"{address}: no cluster answers there ({exc}); check that it is up and can be reached") from exc


@dataclass
class _Film:
    """A video that is under way. segments, frames: those that are finished."""

    index: int
    plan: VideoPlan
    started: float
    segments: int = 0
    frames: int = 0
    failed: bool = False


@dataclass
class _ClusterRun:
    _plan: Plan
    _crew: Crew
    _observer: Observer
    _share: Callable[[Any], Any]
    _outcomes: dict[int, Outcome] = field(default_factory=dict)
    _stats: list[Stats] = field(default_factory=list)
    _bundle: int = _FIRST_BUNDLE

    def run(self) -> Summary:
        started = time.perf_counter()
        self._observer.planned(self._plan)
        jobs = list(enumerate(self._plan.jobs))
        pictures = [index for index, job in jobs if not job.video]
        for index, job in jobs:
            if job.video:
                self._begin_video(index, job)
        while self._crew.work(more=bool(pictures)):
            while pictures and self._crew.idle:
                self._upscale_pictures(pictures[: self._bundle])
                del pictures[: self._bundle]
        wall = time.perf_counter() - started
        outcomes = [self._outcomes[index] for index, _ in jobs]
        stats = reduce(Stats.__add__, self._stats) if self._stats else Stats()
        busy = sum(outcome.seconds for outcome in outcomes)
        return replace(summary_of(self._plan, outcomes, Timing(len(outcomes), wall, 0.0, busy, 0.0), stats), seconds=wall)

    def _upscale_pictures(self, indices: Sequence[int]) -> None:
        def done(result: tuple[tuple[Outcome, ...], Stats]) -> None:
            outcomes, stats = result
            self._stats.append(stats)
            spent = sum(outcome.seconds for outcome in outcomes) / max(len(outcomes), 1)
            self._bundle = max(1, min(_LARGEST_BUNDLE, int(_BUNDLE_SECONDS / max(spent, 1e-6))))
            for index, outcome in zip(indices, outcomes, strict=True):
                self._close(index, outcome)

        def failed(error: Exception) -> None:
            if isinstance(error, DeathError) and len(indices) > 1:
                for index in indices:
                    self._upscale_pictures([index])
            else:
                for index in indices:
                    self._fail(index, error)

        self._crew.add(
            Errand("pictures", ([_everywhere(self._plan.jobs[index]) for index in indices],), done, failed, repeatable=True)
        )

    def _begin_video(self, index: int, job: Job) -> None:
        started = time.perf_counter()

        def failed(error: Exception) -> None:
            self._fail(index, error)

        def made(summary: VideoSummary) -> None:
            self._close_video(index, summary, started)

        def planned(plan: VideoPlan | None) -> None:
            if plan is None:
                made(VideoSummary(job.target, "skipped"))
                return
            self._compute_video(_Film(index, plan, started))

        if names_stream(job.target):
            self._crew.add(Errand("video", (_everywhere(job),), made, failed))
        else:
            self._crew.add(Errand("plan", (_everywhere(job),), planned, failed))

    def _compute_video(self, film: _Film) -> None:
        job, plan = self._plan.jobs[film.index], film.plan
        source = job.source if isinstance(job.source, Path) else str(job.source)
        start = VideoStart(source, job.target, plan.output.format, plan.output.encoding, plan.frames, 0, plan.notes)
        self._observer.video(job, start)
        shared = self._share(plan)
        for number in range(len(plan.segments)):
            done, failed = self._segment_of(film, shared), self._failure_of(film)
            self._crew.add(Errand("segment", (shared, number), done, failed, repeatable=True))

    def _segment_of(self, film: _Film, shared: Any) -> Callable[[tuple[SegmentRecord, Stats]], None]:
        job = self._plan.jobs[film.index]

        def done(result: tuple[SegmentRecord, Stats]) -> None:
            segment, stats = result
            self._stats.append(stats)
            film.segments += 1
            film.frames += segment.frames
            bitrate = bitrate_of(segment.bytes, segment.last - segment.first, film.plan.format.time_base)
            self._observer.frames(job, VideoProgress(film.frames, bitrate))
            if film.segments == len(film.plan.segments) and not film.failed:
                self._crew.add(Errand("finish", (shared,), made, self._failure_of(film)), first=True)

        def made(summary: VideoSummary) -> None:
            self._close_video(film.index, summary, film.started)

        return done

    def _failure_of(self, film: _Film) -> Callable[[Exception], None]:
        def failed(error: Exception) -> None:
            if not film.failed:
                film.failed = True
                self._fail(film.index, error)

        return failed

    def _close_video(self, index: int, summary: VideoSummary, started: float) -> None:
        job = self._plan.jobs[index]
        seconds = time.perf_counter() - started
        summary = replace(summary, target=job.target, seconds=seconds)
        notes = ((job.note,) if job.note else ()) + summary.notes
        self._close(index, Outcome(job, summary.status, notes, seconds=seconds, video=summary))

    def _fail(self, index: int, error: Exception) -> None:
        job = self._plan.jobs[index]
        self._close(index, Outcome(job, "failed", (job.note,) if job.note else (), failure_of(job, error)))

    def _close(self, index: int, outcome: Outcome) -> None:
        """Under the names that the run knows it by."""
        job = self._plan.jobs[index]
        failure = outcome.failure and replace(outcome.failure, path=job.source)
        self._outcomes[index] = outcome = replace(outcome, job=job, failure=failure)
        self._observer.finished(outcome)


def _everywhere(job: Job) -> Job:
    """With names that hold in any working folder."""
    source = job.source.absolute() if isinstance(job.source, Path) else job.source
    return replace(job, source=source, target=job.target.absolute())
