"""Checkpoint -> bundle: choose the function, reparameterize, trace, halve, certify."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from onnx import ModelProto

from sr_deploy.architectures import load_checkpoint
from sr_deploy.arrays import Array
from sr_deploy.bundle import Bundle, graph_key, sha256_of
from sr_deploy.card import GRAPH_METADATA_KEY, GraphCard, Link, ModelCard, Part, Precision, Source
from sr_deploy.engines.facts import graph_facts
from sr_deploy.errors import UnknownArchitectureError
from sr_deploy.export import foreign, program, spandrel
from sr_deploy.export.activations import Activations, measure_ranges
from sr_deploy.export.certify import ImageFunction, as_function, certify, run_graph, run_original, write_probes
from sr_deploy.export.masked import (
    all_patches,
    certify_masked,
    masked_facts,
    run_all_refined,
    run_masked_original,
    write_masked_probes,
)
from sr_deploy.export.precision import HalfPrecision, to_fp16
from sr_deploy.export.probes import noise_probes, parity_probes, range_probes
from sr_deploy.export.report import write_report
from sr_deploy.export.staging import check_target, staged
from sr_deploy.export.subject import Request, Subject, subject_of
from sr_deploy.export.trace import OPSET, trace, trace_parts
from sr_deploy.models.recipe import Recipe, check_recipe, read_recipe, recipe_of

__all__ = ["Recipe", "export_bundle", "read_recipe"]


def export_bundle(
    checkpoint: str | Path,
    output: str | Path | None = None,
    *,
    name: str | None = None,
    recipe: str | Path | None = None,
    value_range: float | None = None,
    variant: Mapping[str, Any] | None = None,
    architecture: str | None = None,
    dense_bsconv: bool = False,
    merge_parallel: bool = False,
    anyway: bool = False,
    trust: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Write the bundle of a checkpoint into a folder and open it.

    Warns (UserWarning) when the network is worse than bicubic on the test picture.

    checkpoint: weights of a known network, or of one that spandrel knows where that is installed; a torch.export program
        (.pt2); or an image-to-image graph (.onnx).
    output: the folder; None is the bundle's name, in the current folder.
    name: of the bundle; None is the recipe's, or the checkpoint's without its suffix.
    recipe: a TOML file that settles what the weights leave open, or the name of one that comes with sr-deploy; without it a
        published checkpoint is known by its sha256, and its recipe applies under what is given here; else that is measured.
    value_range: 1 or 255, what the network was trained with.
    variant: settles what else the weights leave open, by name.
    architecture: whose weights they are; None finds it out.
    dense_bsconv: make every BSConv one dense 3x3, an exact fold.
    merge_parallel: make one 5x5 of MSRN's parallel 3x3 and 5x5, an exact fold.
    anyway: export a network even if it is far worse than bicubic.
    trust: load a torch.export program, which can run code that is in it.
    overwrite: replace a bundle that is there.
    progress: called with a line about each step.

    Raises: UsageError, CheckpointError, UnknownArchitectureError, AmbiguousCheckpointError, ExportError, CertificationError,
    MissingDependencyError. Whatever is raised, nothing is left on disk.
    """
    checkpoint, say = Path(checkpoint), progress or (lambda _: None)
    chosen = _recipe(checkpoint, recipe)
    name = name or (chosen.name if chosen and recipe else checkpoint.stem)
    target = Path(name if output is None else output)
    check_target(target, overwrite=overwrite)
    if chosen and recipe is None:
        say(f"{checkpoint.name} is published: recipe '{chosen.name}' applies, license {chosen.license}")
    settings = {"value_range": chosen.value_range, **chosen.variant} if chosen else {}
    flags = ({} if value_range is None else {"value_range": float(value_range)}) | dict(variant or {})
    request = Request({**settings, **flags}, bool(flags), dense_bsconv, merge_parallel, anyway, trust)
    say(f"reading {checkpoint.name}")
    subject = _subject(checkpoint, request, architecture or (chosen.architecture if chosen else None), say)
    source = _source(checkpoint, chosen)
    graphs = _graphs(subject, name, source, say)
    say("certifying")
    certified = (_certified_masked if subject.masked else _certified)(subject, graphs)
    with staged(target, overwrite=overwrite) as folder:
        bundle = _write(folder, graphs, certified.links)
        certified.write_probes(folder)
        say("drawing the report")
        _draw(folder, bundle, subject, graphs, certified.halved)
    return Bundle.open(target)


