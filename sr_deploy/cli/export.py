"""`sr-deploy export`: a checkpoint -> a certified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli import Command, json_option, verbose_option
from sr_deploy.cli.output import print_json, say_on_stderr, warnings_told
from sr_deploy.errors import UsageError
from sr_deploy.filetypes import read_start

if TYPE_CHECKING:
    from sr_deploy.arrays import Array


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
@click.option("--int8", is_flag=True, help="INT8 graphs too: convs of 8 bits where they save time for little loss.")
@click.option("--loss", type=click.FloatRange(0.001, 1.0), help="dB that INT8 may lose on photographs.  [default: 0.05]")
@click.option("--calibration", type=click.Path(path_type=Path), help="Folder of pictures like those that INT8 will meet.")
@click.option("--tune", type=click.FloatRange(0.1, 24 * 60), help="Minutes for fine-tuning INT8 against the fp32 network.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that exists.")
@json_option
@verbose_option
def command(
    checkpoint: Path,
    value_range: str | None,
    variant: tuple[tuple[str, Any], ...],
    int8: bool,
    loss: float | None,
    calibration: Path | None,
    tune: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn CHECKPOINT into a bundle: graphs, card, probe and the certificate that they agree with it.

    Prints the bundle's folder on stdout.
    """
    if checkpoint.is_file():
        read_start(checkpoint)
    if not int8 and any(option is not None for option in (loss, calibration, tune)):
        raise click.UsageError("--loss, --calibration and --tune are for INT8; give --int8 too.")
    pictures = None if calibration is None else _pictures(calibration)

    from sr_deploy.export import export_bundle

    with warnings_told(say_on_stderr):
        bundle = export_bundle(
            checkpoint,
            value_range=None if value_range is None else float(value_range),
            variant=dict(variant),
            int8=(_LOSS if loss is None else loss) if int8 else None,
            calibration=pictures,
            tune=tune or 0.0,
            progress=say_on_stderr,
            **options,
        )
    if as_json:
        facts = {name: value for name, value in vars(bundle).items() if name != "folder"}
        print_json({"network": bundle.card.name, "bundle": bundle.folder, **facts})
    else:
        click.echo(bundle.folder)


_LOSS = 0.05
_MOST_PICTURES = 16


def _pictures(folder: Path) -> list[Array]:
    """Some of a folder's pictures, (H, W, 3) uint8 RGB.

    Raises: UsageError when there are none; ImageError.
    """
    import numpy as np

    from sr_deploy.pictures.color import from_float, to_float
    from sr_deploy.pictures.image import READABLE_SUFFIXES, read_image

    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in READABLE_SUFFIXES and path.is_file())
    if not found:
        raise UsageError(f"{folder}: holds no picture; --calibration expects a folder of them")
    taken = [read_image(path).pixels for path in found[:: -(-len(found) // _MOST_PICTURES)]]
    return [np.broadcast_to(from_float(to_float(pixels), np.uint8), (*pixels.shape[:2], 3)) for pixels in taken]


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
