"""`sr-deploy upscale`: images and folders of images -> upscaled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sr_deploy.cli.group import verbose, verbose_option
from sr_deploy.cli.output import json_option, print_json

if TYPE_CHECKING:
    from sr_deploy.runtime.folder import Summary
    from sr_deploy.runtime.size import TargetSize
    from sr_deploy.runtime.upscaler import Upscaler

MEGABYTE = 1_000_000


class TileSize(click.ParamType[int | Literal["auto"] | None]):
    """A number of LR pixels, 0 for the whole image, or `auto`."""

    name = "tile"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["auto"]:
        if value == "auto":
            return "auto"
        try:
            tile = int(value)
        except ValueError:
            self.fail(f"'{value}' is neither a number of pixels nor 'auto'", param, ctx)
        if tile < 0:
            self.fail(f"{tile} is below 0; 0 is the whole image", param, ctx)
        return tile


@click.command("upscale")
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path), metavar="INPUT...")
@click.option("-i", "--input", "more_inputs", multiple=True, type=click.Path(path_type=Path), help="An input, as an option.")
@click.option("-m", "--model", required=True, type=click.Path(path_type=Path), help="A bundle, or an ONNX file.")
@click.option("-o", "--output", help="A folder, or a file for one input.  [default: beside the input]")
@click.option("-s", "--outscale", type=float, help="Factor of the result.  [default: the network's own]")
@click.option("--to", "to_size", metavar="SIZE", help="Size of the result: 4k, 1080p, WIDTHxHEIGHT, long=N, short=N.")
@click.option("-t", "--tile", type=TileSize(), help="Tile side in input pixels; 0: the whole image.  [default: auto]")
@click.option("--backend", help="Inference runtime; `sr-deploy doctor` lists them.  [default: auto]")
@click.option("--allow-cpu", is_flag=True, help="Run on the CPU where there is a GPU that no runtime can use.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Arithmetic.  [default: auto]")
@click.option("--fp32", is_flag=True, help="The same as --precision fp32.")
@click.option(
    "--on-failure",
    type=click.Choice(["raise", "bicubic"]),
    default="raise",
    show_default=True,
    help="What to do with a tile that is not sane in fp32 either.",
)
@click.option("-f", "--ext", "extension", help="Format of the results: png, jpg, webp, ...  [default: the input's]")
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
@click.option("--target", type=click.Path(path_type=Path), help="A TOML file of engines/; options given here win over it.")
@click.option("--no-progress", is_flag=True, help="Say nothing but errors and notes.")
@click.option("--progress", type=click.Choice(["bar", "line", "json"]), help="How to show progress, on stderr.")
@json_option
@verbose_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Upscale images and folders of images.

    Prints the paths that it wrote on stdout, everything else on stderr. Results that exist and are whole are skipped, so the
    same command goes on where an earlier one stopped.
    """
    inputs = [*options["inputs"], *options["more_inputs"]]
    if not inputs:
        raise click.UsageError("Missing INPUT: name at least one image or folder.")
    size = _size(options)
    output = _output(options["output"])
    kind = "none" if options["no_progress"] else options["progress"]

    from sr_deploy.cli.progress import make_report
    from sr_deploy.runtime.folder import WriteOptions, upscale_files

    with _open(options) as upscaler:
        report = make_report(kind, paths=not options["as_json"], verbose=verbose(ctx))
        try:
            if kind != "none":
                report.say(upscaler.description)
            summary = upscale_files(
                inputs,
                output,
                upscaler,
                size=size,
                suffix=options["suffix"],
                extension=options["extension"],
                options=WriteOptions(options["quality"], options["strip_metadata"], options["overwrite"]),
                observer=report,
            )
            report.summarize(summary)
        finally:
            report.close()
        if options["as_json"]:
            print_json(_document(upscaler, summary))
    ctx.exit(1 if summary.failed else 0)


def _open(options: dict[str, Any]) -> Upscaler:
    from sr_deploy.engines.target import Target, load_target
    from sr_deploy.runtime.upscaler import Upscaler

    target = load_target(options["target"]) if options["target"] else Target("options")
    given = {name: options[name] for name in ("backend", "tile", "memory", "threads") if options[name] is not None}
    if options["fp32"] or options["precision"] is not None:
        given["precision"] = "fp32" if options["fp32"] else options["precision"]
    target = replace(target, **given)
    return Upscaler(
        options["model"],
        backend=target.backend,
        precision=target.precision,
        tile="auto" if target.tile is None else target.tile,
        on_failure=options["on_failure"],
        memory=None if target.memory is None else target.memory * MEGABYTE,
        threads=target.threads,
        allow_cpu=options["allow_cpu"],
    )


def _size(options: dict[str, Any]) -> TargetSize | None:
    if options["outscale"] is not None and options["to_size"] is not None:
        raise click.UsageError("-s and --to contradict each other; give one of them.")
    if options["fp32"] and options["precision"] not in (None, "fp32"):
        raise click.UsageError(f"--fp32 and --precision {options['precision']} contradict each other; give one of them.")
    if options["outscale"] is None and options["to_size"] is None:
        return None
    from sr_deploy.runtime.size import TargetSize

    return TargetSize.parse(options["to_size"]) if options["to_size"] is not None else TargetSize.of_factor(options["outscale"])


def _output(name: str | None) -> Path | None:
    """The output path; a slash at its end says that it is a folder, whatever its name looks like."""
    if name is None:
        return None
    path = Path(name)
    if name.endswith(("/", "\\")) and not path.exists():
        path.mkdir(parents=True)
    return path


def _document(upscaler: Upscaler, summary: Summary) -> dict[str, Any]:
    return {
        "model": upscaler.bundle.card.name,
        "scale": upscaler.scale,
        "engine": upscaler.description,
        "done": summary.done,
        "skipped": summary.skipped,
        "failed": [{"path": failure.path, "message": failure.message} for failure in summary.failed],
        "notes": [{"path": path, "note": note} for path, note in summary.notes],
        "seconds": summary.seconds,
        "timing": summary.timing,
        "tiles": summary.tiles,
        "recomputed": summary.recomputed,
        "replaced": summary.replaced,
    }