def _draw(folder: Path, bundle: Bundle, subject: Subject, graphs: _Graphs, halved: ImageFunction) -> None:
    halves = {part: network.half for part, network in graphs.networks.items()}
    activations = {part: network.activations for part, network in graphs.networks.items()}
    write_report(folder, bundle, subject.original, halved, halves, activations)


def _recipe(checkpoint: Path, given: str | Path | None) -> Recipe | None:
    """The recipe that is given, else the one of a published checkpoint."""
    if given is not None:
        recipe = read_recipe(given)
        check_recipe(recipe, checkpoint)
        return recipe
    return recipe_of(checkpoint)


def _subject(checkpoint: Path, request: Request, architecture: str | None, say: Callable[[str], None]) -> Subject:
    where = checkpoint.name
    if checkpoint.suffix.lower() == ".onnx":
        return foreign.from_onnx(checkpoint, request)
    if checkpoint.suffix.lower() == ".pt2":
        return program.from_program(checkpoint, request)
    try:
        loaded = load_checkpoint(checkpoint, architecture=architecture)
    except UnknownArchitectureError as exc:
        if architecture is not None:
            raise
        return spandrel.from_spandrel(checkpoint, request, unknown=exc)
    if left := loaded.checkpoint.left:
        taken, others = loaded.checkpoint.wrapper, ", ".join(f"'{name}'" for name in left)
        say(f"{where}: takes the weights under '{taken}', not those under {others}")
    return subject_of(loaded, request, where=where)


def _source(checkpoint: Path, recipe: Recipe | None) -> Source:
    digest = sha256_of(checkpoint)
    if recipe is None:
        return Source(checkpoint.name, digest)
    return Source(checkpoint.name, digest, recipe.license, recipe.url, recipe.name, recipe.expected)


@dataclass(frozen=True)
class _NetworkGraphs:
    fp32: ModelProto
    half: HalfPrecision
    activations: Activations


@dataclass(frozen=True)
class _Graphs:
    card: ModelCard
    networks: dict[Part, _NetworkGraphs]


