"""`sr-deploy upscale`: images, videos and folders of both -> the same, upscaled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from sr_deploy.batch import USUAL_BUDGET, USUAL_PATCHES, UpscalerSpec, open_upscaler
from sr_deploy.card import ModelCard, PrecisionChoice
from sr_deploy.cli import Command, Shard, gpu_option, json_option, verbose, verbose_option
from sr_deploy.cli.option_types import InputPath, KeyValue, ModelReference, Patches, Rate, Seconds, Share, TileSize
from sr_deploy.cli.upscale_options import IdleOptions, UpscaleOptions
from sr_deploy.models import DEFAULT, is_in_the_box, resolve

if TYPE_CHECKING:
    from sr_deploy.batch.folder import Outcome, Summary
    from sr_deploy.cli.masks import HeatMaps
    from sr_deploy.cli.progress import Report
    from sr_deploy.film.options import VideoOptions
    from sr_deploy.pictures.size import TargetSize
    from sr_deploy.upscaling.image_upscaler import ImageUpscaler

Decorator = Callable[[Any], Any]

FOR_PICTURES = ("quality", "strip_metadata", "mask_out")
FOR_VIDEOS = (
    *("codec", "crf", "preset", "pixel_format", "encoder_options", "start", "until", "fps", "deinterlace", "decode"),
    *("no_reuse", "drop_unsupported", "on_damage", "resume", "preview"),
)
FOR_CLUSTERS = ("on", "address", "workers", "worker_cpus", "worker_gpus")
GROUPS = {
    "Options for the network": ("model", "base", "refine", "budget", "patches"),
    "Options for the output": ("output", "outscale", "to_size", "extension", "suffix", "overwrite", "shard"),
    "Options for pictures": FOR_PICTURES,
    "Options for videos": FOR_VIDEOS,
    "Options for the machine": (
        *("backend", "gpus", "allow_cpu", "precision", "fp32", "on_failure", "strict", "tile", "memory", "threads", "target"),
    ),
    "Options for clusters": FOR_CLUSTERS,
}
"""Parameters by what they are about, as the help shows them."""


def _all(*options: Decorator) -> Decorator:
    """As if each stood above the function, in this order."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


network_options = _all(
    click.option(
        "-m", "--model", type=ModelReference(), help=f"A bundle, an ONNX file, or a network in the box.  [default: {DEFAULT}]"
    ),
    click.option(
        "--base",
        type=ModelReference(),
        help="With --refine: a bundle that restores what has little detail; the fast one of a pair.",
    ),
    click.option(
        "--refine", type=ModelReference(), help="A bundle that restores what has most detail, as far as --budget goes."
    ),
    click.option(
        "--budget",
        type=Share(),
        help=f"Share of the time that --refine would take for everything.  [default: {USUAL_BUDGET:.0%}]",
    ),
    click.option(
        "-k",
        "--patches",
        type=Patches(),
        help=f"Patches that a mask-guided network refines: 240, 20%, >=0.3.  [{USUAL_PATCHES['k']:.0%}]",
    ),
)

output_options = _all(
    click.option(
        "-o",
        "--output",
        help="A folder, or a file for one input; - and frame_%06d.png for a video.  [default: beside the input]",
    ),
    click.option("-s", "--outscale", type=float, help="Factor of the result.  [default: the network's own]"),
    click.option("--to", "to_size", metavar="SIZE", help="Size of the result: 4k, 1080p, WIDTHxHEIGHT, long=N, short=N."),
    click.option("-f", "--ext", "extension", help="Format of the results: png, jpg, mkv, ...  [default: the input's]"),
    click.option("--suffix", help="Goes behind the stem of each result.  [default: _MODEL_xN beside the input, else nothing]"),
    click.option("--overwrite", is_flag=True, help="Make results that exist again."),
)

video_options = _all(
    click.option(
        "--codec", help="libx264, libx265, libsvtav1, libvpx-vp9, prores_ks, ffv1, ...  [default: by depth and container]"
    ),
    click.option("--crf", type=float, help="Quality of the encoder, 0 is the best.  [default: near transparent]"),
    click.option("--preset", help="Speed of the encoder.  [default: the codec's usual one]"),
    click.option("--pix-fmt", "pixel_format", help="Pixel format.  [default: depth and chroma of the source]"),
    click.option(
        "-e", "--encoder-option", "encoder_options", multiple=True, type=KeyValue(), help="Option of the encoder; repeatable."
    ),
    click.option("--from", "start", type=Seconds(), help="Begin there: seconds, or 1:02:03.5."),
    click.option("--until", type=Seconds(), help="End before that."),
    click.option("--fps", type=Rate(), help="Rate of pictures that have none of their own, such as 30000/1001."),
    click.option(
        "--deinterlace",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        show_default=True,
        help="Deinterlace; auto: where the source says that it is interlaced.",
    ),
    click.option(
        "--decode",
        type=click.Choice(["auto", "cpu", "nvdec"]),
        default="auto",
        show_default=True,
        help="Where to decode; auto: on the GPU that upscales, where that gives the same frames.",
    ),
    click.option("--no-reuse", is_flag=True, help="Compute everything, also what equals the frame before."),
    click.option("--drop-unsupported", is_flag=True, help="Leave out streams that the container cannot hold."),
    click.option(
        "--on-damage",
        type=click.Choice(["raise", "skip"]),
        default="raise",
        show_default=True,
        help="What to do where the source is damaged.",
    ),
    click.option("--resume/--no-resume", default=True, show_default=True, help="Go on where an earlier run stopped."),
)

