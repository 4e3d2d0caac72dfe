"""What runs in a process of the cluster: a network that is open, and what is done with it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sr_deploy import __version__
from sr_deploy.batch import UpscalerSpec, open_upscaler
from sr_deploy.batch.folder import Outcome, WriteOptions, upscale_jobs
from sr_deploy.batch.jobs import Job, Plan
from sr_deploy.errors import UsageError
from sr_deploy.film.compute import compute_segment
from sr_deploy.film.decide import plan_video
from sr_deploy.film.finish import finish
from sr_deploy.film.journal import SegmentRecord, clear_concluded
from sr_deploy.film.observer import VideoSummary
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.plan import VideoPlan, part_of
from sr_deploy.film.run import upscale_video
from sr_deploy.pictures.size import TargetSize
from sr_deploy.upscaling.image_upscaler import ImageUpscaler, Stats


@dataclass(frozen=True)
class Work:
    """What all workers of a run have in common. version: of sr-deploy, where the run was started."""

    spec: UpscalerSpec
    restorer: UpscalerSpec | None
    size: TargetSize | None
    options: WriteOptions
    video: VideoOptions
    version: str = __version__


@dataclass(frozen=True)
class Ready:
    """A worker that can begin: where it is, and what it computes by."""

    where: str
    description: str


class Worker:
    """One process; it does one thing after the other."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._upscaler: ImageUpscaler | None = None
        self._restorer: ImageUpscaler | None = None

    def open(self) -> Ready:
        """Open the network.

        Raises: UsageError for another version than the run's; what `open_upscaler` raises.
        """
        where = f"{platform.node()} (process {os.getpid()})"
        if self._work.version != __version__:
            raise UsageError(
                f"{where}: has sr-deploy {__version__}, the run was started with {self._work.version}; install the same on all"
            )
        self._upscaler = open_upscaler(self._work.spec)
        return Ready(where, self._upscaler.description)

    def pictures(self, jobs: Sequence[Job]) -> tuple[tuple[Outcome, ...], Stats]:
        """What became of some pictures, in their order, and what the sentinel saw."""
        work = self._work
        if work.restorer and self._restorer is None and any(job.restore for job in jobs):
            self._restorer = open_upscaler(work.restorer)
        summary = upscale_jobs(Plan(tuple(jobs)), self._network, restorer=self._restorer, size=work.size, options=work.options)
        return summary.outcomes, summary.stats

    def plan(self, job: Job) -> VideoPlan | None:
        """The plan of a video; None where its target is there. Raises: as `plan_video`."""
        if job.target.exists() and not self._work.options.overwrite:
            clear_concluded(part_of(job.target))
            return None
        job.target.parent.mkdir(parents=True, exist_ok=True)
        return plan_video(job.location, job.target, self._network, options=self._video)

    def segment(self, plan: VideoPlan, index: int) -> tuple[SegmentRecord, Stats]:
        """One segment, and what the sentinel saw. Raises: as `compute_segment`."""
        before = self._network.stats
        return compute_segment(plan, index, self._network), self._network.stats - before

    def finish(self, plan: VideoPlan) -> VideoSummary:
        """The video of all segments. Raises: as `finish`."""
        return finish(plan)

    def video(self, job: Job) -> VideoSummary:
        """A video that no plan can be made of. Raises: as `upscale_video`."""
        return upscale_video(job.location, job.target, self._network, options=self._video)

    @property
    def _network(self) -> ImageUpscaler:
        assert self._upscaler is not None
        return self._upscaler

    @property
    def _video(self) -> VideoOptions:
        return replace(self._work.video, size=self._work.size, overwrite=self._work.options.overwrite)
