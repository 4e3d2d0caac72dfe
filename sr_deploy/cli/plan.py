"""`sr-deploy plan`: what a run would do, how long it would take here, and for videos what other processes compute it by."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.batch import open_upscaler
from sr_deploy.cli import Command, json_option, verbose_option
from sr_deploy.cli.option_types import InputPath
from sr_deploy.cli.output import print_json
from sr_deploy.cli.upscale import GROUPS, machine_options, network_options, output_options, video_options
from sr_deploy.cli.upscale_options import UpscaleOptions
from sr_deploy.errors import SrDeployError, UsageError
from sr_deploy.settings import to_table

if TYPE_CHECKING:
    from sr_deploy.batch.jobs import Failure, Job
    from sr_deploy.film.plan import VideoPlan
    from sr_deploy.upscaling.image_upscaler import ImageUpscaler

_MEASURED = 3
"""Pictures that are upscaled to know how long all take."""


@dataclass(frozen=True)
class _Planned:
    """A video with its plan, its seconds and bytes; these are None where nothing was measured."""

    job: Job
    plan: VideoPlan
    seconds: float | None
    bytes: int | None


@click.command(
    "plan",
    cls=Command,
    short_help="Prepare videos for many processes, and say how long a run takes.",
    groups={title: names for title, names in GROUPS.items() if title not in ("Options for pictures", "Options for clusters")},
    examples=(
        "sr-deploy plan film.mkv -o film_x4.mkv -m models/rlfn",
        "sr-deploy plan photos/ film.mkv -o large/ --json",
    ),
)
@click.argument("inputs", nargs=-1, type=InputPath(), metavar="INPUT...")
@network_options
@output_options
@machine_options
@video_options
@click.option("--decode-all", is_flag=True, help="Decode videos to know when their frames are shown.")
@click.option("--no-measure", is_flag=True, help="Compute nothing, say nothing of time and size.")
@json_option
@verbose_option
@click.pass_context
def command(ctx: click.Context, /, decode_all: bool, no_measure: bool, **options: Any) -> None:
    """Decide all of a run before its first frame: what becomes what, how many frames and segments, how long it takes here.

    Each video gets a plan, TARGET.part/plan.json: `sr-deploy segment` computes any of its segments, in any process on any
    machine, and `sr-deploy join` makes the video of them. `sr-deploy upscale` with the same options goes on with it, too.
    """
    asked = UpscaleOptions(**options)

    from sr_deploy.batch.folder import plan_run
    from sr_deploy.batch.jobs import Failure

    size, output = asked.size(), asked.output_path()
    spec = asked.spec(size)
    with open_upscaler(spec) as upscaler:
        card = upscaler.bundle.card
        jobs = plan_run(
            asked.all_inputs,
            output,
            card,
            size=size,
            suffix=asked.suffix,
            extension=asked.extension,
            restorer=asked.restorer(spec, size),
        )
        failed, videos = list(jobs.failures), list[_Planned]()
        for job in (job for job in jobs.jobs if job.video):
            try:
                videos.append(_plan(job, upscaler, asked, to_table(spec), decode_all=decode_all, measure=not no_measure))
            except SrDeployError as exc:
                if isinstance(exc, UsageError) and len(jobs.jobs) == 1:
                    raise
                failed.append(Failure(job.source, str(exc)))
        pictures = [job for job in jobs.jobs if not job.video]
        seconds = None if no_measure else _seconds_of(pictures, upscaler)
        if asked.as_json:
            print_json(_document(upscaler, videos, pictures, seconds, failed))
        else:
            _print(videos, pictures, seconds, failed)
    ctx.exit(1 if failed else 0)


def _plan(
    job: Job, upscaler: ImageUpscaler, asked: UpscaleOptions, network: dict[str, Any], *, decode_all: bool, measure: bool
) -> _Planned:
    from sr_deploy.film.decide import plan_video
    from sr_deploy.film.estimate import estimate

    video = replace(asked.video(), size=asked.size(), overwrite=asked.overwrite)
    plan = plan_video(job.location, job.target, upscaler, options=video, network=network, decode_all=decode_all)
    expected = estimate(plan, upscaler) if measure else None
    return _Planned(job, plan, expected.seconds if expected else None, expected.bytes if expected else None)


def _seconds_of(jobs: Sequence[Job], upscaler: ImageUpscaler) -> float:
    """How long all pictures take, from a few of them; those that cannot be read cost nothing."""
    from sr_deploy.pictures.image import encode_image, read_image

    chosen = [jobs[len(jobs) * place // _MEASURED] for place in range(min(_MEASURED, len(jobs)))]
    spent = 0.0
    for repeat in (False, True):
        for job in chosen if repeat else chosen[:1]:
            started = time.perf_counter()
            try:
                encode_image(upscaler.upscale_picture(read_image(job.location)), job.target.suffix)
            except SrDeployError:
                continue
            spent += repeat * (time.perf_counter() - started)
    return spent / max(len(chosen), 1) * len(jobs)


def _print(videos: Sequence[_Planned], pictures: Sequence[Job], seconds: float | None, failed: Sequence[Failure]) -> None:
    from sr_deploy.cli.progress import duration

    for video in videos:
        plan = video.plan
        each = plan.output.per_segment
        facts = [f"{plan.frames} frames in {len(plan.segments)} segments of {each}"]
        if video.seconds is not None and video.bytes is not None:
            facts += [f"about {video.bytes / 1e6:.3g} MB", f"about {duration(video.seconds)} here"]
        click.echo(f"{video.job.source} -> {video.job.target}: {', '.join(facts)}")
        for note in plan.notes:
            click.echo(f"note: {video.job.source}: {note}", err=True)
    if pictures:
        click.echo(f"{len(pictures)} pictures" + ("" if seconds is None else f": about {duration(seconds)} here"))
    for failure in failed:
        click.echo(f"error: {failure}", err=True)


def _document(
    upscaler: ImageUpscaler,
    videos: Sequence[_Planned],
    pictures: Sequence[Job],
    seconds: float | None,
    failed: Sequence[Failure],
) -> dict[str, Any]:
    return {
        "network": upscaler.bundle.card.name,
        "scale": upscaler.scale,
        "engine": upscaler.description,
        "videos": [
            {
                "input": video.job.source,
                "output": video.job.target,
                "plan": video.plan.part / "plan.json",
                "frames": video.plan.frames,
                "segments": len(video.plan.segments),
                "bytes": video.bytes,
                "seconds": video.seconds,
                "notes": video.plan.notes,
            }
            for video in videos
        ],
        "pictures": len(pictures),
        "picture_seconds": seconds,
        "failed": [{"input": failure.path, "message": failure.message} for failure in failed],
    }
