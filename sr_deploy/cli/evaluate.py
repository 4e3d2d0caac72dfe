"""`sr-deploy evaluate`: PSNR-Y, SSIM-Y and time of bundles on images whose HR is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.card import PrecisionChoice
from sr_deploy.cli import Command, engine_options, json_option, verbose_option
from sr_deploy.cli.output import print_json, print_table
from sr_deploy.errors import UsageError

if TYPE_CHECKING:
    from sr_deploy.bundle import Bundle
    from sr_deploy.evaluation.comparison import Gallery
    from sr_deploy.evaluation.evaluate import Pair, Score, Seen
    from sr_deploy.upscaling.image_upscaler import ImageUpscaler

SHARES = "0,5,10,20,40,60,80,100"


@dataclass(frozen=True)
class Result:
    """What one bundle came to."""

    network: str
    bundle: Path
    scale: int
    engine: str
    images: tuple[Score, ...]
    mean: Score


class Shares(click.ParamType[tuple[float, ...]]):
    """Percentages, each once and rising, as shares of 1."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            shares = sorted({float(part.strip().removesuffix("%")) / 100 for part in value.split(",")})
        except ValueError:
            self.fail(f"'{value}' is no list of percentages such as 10,20,50", param, ctx)
        if not 0 <= shares[0] <= shares[-1] <= 1:
            self.fail(f"'{value}' goes beyond 0 to 100 percent", param, ctx)
        return tuple(shares)


