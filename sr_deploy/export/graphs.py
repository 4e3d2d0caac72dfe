"""The graphs of a bundle: traced, halved, with their card, and written into its folder."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from onnx import ModelProto

from sr_deploy.bundle import Bundle, graph_key, sha256_of
from sr_deploy.card import GRAPH_METADATA_KEY, GraphCard, Link, ModelCard, Part, Precision, Source
from sr_deploy.engines.facts import graph_facts
from sr_deploy.export.activations import Activations, measure_ranges
from sr_deploy.export.int8 import Int8Graph
from sr_deploy.export.masked import all_patches, masked_facts
from sr_deploy.export.precision import HalfPrecision, to_fp16
from sr_deploy.export.probes import noise_probes, range_probes
from sr_deploy.export.subject import Subject
from sr_deploy.export.trace import OPSET, trace, trace_parts


@dataclass(frozen=True)
class NetworkGraphs:
    fp32: ModelProto
    half: HalfPrecision
    activations: Activations
    int8: Mapping[Precision, Int8Graph] = field(default_factory=dict)


@dataclass(frozen=True)
class Graphs:
    card: ModelCard
    networks: dict[Part, NetworkGraphs]


def graphs_of(subject: Subject, name: str, source: Source, say: Callable[[str], None]) -> Graphs:
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
    networks: dict[Part, NetworkGraphs] = {}
    for part, fp32 in traced.items():
        if part == "refine":
            probes, noise = all_patches(traced["base"], probes), all_patches(traced["base"], noise)
        activations = measure_ranges(fp32, probes, noise)
        networks[part] = NetworkGraphs(fp32, to_fp16(fp32, activations.calm), activations)
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
    return Graphs(card, {part: _labeled_network(network, card) for part, network in networks.items()})


def _traced(subject: Subject) -> dict[Part, ModelProto]:
    if subject.graph is not None:
        return {"": subject.graph}
    if subject.masked is not None:
        base, refine = trace_parts(subject.masked.network, channels=subject.channels, size_multiple=subject.size_multiple)
        return {"base": base, "refine": refine}
    assert subject.module is not None
    return {"": trace(subject.module, channels=subject.channels, size_multiple=subject.size_multiple)}


def _largest(activations: Mapping[str, float]) -> float:
    """JSON has no infinity: what overflowed fp32 is given as fp32's largest value."""
    return min(max(activations.values()), float(np.finfo(np.float32).max))


def _labeled_network(network: NetworkGraphs, card: ModelCard) -> NetworkGraphs:
    half = HalfPrecision(labeled(network.half.model, card), network.half.kept)
    return replace(network, fp32=labeled(network.fp32, card), half=half)


def labeled(model: ModelProto, card: ModelCard) -> ModelProto:
    labeled = ModelProto()
    labeled.CopyFrom(model)
    entry = labeled.metadata_props.add()
    entry.key, entry.value = GRAPH_METADATA_KEY, card.to_json()
    return labeled


def write_graphs(folder: Path, graphs: Graphs, links: tuple[Link, ...]) -> Bundle:
    cards: dict[str, GraphCard] = {}
    for part, network in graphs.networks.items():
        for precision, model, facts in _forms(network):
            key = graph_key(precision, part)
            path = folder / f"{key}.onnx"
            path.write_bytes(model.SerializeToString(deterministic=True))
            opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), OPSET)
            cards[key] = GraphCard(path.name, precision, sha256_of(path), opset, **facts)
    bundle = Bundle(folder, graphs.card, cards, links, _made_with())
    bundle.write_card()
    return bundle


def _forms(network: NetworkGraphs) -> Iterator[tuple[Precision, ModelProto, dict[str, Any]]]:
    """Each graph with what its card says beside the file."""
    yield "fp32", network.fp32, {}
    yield "fp16", network.half.model, {"kept_fp32": tuple(network.half.kept)}
    for precision, made in network.int8.items():
        if made.model is not None:
            yield precision, made.model, {"kept_fp32": made.kept, "loss": made.allowed, "factor": round(made.factor, 3)}


def _made_with() -> dict[str, str]:
    found = {}
    for package in ("sr-deploy", "torch", "onnx", "onnxscript", "onnxruntime", "openvino"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
