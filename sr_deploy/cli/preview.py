"""The pages of `upscale --preview`: a frame of each part of a video, before and after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

from sr_deploy.batch.folder import Outcome
from sr_deploy.batch.jobs import Job
from sr_deploy.batch.preview import by_page
from sr_deploy.evaluation.comparison import Scene, version_of, write_comparison
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.preview import shown_frames
from sr_deploy.pictures.picture import Picture


def write_previews(outcomes: Iterable[Outcome], network: str, options: VideoOptions) -> Iterator[Path]:
    """Write the page of each video that parts were made of.

    network: its name. options: of the videos.

    Raises: VideoError, ImageError.
    """
    for page, jobs in by_page([outcome.job for outcome in outcomes if outcome.status == "done"]).items():
        scenes = [_scene(job, network, options) for job in jobs]
        lead = f"The middle frame of each part: of the source, and of the file that {network} made of it."
        sources = ", ".join(dict.fromkeys(job.source.name for job in jobs))
        write_comparison(page, f"{sources}: before and after", scenes, lead=lead)
        yield page


def _scene(job: Job, network: str, options: VideoOptions) -> Scene:
    assert job.part is not None
    before, after = shown_frames(job.location, job.part, job.target, options)
    versions = (version_of("source", Picture(before)), version_of(network, Picture(after)))
    return Scene(f"{job.target.name}, at {_clock(sum(job.part, Fraction(0)) / 2)}", versions)


def _clock(seconds: Fraction) -> str:
    tenths = int(seconds * 10)
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths // 10 % 60:02}.{tenths % 10}"
