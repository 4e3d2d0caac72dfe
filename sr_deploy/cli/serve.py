"""`sr-deploy serve`: networks behind HTTP, for clients and for browsers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import click

from sr_deploy.batch import UpscalerSpec
from sr_deploy.card import PrecisionChoice
from sr_deploy.cli import Command, gpu_option, json_option, verbose_option
from sr_deploy.cli.option_types import ModelReference, TileSize
from sr_deploy.cli.output import print_json
from sr_deploy.cli.upscale_options import MEGABYTE
from sr_deploy.models import DEFAULT, RESTORER, is_checkpoint

GROUPS = {
    "Options for the address": ("host", "port", "token", "origins", "workers"),
    "Options for requests": ("at_once", "queue", "seconds", "most_bytes", "most_pixels"),
    "Options for jobs": ("spool", "spool_bytes", "most_job_bytes", "expiry", "on", "address"),
    "Options for the machine": ("backend", "gpus", "allow_cpu", "precision", "tile", "memory", "threads"),
}
_MEGAPIXEL = 1_000_000
_HOUR = 3600.0


@click.command(
    "serve",
    cls=Command,
    groups=GROUPS,
    short_help="Upscale pictures and videos over HTTP.",
    examples=(
        "sr-deploy serve -m fast -m models/rlfn",
        "sr-deploy serve --port 9000 --spool /var/lib/sr-deploy --queue 64",
    ),
)
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    type=ModelReference(),
    help=f"A bundle, an ONNX file, or a network in the box; repeatable, the first is the usual one.  "
    f"[default: {DEFAULT}, and {RESTORER} for JPEGs that lost much]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option(
    "--token", envvar="SR_DEPLOY_TOKEN", help="What clients have to show; better in SR_DEPLOY_TOKEN, which others do not see."
)
@click.option("--allow-origin", "origins", multiple=True, help="A page's https://HOST that may ask from a browser; repeatable.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option(
    "--at-once", type=click.IntRange(min=1), help="Requests worked on together.  [default: one more than the network takes]"
)
@click.option("--queue", type=click.IntRange(min=0), default=32, show_default=True, help="Requests that wait behind these.")
@click.option(
    "--timeout", "seconds", type=click.FloatRange(min=1), default=60, show_default=True, help="Seconds for a request."
)
@click.option("--max-bytes", "most_bytes", type=click.IntRange(min=1), default=64, show_default=True, help="MB of a picture.")
@click.option(
    "--max-pixels",
    "most_pixels",
    type=click.FloatRange(min=0.01),
    default=16,
    show_default=True,
    help="Megapixels of a picture.",
)
@click.option("--spool", type=click.Path(path_type=Path), help="Folder of the jobs.  [default: in the user's data folder]")
@click.option(
    "--spool-size", "spool_bytes", type=click.IntRange(min=1), default=20_000, show_default=True, help="MB of all jobs."
)
@click.option(
    "--max-job", "most_job_bytes", type=click.IntRange(min=1), default=4_000, show_default=True, help="MB that a job sends."
)
@click.option(
    "--expiry", type=click.FloatRange(min=0), default=24, show_default=True, help="Hours that a finished job is kept."
)
@click.option("--on", type=click.Choice(["ray"]), help="Let the workers of a Ray cluster do the jobs.")
@click.option("--address", help="Of the cluster: ray://HEAD:10001.  [default: RAY_ADDRESS, one on this machine, or a new one]")
@click.option("--backend", default="auto", show_default=True, help="Inference runtime; `sr-deploy doctor` lists them.")
@gpu_option
@click.option("--allow-cpu", is_flag=True, help="Run on the CPU where there is a GPU that no runtime can use.")
@click.option(
    "--precision", type=click.Choice(get_args(PrecisionChoice)), default="auto", show_default=True, help="Arithmetic."
)
@click.option("-t", "--tile", type=TileSize(), default="auto", show_default=True, help="Tile side in input pixels.")
@click.option(
    "--memory", type=click.IntRange(min=1), metavar="MB", help="Memory to plan tiles for.  [default: by what is free]"
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the runtime.  [default: all cores]")
@json_option
@verbose_option
def command(
    models: tuple[str, ...],
    backend: str,
    gpus: tuple[int, ...] | None,
    allow_cpu: bool,
    precision: PrecisionChoice,
    tile: int | Literal["auto"],
    memory: int | None,
    threads: int | None,
    as_json: bool,
    **rest: Any,
) -> None:
    """Serve networks over HTTP until a signal ends it: pictures in, pictures out; videos and many pictures as jobs.

    Prints the address on stdout once it is listened on. On SIGTERM what is worked on is finished, what is new is refused, and
    jobs go on with the next start.
    """
    from sr_deploy.serve.options import Limits, ServeOptions, usual_models
    from sr_deploy.serve.server import serve

    spec = UpscalerSpec(
        *(DEFAULT, None, None, None, backend, precision, tile),
        memory=None if memory is None else memory * MEGABYTE,
        threads=threads,
        allow_cpu=allow_cpu,
        gpus=gpus,
    )
    limits = Limits(
        at_once=rest["at_once"],
        queue=rest["queue"],
        seconds=rest["seconds"],
        most_bytes=rest["most_bytes"] * MEGABYTE,
        most_pixels=int(rest["most_pixels"] * _MEGAPIXEL),
        most_job_bytes=rest["most_job_bytes"] * MEGABYTE,
        spool_bytes=rest["spool_bytes"] * MEGABYTE,
        expiry=rest["expiry"] * _HOUR,
    )
    chosen = {name: rest[name] for name in ("host", "port", "token", "origins", "workers", "on", "address")}
    if rest["spool"] is not None:
        chosen["spool"] = rest["spool"]
    options = ServeOptions(tuple(map(_ready, models)) or usual_models(), spec, limits=limits, **chosen)

    def listening(address: str) -> None:
        if as_json:
            print_json({"address": address, "spool": options.spool, "models": options.models, "workers": options.workers})
        else:
            click.echo(address)

    serve(options, listening)


def _ready(model: str) -> str:
    """What was given; of a checkpoint its bundle, which is made when it is first used."""
    if not is_checkpoint(model):
        return model
    from sr_deploy.cli.export import bundle_of

    return str(bundle_of(Path(model), None))
