"""What commands print for people (tables) and for programs (JSON)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


def print_json(document: Any) -> None:
    """Print dataclasses, paths and plain values as one JSON document; an infinite PSNR is 999, as in the card."""
    click.echo(json.dumps(_plain(document), indent=1, ensure_ascii=False, allow_nan=False))


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
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return 999.0 if value == math.inf else None
    return str(value) if isinstance(value, Path) else value