def _graphs(subject: Subject, name: str, source: Source, say: Callable[[str], None]) -> _Graphs:
    say("tracing")
    traced = _traced(subject)
    masked, facts = (
        (None, graph_facts(traced[""], size_multiple=subject.size_multiple))
        if "" in traced
        else masked_facts(traced["base"], traced["refine"])
    )
    smallest = -(-max(facts.min_size, subject.smallest) // subject.size_multiple) * subject.size_multiple
    sizes: dict[str, Any] = {"min_size": smallest, "size_multiple": subject.size_multiple}
    say("measuring activations")
    probes, noise = range_probes(subject.channels, **sizes), noise_probes(subject.channels, **sizes)
    networks: dict[Part, _NetworkGraphs] = {}
    for part, fp32 in traced.items():
        if part == "refine":
            probes, noise = all_patches(traced["base"], probes), all_patches(traced["base"], noise)
        activations = measure_ranges(fp32, probes, noise)
        networks[part] = _NetworkGraphs(fp32, to_fp16(fp32, activations.calm), activations)
    card = ModelCard(
        name=name,
        architecture=subject.architecture,
        scale=subject.scale,
        channels=cast("Any", subject.channels),
        value_range=subject.value_range,
        config=subject.config,
        source=source,
        detection=subject.detection,
        reparameterized=subject.folds,
        tiling="exact" if facts.exact else "approximate",
        halo=facts.halo,
        activation_bytes=facts.activation_bytes,
        macs=facts.macs,
        parameters=facts.parameters,
        largest_activation=max(_largest(network.activations.calm) for network in networks.values()),
        largest_activation_on_noise=max(_largest(network.activations.noise) for network in networks.values()),
        masked=masked,
        **sizes,
    )
    return _Graphs(card, {part: _labeled_network(network, card) for part, network in networks.items()})


def _traced(subject: Subject) -> dict[Part, ModelProto]:
    if subject.graph is not None:
        return {"": subject.graph}
    if subject.masked is not None:
        base, refine = trace_parts(subject.masked.network, channels=subject.channels, size_multiple=subject.size_multiple)
        return {"base": base, "refine": refine}
    assert subject.module is not None
    return {"": trace(subject.module, channels=subject.channels, size_multiple=subject.size_multiple)}


@dataclass(frozen=True)
class _Certified:
    """The chain, how its probes are written, and the network in fp16 as a function."""

    links: tuple[Link, ...]
    write_probes: Callable[[Path], None]
    halved: ImageFunction


def _certified(subject: Subject, graphs: _Graphs) -> _Certified:
    network = graphs.networks[""]
    half = network.half.model
    probes = _parity_probes(graphs.card)
    outputs = run_original(subject.original, probes)
    links = certify(
        probes,
        outputs,
        scale=subject.scale,
        reparameterized=None if subject.module is None else as_function(subject.module),
        fp32=network.fp32,
        fp16=half,
    )
    return _Certified(
        links,
        lambda folder: write_probes(folder, probes, outputs),
        lambda image: run_graph(half, {"picture": image}, arithmetic="fp16")["picture"],
    )


def _certified_masked(subject: Subject, graphs: _Graphs) -> _Certified:
    assert subject.masked is not None
    assert graphs.card.masked is not None
    base, refine = graphs.networks["base"], graphs.networks["refine"]
    probes = run_masked_original(subject.masked.original, _parity_probes(graphs.card))
    links = certify_masked(
        probes,
        masked=graphs.card.masked,
        scale=subject.scale,
        reparameterized=subject.masked.reparameterized,
        graphs={"fp32": (base.fp32, refine.fp32), "fp16": (base.half.model, refine.half.model)},
    )
    return _Certified(
        links,
        lambda folder: write_masked_probes(folder, probes),
        lambda image: run_all_refined(base.half.model, refine.half.model, image),
    )


def _parity_probes(card: ModelCard) -> dict[str, Array]:
    return parity_probes(card.channels, min_size=card.min_size, size_multiple=card.size_multiple)


def _largest(activations: Mapping[str, float]) -> float:
    """JSON has no infinity: what overflowed fp32 is given as fp32's largest value."""
    return min(max(activations.values()), float(np.finfo(np.float32).max))


def _labeled_network(network: _NetworkGraphs, card: ModelCard) -> _NetworkGraphs:
    half = HalfPrecision(_labeled(network.half.model, card), network.half.kept)
    return _NetworkGraphs(_labeled(network.fp32, card), half, network.activations)


def _labeled(model: ModelProto, card: ModelCard) -> ModelProto:
    labeled = ModelProto()
    labeled.CopyFrom(model)
    entry = labeled.metadata_props.add()
    entry.key, entry.value = GRAPH_METADATA_KEY, card.to_json()
    return labeled


def _write(folder: Path, graphs: _Graphs, links: tuple[Link, ...]) -> Bundle:
    cards: dict[str, GraphCard] = {}
    for part, network in graphs.networks.items():
        forms: tuple[tuple[Precision, ModelProto, tuple[str, ...]], ...] = (
            ("fp32", network.fp32, ()),
            ("fp16", network.half.model, tuple(network.half.kept)),
        )
        for precision, model, kept in forms:
            key = graph_key(precision, part)
            path = folder / f"{key}.onnx"
            path.write_bytes(model.SerializeToString(deterministic=True))
            opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), OPSET)
            cards[key] = GraphCard(path.name, precision, sha256_of(path), opset, kept)
    bundle = Bundle(folder, graphs.card, cards, links, _made_with())
    bundle.write_card()
    return bundle


def _made_with() -> dict[str, str]:
    found = {}
    for package in ("sr-deploy", "torch", "onnx", "onnxscript", "onnxruntime", "openvino"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
