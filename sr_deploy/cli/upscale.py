"""`sr-deploy upscale`: images, videos and folders of both -> the same, upscaled."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sr_deploy.cli.command import Command
from sr_deploy.cli.group import gpu_option, verbose, verbose_option
from sr_deploy.cli.output import json_option, print_json
from sr_deploy.cli.parameters import KeyValue, Network, Patches, Rate, Seconds, Share, TileSize
from sr_deploy.models import DEFAULT, find, is_in_the_box, resolve

if TYPE_CHECKING:
    from sr_deploy.batch.folder import Outcome, Summary
    from sr_deploy.pictures.size import TargetSize
    from sr_deploy.upscaling.image_upscaler import ImageUpscaler
    from sr_deploy.video.options import VideoOptions

MEGABYTE = 1_000_000
_USUAL_BUDGET = 0.4
_USUAL_SHARE = 0.2

FOR_PICTURES = ("quality", "strip_metadata", "mask_out")
FOR_VIDEOS = (
    *("codec", "crf", "preset", "pixel_format", "encoder_options", "start", "until", "fps", "deinterlace", "decode"),
    *("no_reuse", "drop_unsupported", "on_damage", "resume"),
)
GROUPS = {
    "Options for the network": ("model", "base", "refine", "budget", "patches"),
    "Options for the output": ("output", "outscale", "to_size", "extension", "suffix", "overwrite"),
    "Options for pictures": FOR_PICTURES,
    "Options for videos": FOR_VIDEOS,
    "Options for the machine": (
        *("backend", "gpus", "allow_cpu", "precision", "fp32", "on_failure", "strict", "tile", "memory", "threads", "target"),
    ),
}
"""Parameters by what they are about, as the help shows them."""


@click.command(
    "upscale",
    cls=Command,
    groups=GROUPS,
    examples=(
        "sr-deploy upscale photo.jpg photos/ -o large/",
        "sr-deploy upscale film.mkv -m models/rlfn --to 4k --crf 16",
    ),
)
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path), metavar="INPUT...")
@click.option("-i", "--input", "more_inputs", multiple=True, type=click.Path(path_type=Path), help="An input, as an option.")
@click.option("-m", "--model", type=Network(), help="A bundle, an ONNX file, or a network in the box.  [default: fast]")
@click.option(
    "-o", "--output", help="A folder, or a file for one input; - and frame_%06d.png for a video.  [default: beside the input]"
)
@click.option("-s", "--outscale", type=float, help="Factor of the result.  [default: the network's own]")
@click.option("--to", "to_size", metavar="SIZE", help="Size of the result: 4k, 1080p, WIDTHxHEIGHT, long=N, short=N.")
@click.option("-t", "--tile", type=TileSize(), help="Tile side in input pixels; 0: the whole image.  [default: auto]")
@click.option("--backend", help="Inference runtime; `sr-deploy doctor` lists them.  [default: auto]")
@gpu_option
@click.option("--allow-cpu", is_flag=True, help="Run on the CPU where there is a GPU that no runtime can use.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Arithmetic.  [default: auto]")
@click.option("--fp32", is_flag=True, help="The same as --precision fp32.")
@click.option(
    "--on-failure",
    type=click.Choice(["bicubic", "raise"]),
    help="What to do with a tile that is not sane in fp32 either.  [default: bicubic]",
)
@click.option("--strict", is_flag=True, help="The same as --on-failure raise.")
@click.option(
    "--base", type=Network(), help="With --refine: a bundle that restores what has little detail; the fast one of a pair."
)
@click.option("--refine", type=Network(), help="A bundle that restores what has most detail, as far as --budget goes.")
@click.option("--budget", type=Share(), help="Share of the time that --refine would take for everything.  [default: 40%]")
@click.option("-k", "--patches", type=Patches(), help="Patches that a mask-guided network refines: 240, 20%, >=0.3.  [20%]")
@click.option("--mask-out", type=click.Path(path_type=Path), help="A folder for maps of what is refined first in each image.")
@click.option("-f", "--ext", "extension", help="Format of the results: png, jpg, mkv, ...  [default: the input's]")
@click.option("--suffix", help="Goes behind the stem of each result.  [default: _MODEL_xN beside the input, else nothing]")
@click.option("--quality", type=click.IntRange(1, 100), help="Quality of lossy formats.")
@click.option("--strip-metadata", is_flag=True, help="Leave EXIF, XMP and the color profile out.")
@click.option("--overwrite", is_flag=True, help="Make results that exist again.")
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    metavar="MB",
    help="Memory to plan tiles for.  [default: 805, at most half of what is free]",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the runtime.  [default: all cores]")
@click.option("--target", type=click.Path(path_type=Path), help="Name or TOML file of a target; options win over it.")
@click.option("--no-progress", is_flag=True, help="Say nothing but errors and notes.")
@click.option("--progress", type=click.Choice(["bar", "line", "json"]), help="How to show progress, on stderr.")
@click.option("--profile", is_flag=True, help="Say what share of the time each stage was busy.")
@click.option(
    "--codec", help="libx264, libx265, libsvtav1, libvpx-vp9, prores_ks, ffv1, ...  [default: by depth and container]"
)
@click.option("--crf", type=float, help="Quality of the encoder, 0 is the best.  [default: near transparent]")
@click.option("--preset", help="Speed of the encoder.  [default: the codec's usual one]")
@click.option("--pix-fmt", "pixel_format", help="Pixel format.  [default: depth and chroma of the source]")
@click.option(
    "-e", "--encoder-option", "encoder_options", multiple=True, type=KeyValue(), help="Option of the encoder; repeatable."
)
@click.option("--from", "start", type=Seconds(), help="Begin there: seconds, or 1:02:03.5.")
@click.option("--until", type=Seconds(), help="End before that.")
@click.option("--fps", type=Rate(), help="Rate of pictures that have none of their own, such as 30000/1001.")
@click.option(
    "--deinterlace",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Deinterlace; auto: where the source says that it is interlaced.",
)
@click.option(
    "--decode",
    type=click.Choice(["auto", "cpu", "nvdec"]),
    default="auto",
    show_default=True,
    help="Where to decode; auto: on the GPU that upscales, where that gives the same frames.",
)
@click.option("--no-reuse", is_flag=True, help="Compute everything, also what equals the frame before.")
@click.option("--drop-unsupported", is_flag=True, help="Leave out streams that the container cannot hold.")
@click.option(
    "--on-damage",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="What to do where the source is damaged.",
)
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on where an earlier run stopped.")
@json_option
@verbose_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Upscale images, videos and folders of both.

    Prints the paths that it wrote on stdout, everything else on stderr. Results that exist and are whole are skipped, so the
    same command goes on where an earlier one stopped, in the middle of a video too.
    """
    inputs = [*options["inputs"], *options["more_inputs"]]
    if not inputs:
        raise click.UsageError("Missing INPUT: name at least one image, video or folder.")
    _check_pair(options)
    size = _size(options)
    output = _output(options["output"])
    if options["output"] == "-" and options["as_json"]:
        raise click.UsageError("-o - and --json both want stdout; give one of them.")
    kind = "none" if options["no_progress"] else options["progress"]

    from sr_deploy.batch.folder import WriteOptions, upscale_files
    from sr_deploy.cli.idle import IdleOptions
    from sr_deploy.cli.progress import make_report, warnings_as_notes
    from sr_deploy.upscaling.image_upscaler import MaskedStats

    model = _model(options["refine"] or options["model"], size)
    with _open(model, options) as upscaler:
        whole_images = upscaler.bundle.card.masked is not None
        idle = IdleOptions(ctx, pictures=FOR_PICTURES, videos=FOR_VIDEOS, whole_images=whole_images)
        report = make_report(kind, paths=not options["as_json"], verbose=verbose(ctx), advice=idle)
        try:
            if kind != "none":
                report.say(upscaler.description)
            if options["model"] is not None and is_in_the_box(options["model"]) and model == Path(options["model"]):
                report.say(f"note: {model} is what is called so in this folder, not the network in the box")
            with warnings_as_notes(report):
                summary = upscale_files(
                    inputs,
                    output,
                    upscaler,
                    size=size,
                    suffix=options["suffix"],
                    extension=options["extension"],
                    options=WriteOptions(options["quality"], options["strip_metadata"], options["overwrite"]),
                    video=_video(options),
                    observer=report,
                )
            report.summarize(summary)
            if kind != "none" and isinstance(upscaler.stats, MaskedStats):
                report.say(f"refined {upscaler.stats.share:.0%} of the pixels")
            if options["mask_out"] is not None:
                _write_masks(upscaler, inputs, options["mask_out"])
            if options["profile"]:
                report.profile(summary.timing)
        finally:
            report.close()
        if options["as_json"]:
            print_json(_document(upscaler, summary))
    ctx.exit(1 if summary.failed else 0)


