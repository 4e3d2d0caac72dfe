"""Previews: in place of each video a few parts of it, to be seen before the whole is made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from sr_deploy.batch.jobs import Failure, Job, Plan
from sr_deploy.batch.naming import PREVIEW
from sr_deploy.errors import SrDeployError, UsageError
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.preview import parts_of
from sr_deploy.pictures.image import names_stream


def preview_plan(plan: Plan, seconds: Fraction, options: VideoOptions | None = None) -> Plan:
    """The plan with parts of so many seconds in place of each video; pictures stay.

    Raises: UsageError where a video becomes no file, and where a video that is the only job does not suit.
    """
    jobs, failures = list[Job](), list(plan.failures)
    inputs = {os.path.realpath(job.source) for job in plan.jobs if isinstance(job.source, Path)}
    for job in plan.jobs:
        if not job.video:
            jobs.append(job)
            continue
        try:
            parts = list(_parts(job, seconds, options or VideoOptions()))
            if taken := [part.target for part in parts if os.path.realpath(part.target) in inputs]:
                raise UsageError(f"{taken[0]}: is an input, and a preview would overwrite it; change --suffix or -o")
        except SrDeployError as exc:
            if isinstance(exc, UsageError) and len(plan.jobs) == 1:
                raise
            failures.append(Failure(job.source, str(exc)))
        else:
            jobs += parts
    return replace(plan, jobs=tuple(jobs), failures=tuple(failures))


def page_of(job: Job) -> Path:
    """Where the page of a part's video goes."""
    whole, _, _ = job.target.stem.rpartition(PREVIEW)
    return job.target.with_name(f"{whole}{PREVIEW.rstrip('_')}.html")


def by_page(jobs: Sequence[Job]) -> dict[Path, list[Job]]:
    """The parts of each video, by its page."""
    pages: dict[Path, list[Job]] = {}
    for job in jobs:
        if job.part is not None:
            pages.setdefault(page_of(job), []).append(job)
    return pages


def _parts(job: Job, seconds: Fraction, options: VideoOptions) -> Iterator[Job]:
    if names_stream(job.target):
        raise UsageError(f"{job.target}: a preview is made of files; name one with -o")
    for number, part in enumerate(parts_of(job.location, seconds, options), 1):
        yield replace(job, target=job.target.with_stem(f"{job.target.stem}{PREVIEW}{number}"), part=part)
