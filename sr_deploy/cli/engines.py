"""`sr-deploy engines`: the engines of a folder, and what is of no use any more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli import Command, json_option, verbose_option
from sr_deploy.cli.output import print_json, print_table

if TYPE_CHECKING:
    from sr_deploy.engines.tensorrt.cache import EngineFile, EngineRecord


@click.command(
    "engines",
    cls=Command,
    short_help="List the engines of a folder, and prune it.",
    examples=(
        "sr-deploy engines",
        "sr-deploy engines built/ --prune",
    ),
)
@click.argument("folder", type=click.Path(path_type=Path), default="engines")
@click.option("--prune", is_flag=True, help="Delete engines that are damaged or of another library version.")
@json_option
@verbose_option
def command(folder: Path, prune: bool, as_json: bool) -> None:
    """List the engines of FOLDER (default: engines).

    An engine is of no use when it is damaged, or when its library is installed here in another version.
    """
    from sr_deploy.engines.tensorrt.build import problem_of
    from sr_deploy.engines.tensorrt.cache import EngineCache

    cache = EngineCache(folder)
    listed = [(entry, problem_of(entry)) for entry in cache.entries()]
    removed = cache.prune(problem_of) if prune else []
    gone = {entry.path for entry, _ in removed}
    if as_json:
        print_json({"engines": [{**_document(entry, problem), "removed": entry.path in gone} for entry, problem in listed]})
        return
    for entry, problem in removed:
        click.echo(f"removed {entry.path}: {problem}", err=True)
    rows = [_row(entry, problem) for entry, problem in listed if entry.path not in gone]
    print_table(rows, ("engine", "bundle", "for", "input", "kB", "state"))


def _row(entry: EngineFile, problem: str) -> tuple[object, ...]:
    size = entry.path.stat().st_size // 1000 if entry.path.is_file() else 0
    if entry.record is None:
        return (entry.path.name, "?", "?", "?", size, problem)
    record = entry.record
    key = record.key
    hardware = key.gpu or ", ".join(key.capabilities)
    return (
        entry.path.name,
        f"{record.name} {key.precision}",
        f"{key.library} {key.version}: {hardware}",
        sizes(record),
        size,
        problem or "ok",
    )


def sizes(record: EngineRecord) -> str:
    """'64x64 to 1920x1920', or the only size; with the batch where it is not 1."""
    least, _, largest = next(iter(record.key.shapes.values()))
    texts = [_size(shape, record.key.form) for shape in (least, largest)]
    batch = "" if largest[0] == 1 else f", batch {largest[0]}"
    return (texts[0] if texts[0] == texts[1] else " to ".join(texts)) + batch


def _size(shape: tuple[int, ...], form: str) -> str:
    height, width = shape[1:3] if form == "pixels" else shape[2:4]
    return f"{width}x{height}"


def _document(entry: EngineFile, problem: str) -> dict[str, Any]:
    return {"path": entry.path, "problem": problem, "record": None if entry.record is None else record_facts(entry.record)}


def record_facts(record: EngineRecord) -> dict[str, Any]:
    """What JSON tells of an engine's record."""
    facts = {name: value for name, value in vars(record).items() if name not in ("name", "format")}
    return {"network": record.name, **facts}
