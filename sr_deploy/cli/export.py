"""`sr-deploy export`: a checkpoint -> a certified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sr_deploy.cli import Command, json_option, verbose_option
from sr_deploy.cli.output import print_json, say_on_stderr, warnings_told
from sr_deploy.filetypes import read_start


class Assignment(click.ParamType[tuple[str, Any]]):
    """KEY=VALUE; the value is a truth value, a number, or a word."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not (key and equals and text):
            self.fail(f"'{value}' is not of the form KEY=VALUE", param, ctx)
        return key, _value(text)


@click.command(
    "export",
    cls=Command,
    short_help="Turn a checkpoint into a certified bundle.",
    examples=(
        "sr-deploy export rlfn_ntire_x4.pth -o models/rlfn",
        "sr-deploy export net.pth --recipe rlfn_ntire_x4 --overwrite",
    ),
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the bundle.  [default: ./NAME]")
@click.option("--name", help="Name of the network.  [default: the checkpoint's stem]")
@click.option("--recipe", type=click.Path(path_type=Path), help="Name or TOML file of a recipe: what weights cannot tell.")
@click.option(
    "--value-range", type=click.Choice(["1", "255"]), help="What white was in training.  [default: by recipe, or measured]"
)
@click.option("--variant", multiple=True, type=Assignment(), help="A fact that the weights leave open; may be repeated.")
@click.option("--architecture", help="Name of the network family.  [default: detected]")
@click.option("--dense-bsconv", is_flag=True, help="BSConv as dense 3x3 convolutions.")
@click.option("--merge-parallel", is_flag=True, help="Parallel convolutions as one.")
@click.option("--anyway", is_flag=True, help="Export even what is far worse than bicubic.")
@click.option("--trust", is_flag=True, help="Load a .pt2 program, which can run code that is in it.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that exists.")
@json_option
@verbose_option
def command(
    checkpoint: Path, value_range: str | None, variant: tuple[tuple[str, Any], ...], as_json: bool, **options: Any
) -> None:
    """Turn CHECKPOINT into a bundle: graphs, card, probe and the certificate that they agree with it.

    Prints the bundle's folder on stdout.
    """
    if checkpoint.is_file():
        read_start(checkpoint)

    from sr_deploy.export import export_bundle

    with warnings_told(say_on_stderr):
        bundle = export_bundle(
            checkpoint,
            value_range=None if value_range is None else float(value_range),
            variant=dict(variant),
            progress=say_on_stderr,
            **options,
        )
    if as_json:
        facts = {name: value for name, value in vars(bundle).items() if name != "folder"}
        print_json({"network": bundle.card.name, "bundle": bundle.folder, **facts})
    else:
        click.echo(bundle.folder)


def bundle_of(checkpoint: Path, report: str | None) -> Path:
    """What -m runs of a checkpoint, told as `upscale` tells its progress.

    Raises: as `export_once`.
    """
    from sr_deploy.cli.progress import make_report
    from sr_deploy.fetch.exported import export_once

    say = make_report("json" if report == "json" else "line").say
    with warnings_told(say):
        return export_once(checkpoint, say, None if report == "none" else say)


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
