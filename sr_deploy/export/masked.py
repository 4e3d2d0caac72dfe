"""Mask-guided networks: what their card says, and the parity chain of their two graphs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto
from onnx.utils import Extractor

from sr_deploy.architectures.mga import PADDING, PATCH
from sr_deploy.arrays import Array
from sr_deploy.bundle import PROBE_FILE
from sr_deploy.card import Link, Masked
from sr_deploy.engines import open_engine
from sr_deploy.engines.facts import GraphFacts, cost_of, graph_facts, parameters
from sr_deploy.engines.parity import Look, MaskedProbe, Refine, compare_parts, parts_of
from sr_deploy.engines.patches import best, crops, paste
from sr_deploy.engines.pixels import COARSE, FEATURES
from sr_deploy.export.certify import REPARAMETERIZED, ImageFunction, checked, require_finite, runs

_REFINED = 0.4
"""Share of a probe's patches that are refined."""

_SAMPLE = 8
"""Patches of a probe that the refine network is measured on by itself."""

_MASK_REACH = 2 + 2 * PATCH
"""How far a score sees around its patch, in pixels of the features: two 3x3 convolutions, then two patches."""


def masked_facts(base: ModelProto, refine: ModelProto) -> tuple[Masked, GraphFacts]:
    """What the card of a mask-guided network says of its refine network, and the facts of its base.

    `exact` and `halo` hold for coarse, features and scores, in tiles that begin at a patch.

    Raises: EngineError.
    """
    side = PATCH + 2 * PADDING
    cost = cost_of(refine, side, side)
    features = next(value for value in base.graph.output if value.name == FEATURES)
    facts = graph_facts(base)
    # The mask's pooling has strides: exact and halo come from the image alone.
    coarse = graph_facts(Extractor(base).extract_model([base.graph.input[0].name], [COARSE]))
    masked = Masked(
        patch=PATCH,
        padding=PADDING,
        features=features.type.tensor_type.shape.dim[1].dim_value,
        macs=cost.macs // PATCH**2,
        activation_bytes=cost.activation_bytes,
        parameters=parameters(refine),
    )
    halo = math.ceil((coarse.halo + _MASK_REACH) / PATCH) * PATCH if coarse.exact else coarse.halo
    total = facts.parameters + masked.parameters
    return masked, dataclasses.replace(facts, exact=coarse.exact, halo=halo, parameters=total)


def all_patches(base: ModelProto, images: Mapping[str, Array]) -> dict[str, Array]:
    """What the refine network sees of every patch of each image: (K,F,side,side) by name.

    Raises: BackendUnavailableError without ONNX Runtime; EngineError.
    """
    with open_engine(base, backend="onnxruntime", threads=1) as engine:
        features = {name: engine.run({engine.inputs[0].name: image})[FEATURES] for name, image in images.items()}
    return {name: crops(array, _every(array), patch=PATCH, padding=PADDING) for name, array in features.items()}


def refine_all(look: Look, refine: Refine) -> ImageFunction:
    """The network with every patch refined."""

    def run(image: Array) -> Array:
        coarse, features, _ = look(image)
        every = _every(features)
        return paste(coarse, refine(crops(features, every, patch=PATCH, padding=PADDING)), every)

    return run


def run_all_refined(base: ModelProto, refine: ModelProto, image: Array) -> Array:
    """The image by both fp16 graphs with every patch refined."""
    with (
        open_engine(base, backend="onnxruntime", precision="fp16", threads=1) as looking,
        open_engine(refine, backend="onnxruntime", precision="fp16", threads=1) as refining,
    ):
        return refine_all(*parts_of(looking, refining))(image)


def _every(features: Array) -> Array:
    return np.arange(features.shape[2] // PATCH * (features.shape[3] // PATCH))


def run_masked_original(original: tuple[Look, Refine], probes: Mapping[str, Array]) -> dict[str, MaskedProbe]:
    """What the original gives on every probe, images clamped to [0, 1].

    Raises: CertificationError, as `require_finite`.
    """
    return {name: _run_masked(*original, name, probe) for name, probe in probes.items()}


def _run_masked(look: Look, refine: Refine, name: str, image: Array) -> MaskedProbe:
    coarse, features, scores = look(image)
    chosen = best(scores, max(1, round(_REFINED * scores.size)))
    patches = crops(features, chosen, patch=PATCH, padding=PADDING)
    pixels = refine(patches)
    require_finite(name, coarse, scores, pixels)
    sample = np.unique(np.linspace(0, len(chosen) - 1, _SAMPLE).round().astype(np.int64))
    return MaskedProbe(image, np.clip(coarse, 0, 1), scores, chosen, np.clip(pixels, 0, 1), sample, patches[sample])


def certify_masked(
    probes: Mapping[str, MaskedProbe],
    *,
    masked: Masked,
    scale: int,
    reparameterized: tuple[Look, Refine],
    graphs: Mapping[str, tuple[ModelProto, ModelProto]],
) -> tuple[Link, ...]:
    """Every link of the chain on every probe: the parts by themselves, and the image with the original's choice of patches.

    `graphs`: base and refine network by precision.

    Raises: CertificationError, as `certify`.
    """

    def step(look: Look, refine: Refine, target: str, arithmetic: Any) -> list[Link]:
        facts: dict[str, Any] = {"masked": masked, "scale": scale, "target": target, "precision": arithmetic}
        each = [compare_parts(probe, look, refine, name=name, **facts) for name, probe in probes.items()]
        return checked([link for links in zip(*each, strict=True) for link in links], arithmetic)

    links = step(*reparameterized, REPARAMETERIZED, "fp32")
    for precision, backend, arithmetic in runs():
        base, refine = graphs[precision]
        target = f"{precision} on {backend}" + (" in bf16" if arithmetic == "bf16" else "")
        with (
            open_engine(base, backend=backend, precision=arithmetic, threads=1) as looking,
            open_engine(refine, backend=backend, precision=arithmetic, threads=1) as refining,
        ):
            links += step(*parts_of(looking, refining), target, arithmetic)
    return tuple(links)


def write_masked_probes(folder: Path, probes: Mapping[str, MaskedProbe]) -> None:
    """Write probe.npz: `NAME.FIELD` for every field of a MaskedProbe."""
    arrays = {f"{name}.{kind}": array for name, probe in probes.items() for kind, array in vars(probe).items()}
    np.savez_compressed(folder / PROBE_FILE, allow_pickle=False, **arrays)
