"""`sr-deploy build`: a bundle -> an engine for the machines that a target describes."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from sr_deploy.card import GPU_PRECISIONS, Precision
from sr_deploy.cli import Command, json_option, verbose_option
from sr_deploy.cli.engines import record_facts
from sr_deploy.cli.output import print_json
from sr_deploy.errors import UsageError

if TYPE_CHECKING:
    from sr_deploy.engines.tensorrt.target import BuildSettings, Target

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_UPDATES = 0.1
WIDTH = 72


@click.command(
    "build",
    cls=Command,
    short_help="Compile a bundle into an engine for NVIDIA GPUs.",
    examples=(
        "sr-deploy build models/rlfn --target engines/rtx.toml",
        "sr-deploy build models/rlfn --target engines/rtx.toml --static 480x270 --compute-capability 8.9",
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--target",
    type=click.Path(path_type=Path),
    help="Name or TOML file of a target; options win over it.  [default: by library and GPU]",
)
@click.option("--min", "least", metavar="WxH", help="Smallest input.")
@click.option("--opt", "usual", metavar="WxH", help="Input that the engine is fastest at.")
@click.option("--max", "largest", metavar="WxH", help="Largest input.")
@click.option("--static", metavar="WxH", help="The only input that the engine takes.")
@click.option("--batch", type=click.IntRange(min=1), help="Most images at once.  [default: the target's, or 1]")
@click.option(
    "--compute-capability", "capabilities", multiple=True, metavar="X.Y", help="GPUs to compile for; may be repeated."
)
@click.option("--workspace", type=click.IntRange(min=1), metavar="MB", help="Scratch memory that kernels may use.")
@click.option("--optimization-level", type=click.IntRange(0, 5), help="How long the library may search.  [default: its own]")
@click.option("--precision", type=click.Choice(GPU_PRECISIONS), help="Graph to compile.  [default: the target's, or fp16]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="engines", show_default=True, help="Folder of engines."
)
@json_option
@verbose_option
def command(bundle: Path, target: Path | None, output: Path, precision: str | None, as_json: bool, **options: Any) -> None:
    """Compile BUNDLE into an engine for the machines that the target describes, by default those like this one.

    Prints the path of the engine; a mask-guided network becomes two, of base and refine network. What was compiled before
    with the same graph, shapes, settings and library is not compiled again.
    """
    from sr_deploy.engines.open import open_bundle
    from sr_deploy.engines.tensorrt.build import build_engine
    from sr_deploy.engines.tensorrt.library import flavour_of, load_library
    from sr_deploy.engines.tensorrt.target import load_target, usual_target

    chosen = load_target(target or usual_target())
    if target is None:
        click.echo(f"note: target {chosen.name}; --target names another", err=True)
    flavour = flavour_of(chosen.backend)
    settings = _settings(chosen, options)
    opened = open_bundle(bundle)
    library = load_library(flavour)
    progress = ProgressLine()
    try:
        engines = [
            build_engine(
                opened,
                library,
                settings,
                folder=output,
                precision=_precision(chosen, precision),
                part=part,
                say=progress.say,
                progress=progress,
            )
            for part in opened.card.parts
        ]
    finally:
        progress.close()
    if as_json:
        print_json({"engines": [{**vars(built), "record": record_facts(built.record)} for built in engines]})
        return
    for built in engines:
        size = f"{built.record.size / 1e6:.1f} MB"
        what = f"compiled in {built.record.seconds:.1f} s" if built.compiled else "there already, nothing to compile"
        click.echo(f"{built.record.name} for {library}: {what}, {size}", err=True)
        click.echo(built.path)


class ProgressLine:
    """How far a build is: one line on a terminal, rewritten; elsewhere a line now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._pause = SECONDS_BETWEEN_UPDATES if self._terminal else SECONDS_BETWEEN_LINES
        self._last = time.monotonic()

    def __call__(self, phase: str, fraction: float) -> None:
        now = time.monotonic()
        if now - self._last >= self._pause:
            self._last = now
            text = f"{fraction:4.0%} {phase}"[:WIDTH]
            click.echo(f"\r{text:<{WIDTH}}" if self._terminal else text, err=True, nl=not self._terminal)

    def say(self, text: str) -> None:
        self.close()
        click.echo(f"note: {text}", err=True)

    def close(self) -> None:
        """Leave the terminal clean."""
        if self._terminal:
            click.echo(f"\r{'':<{WIDTH}}\r", err=True, nl=False)


def _settings(target: Target, options: dict[str, Any]) -> BuildSettings:
    from sr_deploy.engines.tensorrt.target import BuildSettings

    names = {"least": "min", "usual": "opt", "largest": "max"}
    sizes = {name: options[option] for option, name in names.items() if options[option] is not None}
    if sizes and options["static"] is not None:
        raise click.UsageError(f"--static and --{next(iter(sizes))} contradict each other; give one of them.")
    given = {
        name: options[name] for name in ("static", "batch", "workspace", "optimization_level") if options[name] is not None
    }
    if options["capabilities"]:
        given["compute_capabilities"] = tuple(dict.fromkeys(options["capabilities"]))
    settings = target.build or BuildSettings()
    return replace(replace(settings, static=None) if sizes else settings, **sizes, **given)


def _precision(target: Target, given: str | None) -> Precision:
    asked = given or target.precision
    if asked in ("bf16", "int8"):
        others = "fp16, fp32 or int8-symmetric"
        raise UsageError(f"target '{target.name}': engines compute in {others}, not in {asked}; set precision to one of them")
    return "fp16" if asked == "auto" else cast("Precision", asked)
