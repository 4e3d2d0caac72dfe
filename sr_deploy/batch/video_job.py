"""One video of a run over files and folders: upscaled with the run's options, told to the run's observer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sr_deploy.batch.folder import Observer
from sr_deploy.batch.jobs import Job
from sr_deploy.film.observer import VideoObserver, VideoProgress, VideoStart, VideoSummary
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.preview import of_part
from sr_deploy.film.run import upscale_video

if TYPE_CHECKING:
    from sr_deploy.pictures.size import TargetSize
    from sr_deploy.upscaling.image_upscaler import ImageUpscaler


def run_video_job(
    job: Job,
    upscaler: ImageUpscaler,
    options: VideoOptions | None,
    observer: Observer,
    *,
    size: TargetSize | None,
    overwrite: bool,
) -> VideoSummary:
    """Upscale the job's video; `size` and `overwrite` are those of the run's pictures. A part of one is always made anew.

    Raises: as `upscale_video`.
    """
    options = replace(options or VideoOptions(), size=size, overwrite=overwrite)
    if job.part is not None:
        options = replace(of_part(options, job.part), overwrite=True)
    return upscale_video(job.location, job.target, upscaler, options=options, observer=_Watch(job, observer))


class _Watch(VideoObserver):
    """The observer of one video, which tells the observer of the run."""

    def __init__(self, job: Job, observer: Observer) -> None:
        self._job = job
        self._observer = observer

    def started(self, start: VideoStart) -> None:
        self._observer.video(self._job, start)

    def written(self, progress: VideoProgress) -> None:
        self._observer.frames(self._job, progress)
