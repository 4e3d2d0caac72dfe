"""`sr-deploy models`: the networks in the box, and those that `fetch` gets."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import click

from sr_deploy.bundle import Bundle
from sr_deploy.card import Source
from sr_deploy.cli import Command, json_option, verbose_option
from sr_deploy.cli.output import print_json, print_table
from sr_deploy.models import Model, aliases, available, fetched
from sr_deploy.models.recipe import Recipe, recipes

TEST_SET = "Set5"
WIDTH, HEIGHT, RUNS = 480, 270, 3


@dataclass(frozen=True)
class Row:
    """One network. `psnr_y`: in dB by test set, measured when it was made; `milliseconds`: for an image of 480x270, here."""

    network: str
    scale: int
    kilobytes: int
    parameters: int
    psnr_y: dict[str, float]
    license: str
    path: Path
    recipe: Path | None
    purpose: str = ""
    credits: tuple[str, ...] = ()
    milliseconds: float | None = None


@dataclass(frozen=True)
class Published:
    """One that a recipe knows. `kilobytes`: of its file; None, and no `download`, where it has no address of its own. `asks`:
    whether the license has to be agreed to."""

    network: str
    kilobytes: int | None
    psnr_y: dict[str, float]
    license: str
    asks: bool
    url: str
    download: str
    fetched: bool


@click.command(
    "models",
    cls=Command,
    short_help="List the networks in the box, and those to fetch.",
    examples=(
        "sr-deploy models",
        "sr-deploy models --measure",
    ),
)
@click.option("--measure", is_flag=True, help=f"Measure how fast they are here, on an image of {WIDTH}x{HEIGHT}.")
@json_option
@verbose_option
def command(measure: bool, as_json: bool) -> None:
    """List the networks that come with sr-deploy, for the -m of other commands, and those that `sr-deploy fetch` gets."""
    rows, there = [_row(model, measure) for model in available()], fetched()
    published = [_published(recipe, recipe.name in there) for recipe in recipes()]
    if as_json:
        print_json({"input": [WIDTH, HEIGHT], "models": rows, "published": published})
        return
    if rows:
        _print_box(rows, measure)
    else:
        click.echo("this installation has no network in the box; make a bundle with `sr-deploy export CHECKPOINT`", err=True)
    print_table([_published_cells(row) for row in published], ("published", "kB", f"{TEST_SET} PSNR-Y dB", "license", ""))


def _print_box(rows: list[Row], measure: bool) -> None:
    header = ("-m", "scale", "kB", "parameters", f"{TEST_SET} PSNR-Y dB", "license", *(("ms",) if measure else ()))
    print_table([_cells(row) for row in rows], header)
    click.echo()
    purposes = {row.network: row.purpose for row in rows}
    for name, networks in aliases().items():
        purpose = f", for {purposes[networks[0]]}" if purposes[networks[0]] else ""
        click.echo(f"{name}: {' or '.join(networks)}, by the factor{purpose}")
    click.echo()
    for row in rows:
        if row.recipe is not None:
            click.echo(f"train {row.network} again: sr-deploy train {row.recipe} --hr PHOTOS")
    click.echo()


def _row(model: Model, measure: bool) -> Row:
    card = Bundle.open(model.folder).card
    source = card.source or Source("", "")
    return Row(
        model.folder.name,
        card.scale,
        sum(path.stat().st_size for path in model.folder.rglob("*") if path.is_file()) // 1000,
        card.parameters,
        source.expected,
        source.license,
        model.folder,
        model.recipe,
        source.purpose,
        source.credits,
        _milliseconds(model.folder) if measure else None,
    )


def _published(recipe: Recipe, is_there: bool) -> Published:
    return Published(
        recipe.name,
        recipe.bytes // 1000 if recipe.download else None,
        recipe.expected,
        recipe.license,
        recipe.asks,
        recipe.url,
        recipe.download,
        is_there,
    )


def _cells(row: Row) -> tuple[object, ...]:
    speed = () if row.milliseconds is None else (round(row.milliseconds, 1),)
    return row.network, f"x{row.scale}", row.kilobytes, row.parameters, _psnr(row.psnr_y), row.license, *speed


def _published_cells(row: Published) -> tuple[object, ...]:
    if row.fetched:
        state = "fetched"
    elif row.download:
        state = f"sr-deploy fetch {row.network}{' --yes' if row.asks else ''}"
    else:
        state = f"not to be fetched: get it from {row.url}"
    return row.network, row.kilobytes or "-", _psnr(row.psnr_y), row.license, state


def _psnr(measured: dict[str, float]) -> str:
    return f"{measured[TEST_SET]:.3f}" if TEST_SET in measured else "-"


def _milliseconds(folder: Path) -> float:
    import numpy as np

    from sr_deploy.upscaling.upscaler import Upscaler

    image = np.repeat((np.indices((HEIGHT, WIDTH)).sum(0) % 256)[..., None], 3, axis=2).astype(np.uint8)
    seconds = []
    with Upscaler(folder) as upscale:
        for _ in range(1 + RUNS):
            started = time.perf_counter()
            upscale(image)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) * 1e3
