"""`sr-deploy train`: a recipe and photos -> a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from sr_deploy.cli import Command, json_option, verbose_option
from sr_deploy.cli.output import print_json


@click.command(
    "train",
    cls=Command,
    short_help="Train a network as a recipe says.",
    examples=(
        "sr-deploy train training/fast_x2.toml --hr photos/ --validation-hr Set5/HR",
        "sr-deploy train training/fast_x2.toml --hr photos/ --start fast_x4.pt -o trained/",
        "sr-deploy train photo_x4 --hr photos/ --show-degradations sheet.png",
    ),
)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to train into.  [default: ./NAME]")
@click.option("--hr", multiple=True, type=click.Path(path_type=Path), help="Folder of HR photos; may be repeated.")
@click.option(
    "--validation-hr", multiple=True, type=click.Path(path_type=Path), help="Folder of photos to validate on; may be repeated."
)
@click.option("--start", type=click.Path(path_type=Path), help="Checkpoint to start from, of the same or another scale.")
@click.option(
    "--teacher", type=click.Path(path_type=Path), help="Bundle or checkpoint whose images the network learns to make."
)
@click.option(
    "--show-degradations",
    "sheet",
    type=click.Path(path_type=Path),
    metavar="SHEET.png",
    help="Draw crops that it would train on, HR beside LR, and train nothing.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to train.")
@click.option("--threads", type=click.IntRange(min=0), help="Threads of torch; 0 for as many as it takes.")
@json_option
@verbose_option
def command(recipe: Path, output: Path | None, sheet: Path | None, as_json: bool, **options: Any) -> None:
    """Train a network as RECIPE says, a TOML file or a name such as fast_x4; options given here win over it.

    Prints the path of the trained checkpoint on stdout, which `sr-deploy export` takes. Ctrl-C saves the state, and the same
    command goes on from there.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    given |= {name: tuple(map(str, given[name])) for name in ("hr", "validation_hr") if name in given}
    given |= {name: str(given[name]) for name in ("start", "teacher") if name in given}

    from sr_deploy.training import read_recipe, show_degradations, train

    settings = read_recipe(recipe, **given)
    if sheet is not None:
        show_degradations(settings, sheet)
        if as_json:
            print_json({"network": settings.name, "sheet": sheet})
        else:
            click.echo(sheet)
        return
    with _interrupts() as caught:
        trained = train(
            settings,
            output or Path(settings.name),
            say=lambda text: click.echo(text, err=True),
            stopped=lambda: bool(caught),
        )
    if as_json:
        print_json({"network": settings.name, **vars(trained)})
    else:
        click.echo(trained.checkpoint)


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Signals that asked to stop; the second of them stops at once."""
    caught: list[int] = []
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        caught.append(number)
        restore()

    for number in earlier:
        signal.signal(number, remember)
    try:
        yield caught
    finally:
        restore()
