"""What the options of commands take: paths, sizes, times, shares."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import click
from click.shell_completion import CompletionItem

from sr_deploy.files import Address
from sr_deploy.models import fetched, names


class InputPath(click.Path):
    """A path, or the http(s) address of a video."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        return value if Address.of(str(value)) else Path(str(super().convert(value, param, ctx)))


class ModelReference(click.ParamType[str]):
    """A bundle, an ONNX file, a network in the box, or a fetched one."""

    name = "network"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so, and files."""
        del ctx, param
        known = [CompletionItem(name) for name in (*names(), *fetched()) if name.startswith(incomplete)]
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
        from sr_deploy.film.options import parse_time

        return parse_time(value)


class Rate(click.ParamType[Fraction]):
    """Frames per second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        del param, ctx
        from sr_deploy.film.options import parse_rate

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
