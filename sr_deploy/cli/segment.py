"""`sr-deploy segment`: some of the segments of a plan, here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from sr_deploy.batch import UpscalerSpec, open_upscaler
from sr_deploy.cli import Command, Shard, gpu_option, json_option, verbose_option
from sr_deploy.cli.output import print_json
from sr_deploy.errors import UsageError


@click.command(
    "segment",
    cls=Command,
    short_help="Compute segments of a plan.",
    examples=(
        "sr-deploy segment film_x4.mkv.part --index 7",
        "sr-deploy segment film_x4.mkv.part --shard 3/16",
    ),
)
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--index", "indices", type=click.IntRange(min=0), multiple=True, help="Number of a segment, from 0; repeatable.")
@click.option("--shard", type=Shard(), help="I/N: every Nth segment from number I on, I from 0.")
@click.option("--source", help="Where the video is for this process.  [default: where it was planned]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the runtime.  [default: as planned]")
@gpu_option
@json_option
@verbose_option
def command(
    plan: Path,
    indices: tuple[int, ...],
    shard: tuple[int, int] | None,
    source: str | None,
    threads: int | None,
    gpus: tuple[int, ...] | None,
    as_json: bool,
) -> None:
    """Compute segments of PLAN, which is plan.json or its folder, as `sr-deploy plan` writes it.

    Any number of these may run at once, on one machine or many that share the folder. Segments that are there already are left
    as they are. Without --index and --shard, all are computed.
    """
    from sr_deploy.film.compute import compute_segment
    from sr_deploy.film.plan import VideoPlan
    from sr_deploy.settings import from_table

    if indices and shard:
        raise click.UsageError("--index and --shard contradict each other; give one of them.")
    opened = VideoPlan.load(plan)
    if opened.network is None:
        raise UsageError(f"{plan}: does not say what opens its network; plan with `sr-deploy plan`, or compute it in Python")
    first, step = shard or (0, 1)
    chosen = indices or range(first, len(opened.segments), step)
    for index in chosen:
        opened.segment(index)
    spec = from_table(opened.network, UpscalerSpec, where=f"{plan}: network")
    spec = replace(spec, threads=threads or spec.threads, gpus=gpus or spec.gpus)
    segments = []
    with open_upscaler(spec) as upscaler:
        for index in chosen:
            segments.append(compute_segment(opened, index, upscaler, source=source))
            if not as_json:
                click.echo(opened.part / segments[-1].name)
    if as_json:
        print_json({"plan": opened.part / "plan.json", "segments": segments})
