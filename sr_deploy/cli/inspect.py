"""`sr-deploy inspect`: what a checkpoint, a bundle, an ONNX file or an engine is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.card import GRAPH_METADATA_KEY, ModelCard
from sr_deploy.cli import Command, json_option, verbose_option
from sr_deploy.cli.output import print_facts, print_json, print_table
from sr_deploy.cli.verify import print_links
from sr_deploy.errors import EngineError, UnknownArchitectureError, UsageError
from sr_deploy.filetypes import read_start
from sr_deploy.models import fetched, hint, is_in_the_box, resolve


@click.command(
    "inspect",
    cls=Command,
    short_help="Say what a checkpoint, bundle, ONNX file or engine is.",
    examples=(
        "sr-deploy inspect models/rlfn",
        "sr-deploy inspect model.onnx --json",
    ),
)
@click.argument("path", type=click.Path(path_type=Path))
@json_option
@verbose_option
def command(path: Path, as_json: bool) -> None:
    """Say what PATH is: a checkpoint, a bundle, an ONNX file or an engine."""
    path = resolve(path) if is_in_the_box(str(path)) or str(path) in fetched() else path
    if not path.exists():
        expected = "expected a checkpoint, a bundle, an ONNX file or an engine"
        raise UsageError(f"{path}: no such file or folder; {expected}{hint(str(path))}")
    if path.is_dir():
        _bundle(path, as_json)
    elif path.suffix.lower() == ".onnx":
        _graph(path, as_json)
    elif path.suffix.lower() == ".engine":
        _engine(path, as_json)
    elif path.suffix.lower() == ".pt2":
        _program(path, as_json)
    else:
        _checkpoint(path, as_json)


def _bundle(path: Path, as_json: bool) -> None:
    bundle = Bundle.open(path)
    if as_json:
        print_json({"kind": "bundle", "path": path, "network": bundle.card.name, **_fields(bundle, leave_out=("folder",))})
        return
    print_facts({"bundle": path, **_card_facts(bundle.card)})
    click.echo()
    graphs = [
        (name, graph.file, (path / graph.file).stat().st_size // 1000, graph.opset, len(graph.kept_fp32))
        for name, graph in bundle.graphs.items()
    ]
    print_table(graphs, ("graph", "file", "kB", "opset", "kept in fp32"))
    if bundle.certificate:
        click.echo()
        print_links(bundle.certificate)


def _graph(path: Path, as_json: bool) -> None:
    from sr_deploy.engines.facts import graph_facts
    from sr_deploy.engines.graph_file import read_graph
    from sr_deploy.engines.open import open_bundle

    model, bundle = read_graph(path), open_bundle(path)
    card = bundle.card
    (stored,) = bundle.graphs.values()
    portable = read_graph(bundle.graph(stored.precision))
    try:
        measured = graph_facts(portable)
    except EngineError as exc:
        raise EngineError(f"{path}: {exc}") from exc
    facts = {
        "kind": "onnx",
        "path": path,
        "opset": next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None),
        "inputs": [_spec(value) for value in model.graph.input],
        "outputs": [_spec(value) for value in model.graph.output],
        "nodes": len(model.graph.node),
        **dataclasses.asdict(measured),
        "made_by_us": any(entry.key == GRAPH_METADATA_KEY for entry in model.metadata_props),
    }
    if as_json:
        print_json({**facts, "network": card.name, "card": card})
    else:
        print_facts({**facts, "name": card.name, "architecture": card.architecture, "value_range": card.value_range})


def _engine(path: Path, as_json: bool) -> None:
    from sr_deploy.cli.engines import record_facts, sizes
    from sr_deploy.engines.tensorrt.build import problem_of
    from sr_deploy.engines.tensorrt.cache import read_entry

    entry = read_entry(path)
    if entry.record is None:
        raise EngineError(f"{path}: not an engine of ours, {entry.problem}; build it again with `sr-deploy build`")
    record, problem = entry.record, problem_of(entry)
    if as_json:
        print_json({"kind": "engine", "path": path, "problem": problem, **record_facts(record)})
        return
    facts = {
        "engine": path,
        "bundle": record.name,
        "scale": record.scale,
        "inputs": record.inputs,
        "outputs": record.outputs,
        "sizes": sizes(record),
        "kB": record.size // 1000,
        "built": f"{record.built} in {record.seconds:.1f} s",
        "state": problem or "ok",
    }
    shapes = {name: " / ".join("x".join(map(str, shape)) for shape in three) for name, three in record.key.shapes.items()}
    key = {**_fields(record.key, leave_out=()), "shapes": shapes}
    print_facts({**facts, **{f"key.{name}": value for name, value in key.items()}})


def _program(path: Path, as_json: bool) -> None:
    from sr_deploy.export.program import check_program

    check_program(path)
    facts = {"kind": "program", "path": path, "made_by": "torch.export", "needs": "export --trust"}
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


def _of_spandrel(path: Path, as_json: bool, unknown: UnknownArchitectureError) -> None:
    from sr_deploy.export.spandrel import find

    found = find(path, unknown=unknown)
    facts = {
        "kind": "checkpoint",
        "path": path,
        "architecture": found.name,
        "title": f"{found.name}, known by spandrel",
        "config": {"scale": found.scale, "colors": found.channels},
        "parameters": sum(tensor.numel() for tensor in found.network.state_dict().values()),
        "sha256": sha256_of(path),
    }
    if as_json:
        print_json({**facts, "paper": "", "found_in": "", "left": [], "readings": [{"value_range": 1.0}]})
    else:
        print_facts(facts)


def _checkpoint(path: Path, as_json: bool) -> None:
    read_start(path)

    from sr_deploy.architectures import load_checkpoint

    try:
        loaded = load_checkpoint(path)
    except UnknownArchitectureError as exc:
        _of_spandrel(path, as_json, exc)
        return
    first = loaded.readings[0]
    facts = {
        "kind": "checkpoint",
        "path": path,
        "architecture": loaded.architecture.name,
        "title": loaded.architecture.title,
        "paper": loaded.architecture.paper,
        "config": dataclasses.asdict(first.config),
        "parameters": sum(tensor.numel() for tensor in loaded.checkpoint.state.values()),
        "found_in": loaded.checkpoint.wrapper,
        "left": loaded.checkpoint.left,
        "sha256": loaded.checkpoint.sha256,
    }
    readings = [{"value_range": reading.value_range, **reading.assumes} for reading in loaded.readings]
    if as_json:
        print_json({**facts, "readings": readings})
        return
    print_facts(facts)
    if len(readings) > 1:
        click.echo()
        click.echo(f"The weights leave {len(readings)} readings open; `sr-deploy export` measures which it is:")
        print_table([tuple(reading.values()) for reading in readings], tuple(readings[0]))


def _card_facts(card: ModelCard) -> dict[str, Any]:
    facts = _fields(card, leave_out=("detection", "source", "masked"))
    if card.masked is not None:
        facts |= {f"refine {name}": value for name, value in dataclasses.asdict(card.masked).items()}
    if card.source is not None:
        facts |= {"checkpoint": card.source.file, "sha256": card.source.sha256, "license": card.source.license}
        facts |= {"purpose": card.source.purpose} if card.source.purpose else {}
        facts |= {"trained with": "; ".join(card.source.credits)} if card.source.credits else {}
    if card.detection is not None:
        facts["decided by"] = card.detection.decided_by
        facts["margin"] = None if card.detection.margin is None else f"{card.detection.margin:.2f} dB"
    return facts


def _fields(value: Any, *, leave_out: tuple[str, ...]) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.name not in leave_out}


def _spec(value: Any) -> str:
    from onnx import TensorProto

    kind = value.type.tensor_type
    sizes = [dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?") for dim in kind.shape.dim]
    return f"{value.name} {TensorProto.DataType.Name(kind.elem_type).lower()}[{', '.join(sizes)}]"
