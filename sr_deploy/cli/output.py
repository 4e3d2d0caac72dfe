"""What commands print for people (tables) and for programs (JSON)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sr_deploy.files import Address

SCHEMA = 1
"""Of all documents of --json; it rises when a key goes or changes its meaning, not when one comes."""

_DIGITS = 6
_PRINTED = "sr_deploy.printed"


def print_json(document: Mapping[str, Any]) -> None:
    """Print the command's one document on stdout: dataclasses, paths and plain values, as `to_json` has them."""
    click.echo(to_json({"schema": SCHEMA, **document}, indent=1))
    click.get_current_context().meta[_PRINTED] = True


def print_json_error(ctx: click.Context, kind: str, message: str, exit_code: int) -> None:
    """Print an error as the document of a command that failed before it printed its own; after that, nothing."""
    if _PRINTED not in ctx.meta:
        error = {"type": kind, "message": message, "exit_code": exit_code}
        click.echo(to_json({"schema": SCHEMA, "error": error}, indent=1))


def to_json(document: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """UTF-8, on one line without `indent`. Floats have 6 digits; an infinite PSNR is 999, as in the card, and NaN is null.

    File names may hold bytes that are not UTF-8; each becomes U+FFFD.
    """
    text = json.dumps(_plain(document), indent=indent, ensure_ascii=False, allow_nan=False)
    return re.sub("[\ud800-\udfff]", "\ufffd", text).encode("utf-8")


@contextlib.contextmanager
def warnings_told(say: Callable[[str], None]) -> Iterator[None]:
    """Inside the block, each warning for users is told in a line."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: say(f"warning: {message}")
        yield


def say_on_stderr(text: str) -> None:
    """A line for people, beside the result on stdout."""
    click.echo(text, err=True)


def print_table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> None:
    """Print columns as wide as they need to be, numbers to the right."""
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *texts, strict=True)]
    right = [bool(rows) and all(isinstance(row[at], int | float) for row in rows) for at in range(len(header))]
    for line in (list(header), ["-" * width for width in widths], *texts):
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one per line; what is None or empty is left out."""
    shown = {name: _text(value) for name, value in facts.items() if value not in (None, "", (), [], {})}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        click.echo(f"{name:<{width}}  {value}")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Path | Address):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else 999.0 if value == math.inf else None
    return value
