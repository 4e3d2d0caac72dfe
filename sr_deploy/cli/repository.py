"""`sr-deploy repository`: bundles -> the folder that another inference server reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from sr_deploy.card import Precision
from sr_deploy.cli import Command, Numbers, json_option, verbose_option
from sr_deploy.cli.output import print_json, say_on_stderr
from sr_deploy.errors import UsageError

if TYPE_CHECKING:
    from sr_deploy.engines.repository.network import GraphForm, RepositoryNetwork, ServerName

ENGINES = Path("engines")
FOR_TRITON = {"most": "--batch", "engines": "--engines", "gpus": "--gpu"}


@click.command(
    "repository",
    cls=Command,
    short_help="Lay out networks for Triton or OpenVINO Model Server.",
    examples=(
        "sr-deploy repository fast-x2 models/rlfn -o served/ --for triton",
        "sr-deploy repository fast-x2 -o served/ --for openvino --form float --instances 4",
    ),
)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to make; new or empty.")
@click.option("--for", "server", type=click.Choice(["triton", "openvino"]), required=True, help="Server that reads it.")
@click.option(
    "--form",
    type=click.Choice(["pixels", "float"]),
    default="pixels",
    show_default=True,
    help="8-bit pixels (N,H,W,C) in and out with their health, or floats (N,C,H,W) in [0,1].",
)
@click.option("--precision", type=click.Choice(get_args(Precision)), help="Graph to serve.  [default: that of a plan, or fp32]")
@click.option("--batch", "most", type=click.IntRange(min=1), help="Most images at once in Triton.  [default: 8]")
@click.option("--instances", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of a network at a time.")
@click.option(
    "--engines",
    type=click.Path(path_type=Path),
    help="Folder whose TensorRT engines of these bundles Triton gets.  [default: engines]",
)
@click.option("-g", "--gpu", "gpus", type=Numbers(), metavar="0,1", help="GPUs of Triton, by number.  [default: all]")
@json_option
@verbose_option
def command(
    bundles: tuple[str, ...],
    output: Path,
    server: ServerName,
    form: GraphForm,
    precision: Precision | None,
    instances: int,
    as_json: bool,
    most: int | None,
    engines: Path | None,
    gpus: tuple[int, ...] | None,
) -> None:
    """Lay out each BUNDLE, or network in the box, as Triton or OpenVINO Model Server reads it.

    Prints the folder. It has a README that says how to start the server and what it does not do, and a client.
    """
    from sr_deploy.engines.open import open_bundle
    from sr_deploy.engines.repository import MOST_IMAGES, make_repository

    given = {"most": most, "engines": engines, "gpus": gpus}
    wrong = [option for name, option in FOR_TRITON.items() if given[name] is not None]
    if server == "openvino" and wrong:
        raise UsageError(f"{wrong[0]}: for Triton alone, and this is for openvino; leave it out")
    if engines is not None and not engines.is_dir():
        raise UsageError(f"{engines}: no such folder; `sr-deploy build` makes one with engines")
    networks = make_repository(
        [open_bundle(bundle) for bundle in bundles],
        output,
        server,
        form=form,
        precision=precision,
        most=most or MOST_IMAGES,
        instances=instances,
        gpus=gpus or (),
        engines=engines or ENGINES,
        say=say_on_stderr,
    )
    if as_json:
        print_json({"repository": output, "server": server, "networks": [_facts(network) for network in networks]})
    else:
        click.echo(output)


def _facts(network: RepositoryNetwork) -> dict[str, object]:
    return {
        "network": network.name,
        "file": network.file,
        "precision": network.precision,
        "inputs": [str(tensor) for tensor in network.inputs],
        "outputs": [str(tensor) for tensor in network.outputs],
    }