@click.command(
    "evaluate",
    cls=Command,
    short_help="Measure PSNR-Y and SSIM-Y of bundles.",
    examples=(
        "sr-deploy evaluate models/rlfn models/bsrn --hr Set5/HR",
        "sr-deploy evaluate fast quality --hr photos/ --html photos.html",
        "sr-deploy evaluate --base fast --refine quality --hr photos/ --plot sweep.png",
    ),
)
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path), metavar="BUNDLE...")
@click.option("--hr", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder of the original images.")
@click.option(
    "--lr", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the small ones.  [default: made by bicubic]"
)
@click.option("--base", type=click.Path(path_type=Path), help="With --refine: the network for the whole image.")
@click.option("--refine", type=click.Path(path_type=Path), help="With --base: the network for where most detail is.")
@click.option("--shares", type=Shares(), help=f"What to try, of patches or of time, in percent.  [default: {SHARES}]")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw PSNR-Y against time.")
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a page of the images, before and after."
)
@click.option("--runs", type=click.IntRange(min=1), default=1, show_default=True, help="Timed runs per image; their median.")
@engine_options
@json_option
@verbose_option
def command(
    bundles: tuple[Path, ...],
    base: Path | None,
    refine: Path | None,
    shares: tuple[float, ...] | None,
    plot: Path | None,
    html: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure PSNR-Y, SSIM-Y and time of BUNDLE on images whose originals are in --hr; several bundles side by side.

    As the field computes them: 8-bit images, HR cropped to a multiple of the scale, a border of that many pixels shaved. A
    mask-guided network, and two networks as --base and --refine, are measured for several shares that they may refine.
    """
    from sr_deploy.engines.open import open_bundle

    if (base is None) != (refine is None) or (not bundles) == (base is None):
        raise click.UsageError("Name BUNDLE..., or --base together with --refine.")
    _check(plot)
    task = Task(as_json=as_json, page=_page(html), **options)
    opened = [open_bundle(path) for path in (*bundles, *filter(None, (base, refine)))]
    if base is None and not any(bundle.card.masked for bundle in opened):
        if shares is not None or plot is not None:
            raise click.UsageError("--shares and --plot are for a mask-guided network, or for --base with --refine.")
        _compare(opened, task)
    elif base is not None or len(opened) == 1:
        _sweep(opened, shares or Shares().convert(SHARES, None, None), plot, task)
    else:
        raise click.UsageError("A mask-guided network is measured alone, for several shares of its patches.")


def _check(plot: Path | None) -> None:
    """Before anything is measured: a plot that cannot be written would lose it all."""
    if plot is not None and plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {plot}: a plot is a picture; expected a name that ends in .png")
    if plot is not None and not plot.parent.is_dir():
        raise UsageError(f"--plot {plot}: there is no folder {plot.parent}; make it first")


def _page(html: Path | None) -> Page | None:
    if html is None:
        return None
    from sr_deploy.evaluation.comparison import Gallery, check_page

    check_page(html, "--html")
    return Page(html, Gallery())


@dataclass(frozen=True)
class Page:
    """A page of the images, to be."""

    path: Path
    gallery: Gallery

    def write(self, title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        from sr_deploy.evaluation.comparison import write_comparison

        lead = "PSNR and SSIM are of Y, in 8 bits, without a border as wide as the scale."
        if self.gallery.left_out:
            lead += f" The first {len(self.gallery.scenes())} images are shown; {self.gallery.left_out} more were measured."
        write_comparison(self.path, title, self.gallery.scenes(), lead=lead, table=(header, rows))


@dataclass(frozen=True)
class Task:
    """What is measured, and how."""

    hr: Path
    lr: Path | None
    runs: int
    backend: str
    allow_cpu: bool
    precision: PrecisionChoice
    threads: int | None
    as_json: bool
    page: Page | None

    @property
    def engine(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("backend", "allow_cpu", "precision", "threads")}

    def pairs(self, scale: int) -> Iterator[Pair]:
        from sr_deploy.evaluation.evaluate import find_pairs

        return (files.read(scale) for files in find_pairs(self.hr, self.lr, scale=scale))

    def say(self, text: str) -> None:
        if not self.as_json:
            click.echo(text, err=True)

    def seen(self, label: str) -> Seen | None:
        return None if self.page is None else self.page.gallery.of(label)

    def tell(self, header: Sequence[str], rows: Sequence[Sequence[object]], measured: Mapping[str, object], title: str) -> None:
        """On stdout, and in the page where one is wanted."""
        if self.page is not None:
            self.page.write(title, header, rows)
        if self.as_json:
            print_json({"hr": self.hr, "lr": self.lr, "runs": self.runs, **measured})
        else:
            print_table(rows, header)


def _compare(bundles: Sequence[Bundle], task: Task) -> None:
    results = [_evaluate(bundle, task) for bundle in bundles]
    header = ["image", *(column for result in results for column in _columns(result, alone=len(results) == 1))]
    scores = [(*result.images, result.mean) for result in results]
    rows = [[row[0].name, *(cell for score in row for cell in _cells(score))] for row in zip(*scores, strict=True)]
    task.tell(header, rows, {"results": results}, ", ".join(result.network for result in results))


def _evaluate(bundle: Bundle, task: Task) -> Result:
    from sr_deploy.evaluation.evaluate import evaluate, mean_score
    from sr_deploy.upscaling.upscaler import Upscaler

    pairs = task.pairs(bundle.card.scale)
    with Upscaler(bundle, **task.engine) as upscale:
        task.say(upscale.description)
        scores = evaluate(upscale, pairs, runs=task.runs, observer=task.seen(bundle.card.name))
        return Result(bundle.card.name, bundle.folder, bundle.card.scale, upscale.description, scores, mean_score(scores))


def _sweep(bundles: Sequence[Bundle], shares: Sequence[float], plot: Path | None, task: Task) -> None:
    """Of one mask-guided network over its patches, or of a base and a refine network over the time."""
    from sr_deploy.evaluation.sweep import draw_sweep, sweep
    from sr_deploy.masked.masked_upscaler import MaskedUpscaler
    from sr_deploy.pictures.image import Picture, write_image
    from sr_deploy.upscaling.upscaler import Upscaler

    base, refine = bundles[0], bundles[-1]

    def open_at(share: float) -> ImageUpscaler:
        if len(bundles) == 1:
            return MaskedUpscaler(base, k=float(share), **task.engine)
        if share == 0:
            return Upscaler(base, **task.engine)
        return MaskedUpscaler(base=base, refine=refine, budget=share, **task.engine)

    title = base.card.name if len(bundles) == 1 else f"{base.card.name}, refined by {refine.card.name}"
    points = []
    for point in sweep(
        open_at,
        shares,
        lambda: task.pairs(base.card.scale),
        runs=task.runs,
        observer=lambda share: task.seen(f"{share:.0%}"),
    ):
        points.append(point)
        task.say(f"{title}, {point.amount:.0%}: {point.mean.psnr_y:.3f} dB, {point.mean.seconds * 1e3:.1f} ms")
    if plot is not None:
        write_image(plot, Picture(draw_sweep(points, title)))
    networks = [{"network": bundle.card.name, "bundle": bundle.folder} for bundle in bundles]
    rows = [(f"{point.amount:4.0%}", f"{point.refined:7.1%}", *_cells(point.mean)) for point in points]
    header = ("patches" if len(bundles) == 1 else "time", "refined", "PSNR-Y dB", "SSIM-Y", "ms")
    task.tell(header, rows, {"networks": networks, "points": points}, title)


def _columns(result: Result, *, alone: bool) -> tuple[str, str, str]:
    name = "" if alone else f"{result.network} "
    return f"{name}PSNR-Y dB", f"{name}SSIM-Y", f"{name}ms"


def _cells(score: Score) -> tuple[object, ...]:
    return f"{score.psnr_y:9.3f}", f"{score.ssim_y:6.4f}", f"{score.seconds * 1e3:8.1f}"