def _model(name: str | None, size: TargetSize | None) -> Path:
    """The bundle to run: of a family in the box, the network for the factor that is wanted."""
    factor = size.numbers[0] if size is not None and size.kind == "factor" else None
    return find(DEFAULT, factor) if name is None else resolve(name, factor)


def _check_pair(options: dict[str, Any]) -> None:
    whole = options["base"] is not None and options["refine"] is not None
    some = whole or any(options[name] is not None for name in ("base", "refine", "budget"))
    if some and (not whole or options["model"] is not None or options["patches"] is not None):
        raise click.UsageError("A pair is --base and --refine, and --budget; without -m and -k.")


def _open(model: Path, options: dict[str, Any]) -> ImageUpscaler:
    """An Upscaler; a masked one for a pair and for a mask-guided network."""
    from sr_deploy.engines.open import open_bundle
    from sr_deploy.masked.masked_upscaler import MaskedUpscaler
    from sr_deploy.upscaling.upscaler import Upscaler

    given, base = _engine_options(options), options["base"]
    if base is not None:
        bundle, budget = open_bundle(model), options["budget"]
        base = resolve(base, bundle.card.scale)
        return MaskedUpscaler(base=base, refine=bundle, budget=_USUAL_BUDGET if budget is None else budget, **given)
    bundle = open_bundle(model)
    if bundle.card.masked is not None:
        del given["tile"]
        return MaskedUpscaler(bundle, **(options["patches"] or {"k": _USUAL_SHARE}), **given)
    if options["patches"] is not None or options["mask_out"] is not None:
        raise click.UsageError(f"{bundle.card.name} is no mask-guided network: -k and --mask-out are for these.")
    return Upscaler(bundle, **given)


