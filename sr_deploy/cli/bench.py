"""`sr-deploy bench`: how fast a bundle runs on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli import Command, json_option, verbose_option
from sr_deploy.cli.output import print_json, print_table

if TYPE_CHECKING:
    from sr_deploy.arrays import Array
    from sr_deploy.bundle import Bundle

WARM_UP = 2


@dataclass(frozen=True)
class BenchmarkResult:
    """One way to run a bundle; `what` is 'engine' for the bare inference and 'upscaler' for image in, image out."""

    backend: str
    precision: str
    what: str
    median_ms: float
    best_ms: float
    output_megapixels_per_second: float


@click.command(
    "bench",
    cls=Command,
    short_help="Measure a bundle on this machine.",
    examples=(
        "sr-deploy bench fast",
        "sr-deploy bench models/rlfn --size 960x540 --runs 20 --backend openvino",
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--size", default="480x270", show_default=True, metavar="WxH", help="Size of the input.")
@click.option(
    "--runs", type=click.IntRange(min=1), default=10, show_default=True, help="Measured runs, after 2 for warming up."
)
@click.option("--backend", "backends", multiple=True, help="Only this inference runtime; may be repeated.  [default: all]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the runtime.  [default: all cores]")
@json_option
@verbose_option
def command(bundle: Path, size: str, runs: int, backends: tuple[str, ...], threads: int | None, as_json: bool) -> None:
    """Measure BUNDLE on this machine, per inference runtime and precision, bare and from image to image."""
    width, height = _size(size)
    from sr_deploy.engines.open import open_bundle

    opened = open_bundle(bundle)
    rows = []
    for row in _measure(opened, backends, height, width, runs, threads):
        rows.append(row)
        if not as_json:
            click.echo(f"{row.backend} {row.precision} {row.what}: {row.median_ms:.1f} ms", err=True)
    if as_json:
        facts = {"network": opened.card.name, "bundle": bundle, "input": [width, height], "scale": opened.card.scale}
        print_json({**facts, "runs": runs, "results": rows})
        return
    table = [
        (
            row.backend,
            row.precision,
            row.what,
            round(row.median_ms, 1),
            round(row.best_ms, 1),
            round(row.output_megapixels_per_second, 1),
        )
        for row in rows
    ]
    print_table(table, ("backend", "precision", "what", "median ms", "best ms", "output MPix/s"))


def _measure(
    bundle: Bundle, names: tuple[str, ...], height: int, width: int, runs: int, threads: int | None
) -> Iterator[BenchmarkResult]:
    import numpy as np

    from sr_deploy.engines import available_backends, open_engine, select_backend
    from sr_deploy.engines.pixels import INPUT, load_pixel_form
    from sr_deploy.upscaling.upscaler import Upscaler

    image = _picture(height, width, bundle.card.channels)
    megapixels = height * width * bundle.card.scale**2 / 1e6

    def row(what: str, call: Callable[[], Any]) -> BenchmarkResult:
        seconds = _clock(call, runs)
        median = statistics.median(seconds)
        return BenchmarkResult(name, precision, what, median * 1e3, min(seconds) * 1e3, megapixels / median)

    for name in names or tuple(available_backends()):
        backend = select_backend(name)
        for precision in backend.usable_precisions():
            if not bundle.runs(precision):
                continue
            graph = load_pixel_form(bundle, precision, cast_last=backend.cast_last)
            with open_engine(graph, backend=name, precision=precision, threads=threads) as engine:
                feeds = {INPUT: np.ascontiguousarray(image[None])}
                yield row("engine", lambda engine=engine, feeds=feeds: engine.run(feeds))  # type: ignore[misc]
            with Upscaler(bundle, backend=name, precision=precision, threads=threads) as upscale:
                picture = image if image.shape[2] == 3 else image.repeat(3, 2)
                yield row("upscaler", lambda upscale=upscale, picture=picture: upscale(picture))  # type: ignore[misc]


def _picture(height: int, width: int, channels: int) -> Array:
    """Smooth waves: no runtime takes a shortcut for them, and no network explodes on them."""
    import numpy as np

    y, x = np.mgrid[0:height, 0:width]
    waves = [127.5 + 60 * np.sin(x / (5 + at)) + 60 * np.cos(y / (7 + at)) for at in range(channels)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def _clock(call: Callable[[], Any], runs: int) -> list[float]:
    for _ in range(WARM_UP):
        call()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise click.BadParameter(f"'{text}' is not of the form WIDTHxHEIGHT", param_hint="--size")
    return int(width), int(height)
