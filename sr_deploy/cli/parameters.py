"""The options of `upscale`: what values they take, and which were given and do nothing for the inputs of this run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from sr_deploy.models import names
from sr_deploy.pictures.formats.encode import LOSSY_SUFFIXES

if TYPE_CHECKING:
    from sr_deploy.batch.naming import Job, Plan


class ModelReference(click.ParamType[str]):
    """A bundle, an ONNX file, or a network in the box."""

    name = "network"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so, and files."""
        del ctx, param
        known = [CompletionItem(name) for name in names() if name.startswith(incomplete)]
        return [*known, CompletionItem(incomplete, type="file")]


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


class Seconds(click.ParamType[Fraction]):
    """A time in a video."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        del param, ctx
        from sr_deploy.video.options import parse_time

        return parse_time(value)


class Rate(click.ParamType[Fraction]):
    """Frames per second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        del param, ctx
        from sr_deploy.video.options import parse_rate

        return parse_rate(value)


class KeyValue(click.ParamType[tuple[str, str]]):
    """An option of an encoder."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        key, equals, setting = value.partition("=")
        if not key or not equals:
            self.fail(f"'{value}' is no KEY=VALUE", param, ctx)
        return key, setting


class Share(click.ParamType[float]):
    """A share: `40%` or 0.4."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            share = float(value[:-1]) / 100 if str(value).endswith("%") else float(value)
        except ValueError:
            self.fail(f"'{value}' is no share; expected one such as 40% or 0.4", param, ctx)
        return share


class Patches(click.ParamType[dict[str, float]]):
    """A number of patches, a share such as 20%, or a lowest score such as >=0.3."""

    name = "patches"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:
        try:
            if value.startswith(">="):
                return {"threshold": float(value[2:])}
            return {"k": float(value[:-1]) / 100 if value.endswith("%") else int(value)}
        except ValueError:
            self.fail(f"'{value}' is neither a number of patches nor one such as 20% or >=0.3", param, ctx)


class IdleOptions:
    """Tells, once it is planned what becomes what, which of the given options are for something else, a line each."""

    def __init__(self, ctx: click.Context, *, pictures: Sequence[str], videos: Sequence[str], whole_images: bool) -> None:
        """ctx: of the command. pictures, videos: parameters for these alone. whole_images: the network takes no tiles."""
        self._given = {
            parameter.name or "": _name(parameter, ctx.params.get(parameter.name or ""))
            for parameter in ctx.command.params
            if ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        }
        self._output = ctx.params.get("output")
        self._pictures, self._videos, self._whole_images = pictures, videos, whole_images

    def any_given(self, names: Iterable[str]) -> bool:
        """Whether one of these parameters stood on the command line."""
        return any(name in self._given for name in names)

    def __call__(self, plan: Plan) -> Iterator[str]:
        pictures = [job for job in plan.jobs if not job.video]
        if plan.jobs and not pictures:
            yield from self._line(self._pictures, "pictures, and there are none")
        if plan.jobs and len(pictures) == len(plan.jobs):
            yield from self._line(self._videos, "videos, and there are none")
        if pictures and not any(job.target.suffix.lower() in LOSSY_SUFFIXES for job in pictures):
            yield from self._line(["quality"], f"lossy formats ({', '.join(LOSSY_SUFFIXES)}), and no picture becomes one")
        if any(self._is_named(job) for job in plan.jobs):
            yield from self._line(["suffix"], "results that -o does not name")
        if self._whole_images:
            yield from self._line(["tile"], "networks that take tiles, and a mask-guided one takes whole images")

    def _line(self, names: Iterable[str], purpose: str) -> Iterator[str]:
        if given := [self._given[name] for name in names if name in self._given]:
            yield f"{', '.join(given)}: without effect here, for {purpose}"

    def _is_named(self, job: Job) -> bool:
        return self._output is not None and str(job.target) == self._output


def _name(parameter: click.Parameter, value: object) -> str:
    """What was typed, in its long form."""
    names = parameter.secondary_opts if value is False and parameter.secondary_opts else parameter.opts
    return max(names, key=len)