machine_options = _all(
    click.option("-t", "--tile", type=TileSize(), help="Tile side in input pixels; 0: the whole image.  [default: auto]"),
    click.option("--backend", help="Inference runtime; `sr-deploy doctor` lists them.  [default: auto]"),
    gpu_option,
    click.option("--allow-cpu", is_flag=True, help="Run on the CPU where there is a GPU that no runtime can use."),
    click.option("--precision", type=click.Choice(get_args(PrecisionChoice)), help="Arithmetic.  [default: auto]"),
    click.option("--fp32", is_flag=True, help="The same as --precision fp32."),
    click.option(
        "--on-failure",
        type=click.Choice(["bicubic", "raise"]),
        help="What to do with a tile that is not sane in fp32 either.  [default: bicubic]",
    ),
    click.option("--strict", is_flag=True, help="The same as --on-failure raise."),
    click.option(
        "--memory",
        type=click.IntRange(min=1),
        metavar="MB",
        help="Memory to plan tiles for.  [default: by what is free]",
    ),
    click.option("--threads", type=click.IntRange(min=1), help="Threads of the runtime.  [default: all cores]"),
    click.option("--target", type=click.Path(path_type=Path), help="Name or TOML file of a target; options win over it."),
)


@click.command(
    "upscale",
    cls=Command,
    groups=GROUPS,
    examples=(
        "sr-deploy upscale photo.jpg photos/ -o large/",
        "sr-deploy upscale film.mkv -m models/rlfn --to 4k --crf 16",
    ),
)
@click.argument("inputs", nargs=-1, type=InputPath(), metavar="INPUT...")
@click.option("-i", "--input", "more_inputs", multiple=True, type=InputPath(), help="An input, as an option.")
@network_options
@output_options
@machine_options
@click.option("--mask-out", type=click.Path(path_type=Path), help="A folder for maps of what is refined first in each image.")
@click.option("--quality", type=click.IntRange(1, 100), help="Quality of lossy formats.")
@click.option("--strip-metadata", is_flag=True, help="Leave EXIF, XMP and the color profile out.")
@click.option("--shard", type=Shard(), help="I/N: every Nth input from number I on, I from 0; for N processes or machines.")
@click.option("--on", type=click.Choice(["ray"]), help="Let the workers of a Ray cluster do it.")
@click.option("--address", help="Of the cluster: ray://HEAD:10001.  [default: RAY_ADDRESS, one on this machine, or a new one]")
@click.option("--workers", type=click.IntRange(min=1), help="How many.  [default: as many as there is room for]")
@click.option("--worker-cpus", type=click.IntRange(min=1), default=2, show_default=True, help="Cores of each worker.")
@click.option("--worker-gpus", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs of each worker.")
@click.option("--no-progress", is_flag=True, help="Say nothing but errors and notes.")
@click.option("--progress", type=click.Choice(["bar", "line", "json"]), help="How to show progress, on stderr.")
@click.option("--profile", is_flag=True, help="Say what share of the time each stage was busy.")
@video_options
@click.option("--preview", type=Seconds(), help="Of a video so many seconds at three places, and a page of their frames.")
@json_option
@verbose_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Upscale images, videos and folders of both.

    Prints the paths that it wrote on stdout, everything else on stderr. Results that exist and are whole are skipped, so the
    same command goes on where an earlier one stopped, in the middle of a video too.
    """
    asked = UpscaleOptions(**options)
    size = asked.size()
    summary = (_there if asked.on else _here)(ctx, asked, asked.spec(size), size)
    ctx.exit(1 if summary.failed else 0)


def _here(ctx: click.Context, asked: UpscaleOptions, spec: UpscalerSpec, size: TargetSize | None) -> Summary:
    """In this process."""
    from sr_deploy.batch.folder import upscale_files
    from sr_deploy.cli.progress import warnings_as_notes
    from sr_deploy.upscaling.image_upscaler import MaskedStats

    output = asked.output_path()
    with open_upscaler(spec) as upscaler:
        report, video = _report(ctx, asked, upscaler.bundle.card)
        try:
            if asked.report != "none":
                report.say(upscaler.description)
            if asked.model is not None and is_in_the_box(asked.model) and Path(spec.model) == Path(asked.model).absolute():
                report.say(f"note: {asked.model} is what is called so in this folder, not the network in the box")
            masks = _masks(upscaler, asked, report)
            with warnings_as_notes(report):
                summary = upscale_files(
                    asked.all_inputs,
                    output,
                    upscaler,
                    restorer=asked.restorer(spec, size),
                    size=size,
                    suffix=asked.suffix,
                    extension=asked.extension,
                    options=asked.writing(),
                    video=video,
                    observer=report,
                    upscaled=masks,
                    shard=asked.shard,
                    preview=asked.preview,
                )
            pages = [] if asked.preview is None else _pages(summary, upscaler.bundle.card.name, asked, report)
            report.summarize(summary)
            if asked.report != "none" and isinstance(summary.stats, MaskedStats):
                report.say(f"refined {summary.stats.share:.0%} of the pixels")
            if masks is not None:
                masks.of_skipped(outcome.job for outcome in _of(summary, "skipped"))
            if asked.profile:
                report.profile(summary.timing)
        finally:
            report.close()
        if asked.as_json:
            _print(upscaler.bundle.card, upscaler.description, summary, asked.restorer(spec, size), pages)
    return summary


def _there(ctx: click.Context, asked: UpscaleOptions, spec: UpscalerSpec, size: TargetSize | None) -> Summary:
    """By the workers of a cluster."""
    from sr_deploy.cli.progress import warnings_as_notes
    from sr_deploy.cluster import RayOptions, upscale_on_ray
    from sr_deploy.engines.open import open_bundle

    card = open_bundle(resolve(spec.model)).card
    report, video = _report(ctx, asked, card)
    engine = f"{card.name} on workers of Ray"
    try:
        if asked.report != "none":
            report.say(engine)
        with warnings_as_notes(report):
            summary = upscale_on_ray(
                asked.all_inputs,
                asked.output_path(),
                spec,
                restorer=asked.restorer(spec, size),
                size=size,
                suffix=asked.suffix,
                extension=asked.extension,
                options=asked.writing(),
                video=video,
                observer=report,
                ray=RayOptions(asked.address, asked.workers, asked.worker_cpus, asked.worker_gpus),
            )
        report.summarize(summary)
    finally:
        report.close()
    if asked.as_json:
        _print(card, engine, summary, asked.restorer(spec, size))
    return summary


def _report(ctx: click.Context, asked: UpscaleOptions, card: ModelCard) -> tuple[Report, VideoOptions | None]:
    """What shows how the run goes, and how videos are made where anything was said of them."""
    from sr_deploy.cli.progress import make_report

    idle = IdleOptions(ctx, pictures=FOR_PICTURES, videos=FOR_VIDEOS, whole_images=card.masked is not None)
    report = make_report(asked.report, paths=not asked.as_json, verbose=verbose(ctx), advice=idle)
    return report, asked.video() if idle.any_given(FOR_VIDEOS) else None


def _masks(upscaler: ImageUpscaler, asked: UpscaleOptions, report: Report) -> HeatMaps | None:
    if asked.mask_out is None:
        return None
    from sr_deploy.cli.masks import HeatMaps
    from sr_deploy.masked.masked_upscaler import MaskedUpscaler

    if not isinstance(upscaler, MaskedUpscaler):
        raise click.UsageError(
            f"{upscaler.bundle.card.name} is no mask-guided network: --mask-out is for these, and for pairs."
        )
    return HeatMaps(upscaler, asked.all_inputs, asked.mask_out, report.say)


def _pages(summary: Summary, network: str, asked: UpscaleOptions, report: Report) -> list[Path]:
    """The pages of previews, told as results are."""
    from sr_deploy.cli.preview import write_previews

    pages = list(write_previews(summary.outcomes, network, asked.video()))
    for page in [] if asked.as_json else pages:
        report.print_path(str(page))
    return pages


def _print(card: ModelCard, engine: str, summary: Summary, restorer: UpscalerSpec | None, pages: Sequence[Path] = ()) -> None:
    from sr_deploy.cli.output import print_json
    from sr_deploy.cli.progress import video_facts
    from sr_deploy.engines.open import open_bundle

    restoring = open_bundle(resolve(restorer.model)).card.name if restorer else ""

    def done(outcome: Outcome) -> dict[str, object]:
        return {**_files(outcome), "network": restoring if outcome.job.restore else card.name, "seconds": outcome.seconds}

    document = {
        "network": card.name,
        "scale": card.scale,
        "engine": engine,
        "done": [done(outcome) for outcome in _of(summary, "done")],
        "skipped": [_files(outcome) for outcome in _of(summary, "skipped")],
        "failed": [{"input": failure.path, "message": failure.message} for failure in summary.failed],
        "notes": [{"input": path, "note": note} for path, note in summary.notes],
        "seconds": summary.seconds,
        "timing": summary.timing,
        "stats": summary.stats,
        "videos": [{**_files(outcome), **video_facts(outcome.video)} for outcome in _of(summary, "done") if outcome.video],
        "refined": getattr(summary.stats, "share", None),
        "pages": pages,
    }
    print_json(document)


def _of(summary: Summary, status: Literal["done", "skipped"]) -> list[Outcome]:
    return [outcome for outcome in summary.outcomes if outcome.status == status]


def _files(outcome: Outcome) -> dict[str, object]:
    return {"input": outcome.job.source, "output": outcome.job.target}
