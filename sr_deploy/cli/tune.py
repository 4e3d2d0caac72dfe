"""`sr-deploy tune`: find out once how frames go fastest over this GPU, and keep it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from sr_deploy.card import GPU_PRECISIONS, PrecisionChoice
from sr_deploy.cli import Command, gpu_option, json_option, verbose_option
from sr_deploy.cli.output import print_json, print_table

if TYPE_CHECKING:
    from sr_deploy.upscaling.gpu.tune import Measurement


@click.command(
    "tune",
    cls=Command,
    short_help="Find the fastest tiles, batches and frames in flight for a GPU.",
    examples=(
        "sr-deploy tune models/rlfn",
        "sr-deploy tune models/rlfn --size 1920x1080 -g 0,1",
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--size", default="960x540", show_default=True, metavar="WxH", help="Size of the frames.")
@click.option("--backend", default="auto", show_default=True, help="Inference runtime.")
@click.option(
    "--precision",
    type=click.Choice(["auto", *GPU_PRECISIONS]),
    default="auto",
    show_default=True,
    help="Arithmetic; auto is fp16.",
)
@gpu_option
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True, help="How long each is measured."
)
@json_option
@verbose_option
def command(
    bundle: Path, size: str, backend: str, precision: str, gpus: tuple[int, ...] | None, seconds: float, as_json: bool
) -> None:
    """Measure ways to run BUNDLE on this machine's GPU, and keep the fastest for `upscale`.

    Frames are timed from the host's memory to the host's memory. Prints what was tried, and the file that keeps the result.
    """
    from sr_deploy.engines.open import open_bundle
    from sr_deploy.engines.tensorrt.target import parse_size
    from sr_deploy.upscaling.gpu.tune import tune

    frame_size, gpus = parse_size(size), gpus or (0,)
    opened = open_bundle(bundle)
    tuning = tune(
        opened,
        backend=backend,
        precision=cast(PrecisionChoice, precision),
        gpus=gpus,
        size=frame_size,
        seconds=seconds,
        progress=lambda found: click.echo(_line(found), err=True),
    )
    if as_json:
        print_json({"network": opened.card.name, "bundle": bundle, "size": frame_size, "gpus": gpus, **vars(tuning)})
        return
    print_table(
        [_row(found, chosen=found == tuning.best) for found in tuning.measurements],
        ("", "tile", "batch", "frames in flight", "frames/s", "note"),
    )
    click.echo(tuning.path)


def _line(found: Measurement) -> str:
    schedule = found.schedule
    reached = found.problem if found.fps is None else f"{found.fps:.1f} frames/s"
    options = "".join(f", {option}" for option in schedule.options)
    return f"tile {schedule.tile or 'whole'}, batch {schedule.batch}, {schedule.slots} in flight{options}: {reached}"


def _row(found: Measurement, *, chosen: bool) -> tuple[object, ...]:
    schedule = found.schedule
    fps = "-" if found.fps is None else f"{found.fps:.1f}"
    note = " ".join(filter(None, (*schedule.options, found.problem)))
    return ("*" if chosen else "", schedule.tile or "whole", schedule.batch, schedule.slots, fps, note)