def _engine_options(options: dict[str, Any]) -> dict[str, Any]:
    from sr_deploy.engines.tensorrt.target import Target, load_target

    target = load_target(options["target"]) if options["target"] else Target("options")
    given = {name: options[name] for name in ("backend", "tile", "memory", "threads") if options[name] is not None}
    if options["fp32"] or options["precision"] is not None:
        given["precision"] = "fp32" if options["fp32"] else options["precision"]
    target = replace(target, **given)
    return {
        "backend": target.backend,
        "precision": target.precision,
        "tile": "auto" if target.tile is None else target.tile,
        "on_failure": "raise" if options["strict"] else options["on_failure"] or "bicubic",
        "memory": None if target.memory is None else target.memory * MEGABYTE,
        "threads": target.threads,
        "allow_cpu": options["allow_cpu"],
        "gpus": options["gpus"],
    }


def _write_masks(upscaler: ImageUpscaler, inputs: Sequence[Path], folder: Path) -> None:
    """Write the heat map of each image; those that cannot be read were reported before."""
    from sr_deploy.batch.naming import Naming, plan_jobs
    from sr_deploy.errors import SrDeployError
    from sr_deploy.masked.masked_upscaler import MaskedUpscaler, write_heat
    from sr_deploy.pictures.image import read_image

    assert isinstance(upscaler, MaskedUpscaler)
    folder.mkdir(parents=True, exist_ok=True)
    for job in plan_jobs(inputs, folder, Naming("mask", "", "", "png")).jobs:
        if not job.video:
            with contextlib.suppress(SrDeployError):
                pixels = read_image(job.source).pixels
                job.target.parent.mkdir(parents=True, exist_ok=True)
                write_heat(job.target, upscaler.heat(pixels), upscaler.scale)


def _size(options: dict[str, Any]) -> TargetSize | None:
    if options["outscale"] is not None and options["to_size"] is not None:
        raise click.UsageError("-s and --to contradict each other; give one of them.")
    if options["fp32"] and options["precision"] not in (None, "fp32"):
        raise click.UsageError(f"--fp32 and --precision {options['precision']} contradict each other; give one of them.")
    if options["strict"] and options["on_failure"] == "bicubic":
        raise click.UsageError("--strict and --on-failure bicubic contradict each other; give one of them.")
    if options["outscale"] is None and options["to_size"] is None:
        return None
    from sr_deploy.pictures.size import TargetSize

    return TargetSize.parse(options["to_size"]) if options["to_size"] is not None else TargetSize.of_factor(options["outscale"])


def _video(options: dict[str, Any]) -> VideoOptions:
    from sr_deploy.video.options import VideoOptions

    same = ("codec", "crf", "preset", "pixel_format", "encoder_options", "start", "until", "fps", "deinterlace", "decode")
    return VideoOptions(
        **{name: options[name] for name in same},
        on_damage=options["on_damage"],
        reuse=not options["no_reuse"],
        drop_unsupported=options["drop_unsupported"],
        resume=options["resume"],
    )


def _output(name: str | None) -> Path | None:
    """The output path; a slash at its end says that it is a folder, whatever its name looks like."""
    if name is None:
        return None
    path = Path(name)
    if name.endswith(("/", "\\")) and not path.exists():
        path.mkdir(parents=True)
    return path


def _document(upscaler: ImageUpscaler, summary: Summary) -> dict[str, Any]:
    from sr_deploy.cli.progress import video_facts

    return {
        "network": upscaler.bundle.card.name,
        "scale": upscaler.scale,
        "engine": upscaler.description,
        "done": [{**_files(outcome), "seconds": outcome.seconds} for outcome in _of(summary, "done")],
        "skipped": [_files(outcome) for outcome in _of(summary, "skipped")],
        "failed": [{"input": failure.path, "message": failure.message} for failure in summary.failed],
        "notes": [{"input": path, "note": note} for path, note in summary.notes],
        "seconds": summary.seconds,
        "timing": summary.timing,
        "stats": summary.stats,
        "videos": [{**_files(outcome), **video_facts(outcome.video)} for outcome in _of(summary, "done") if outcome.video],
        "refined": getattr(upscaler.stats, "share", None),
    }


def _of(summary: Summary, status: Literal["done", "skipped"]) -> list[Outcome]:
    return [outcome for outcome in summary.outcomes if outcome.status == status]


def _files(outcome: Outcome) -> dict[str, Path]:
    return {"input": outcome.job.source, "output": outcome.job.target}
