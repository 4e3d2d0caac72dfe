"""`sr-deploy compare`: pictures, or what networks make of one, before and after in a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.batch import UpscalerSpec, open_upscaler
from sr_deploy.cli import Command, engine_options, json_option, verbose_option
from sr_deploy.cli.option_types import ModelReference
from sr_deploy.cli.output import print_json, say_on_stderr
from sr_deploy.cli.upscale_options import ready_model
from sr_deploy.errors import UsageError
from sr_deploy.models import resolve

if TYPE_CHECKING:
    from sr_deploy.evaluation.comparison import Scene
    from sr_deploy.pictures.picture import Picture


@click.command(
    "compare",
    cls=Command,
    short_help="See pictures before and after, in a page.",
    examples=(
        "sr-deploy compare photo.png large.png -o compare.html",
        "sr-deploy compare photo.png -m fast -m quality --original original.png",
    ),
)
@click.argument("pictures", nargs=-1, type=click.Path(path_type=Path), metavar="PICTURE...")
@click.option(
    "-m", "--model", "models", multiple=True, type=ModelReference(), help="A network that PICTURE goes through; repeatable."
)
@click.option("--original", type=click.Path(path_type=Path), help="The original picture, to measure the others against.")
@click.option(
    "--border", type=click.IntRange(min=0), help="Pixels at the edges that do not count.  [default: the factor to the original]"
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="compare.html", show_default=True, help="The page to write."
)
@engine_options
@json_option
@verbose_option
def command(
    pictures: tuple[Path, ...],
    models: tuple[str, ...],
    original: Path | None,
    border: int | None,
    output: Path,
    as_json: bool,
    **engine: Any,
) -> None:
    """Write a page that shows pictures of one scene before and after, with a slider and their pixels.

    Two pictures or more; or, with -m, each PICTURE with what networks make of it. With --original, PSNR-Y and SSIM-Y too. The
    page holds all that it needs, and replaces an older one.
    """
    from sr_deploy.batch.naming import holds_video
    from sr_deploy.evaluation.comparison import check_page, write_comparison
    from sr_deploy.pictures.image import read_image

    check_page(output, "-o")
    if not pictures or (not models and len(pictures) + (original is not None) < 2):
        raise click.UsageError("Name two pictures or more; or one and -m NETWORK; or one and --original.")
    if models and original and len(pictures) > 1:
        raise click.UsageError("--original is of one picture; with -m, name one.")
    if border is not None and original is None:
        raise click.UsageError("--border is for what --original is measured with.")
    for path in filter(holds_video, filter(Path.is_file, pictures)):
        raise UsageError(f"{path}: is a video; `sr-deploy upscale --preview 5` shows parts of one before and after")
    named = list(zip(_labels(pictures), map(read_image, pictures), strict=True))
    truth = None if original is None else ("original", read_image(original))
    scenes = _through_networks(named, models, truth, border, engine) if models else [_as_they_are(named, truth, border)]
    write_comparison(output, "Before and after", scenes, lead=_lead(scenes))
    if as_json:
        print_json({"page": output, "scenes": scenes_for_json(scenes)})
    else:
        click.echo(output)


def scenes_for_json(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """What JSON tells of scenes: names, sizes and scores."""
    shown = ("label", "width", "height", "psnr_y", "ssim_y")
    return [
        {"name": scene.name, "versions": [{key: getattr(one, key) for key in shown} for one in scene.versions]}
        for scene in scenes
    ]


def _as_they_are(named: Sequence[tuple[str, Picture]], truth: tuple[str, Picture] | None, border: int | None) -> Scene:
    from sr_deploy.evaluation.comparison import scene_of

    return scene_of(", ".join(label for label, _ in named), named, truth, border=border)


def _through_networks(
    named: Sequence[tuple[str, Picture]],
    models: Sequence[str],
    truth: tuple[str, Picture] | None,
    border: int | None,
    engine: dict[str, Any],
) -> list[Scene]:
    from sr_deploy.evaluation.comparison import require_one_scene, scene_of

    factor = None
    if truth is not None:
        require_one_scene([(label, *picture.pixels.shape[:2]) for label, picture in (*named, truth)])
        factor = round(truth[1].pixels.shape[0] / named[0][1].pixels.shape[0])
    specs = [UpscalerSpec(str(resolve(ready_model(model), factor)), **engine) for model in models]
    made: list[list[tuple[str, Picture]]] = [[("input", picture)] for _, picture in named]
    for model, spec in zip(models, specs, strict=True):
        with open_upscaler(spec) as upscaler:
            say_on_stderr(upscaler.description)
            label = upscaler.bundle.card.name
            taken = {name for name, _ in made[0]}
            for images, (_, picture) in zip(made, named, strict=True):
                images.append((label if label not in taken else model, upscaler.upscale_picture(picture)))
    return [scene_of(name, images, truth, border=border) for (name, _), images in zip(named, made, strict=True)]


def _labels(paths: Sequence[Path]) -> list[str]:
    """The names of files; where two have one name, whole paths."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _lead(scenes: Sequence[Scene]) -> str:
    lead = "Drag the divider, or move it with the arrow keys; + and - zoom."
    if scenes[0].border is None:
        return lead
    return f"{lead} PSNR and SSIM are of Y, in 8 bits, without a border of {scenes[0].border} pixels."
