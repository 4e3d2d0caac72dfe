"""`sr-deploy join`: the segments of a plan -> its video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from sr_deploy.cli import Command, json_option, verbose_option
from sr_deploy.cli.output import print_json


@click.command(
    "join",
    cls=Command,
    short_help="Make the video of a plan whose segments are computed.",
    examples=(
        "sr-deploy join film_x4.mkv.part",
        "sr-deploy join film_x4.mkv.part/plan.json --json",
    ),
)
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--source", help="Where the video is for this process.  [default: where it was planned]")
@json_option
@verbose_option
def command(plan: Path, source: str | None, as_json: bool) -> None:
    """Join the segments of PLAN, check the result against its source, and give it its name.

    PLAN is plan.json or its folder. The folder goes once the video is complete; what is missing is told, and nothing is lost.
    """
    from sr_deploy.film.finish import finish
    from sr_deploy.film.plan import VideoPlan

    opened = VideoPlan.load(plan)
    summary = finish(opened if source is None else replace(opened, source=source))
    if as_json:
        facts = {"status": summary.status, "frames": summary.frames, "bytes": summary.bytes, "notes": summary.notes}
        print_json({"output": summary.target, **facts})
        return
    for note in summary.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(summary.target)
