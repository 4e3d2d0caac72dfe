"""What is being exported, whatever it came from: the original as a function, and the module or graph that shall equal it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from sr_deploy.architectures import LoadedCheckpoint, Network, Reading, reference, reparameterize
from sr_deploy.architectures.mga import MaskGuided, Parts, reference_parts
from sr_deploy.arrays import Array
from sr_deploy.bundle import Detection
from sr_deploy.engines.parity import Look, Refine
from sr_deploy.export.certify import ImageFunction
from sr_deploy.export.hypothesis import Candidate, choose


@dataclass(frozen=True)
class Request:
    """What the caller wants beyond the file: settings by recipe or flag, optional folds, and whether nonsense goes through."""

    settings: dict[str, Any]
    by_flag: bool
    dense_bsconv: bool = False
    merge_parallel: bool = False
    anyway: bool = False


@dataclass(frozen=True)
class MaskedSubject:
    """A mask-guided network: its parts as its author ran them, and the network to be traced, whose parts must equal them."""

    original: tuple[Look, Refine]
    network: MaskGuided
    reparameterized: tuple[Look, Refine]


@dataclass(frozen=True)
class Subject:
    """`original` is the network as its author ran it, between [0, 1] and about [0, 1]. `module` is to be traced and must
    equal it; a foreign graph comes as `graph` instead. `smallest`: what the source says of its least LR size. A mask-guided
    network is `masked` too; its `original` and `module` then refine every patch."""

    architecture: str
    scale: int
    channels: int
    value_range: float
    detection: Detection
    original: ImageFunction
    module: nn.Module | None = None
    graph: ModelProto | None = None
    config: dict[str, Any] = field(default_factory=dict)
    folds: tuple[str, ...] = ()
    smallest: int = 1
    size_multiple: int = 1
    masked: MaskedSubject | None = None


def as_function(module: nn.Module) -> ImageFunction:
    """A torch module as a function of NumPy arrays."""

    def run(probe: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(probe)).numpy())

    return run


def as_functions(parts: Parts) -> tuple[Look, Refine]:
    """Both parts of a mask-guided torch network as functions of NumPy arrays."""

    def look(image: Array) -> tuple[Array, Array, Array]:
        with torch.inference_mode():
            coarse, features, scores = map(Tensor.numpy, parts.look(torch.from_numpy(image)))
        return coarse, features, scores

    def refine(patches: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(parts.refine(torch.from_numpy(patches)).numpy())

    return look, refine


def subject_of(loaded: LoadedCheckpoint, request: Request, *, where: str) -> Subject:
    """The subject of a checkpoint of one of our networks.

    Raises: UsageError, ExportError, AmbiguousCheckpointError.
    """
    choice = choose(
        [_candidate(loaded, reading) for reading in loaded.readings],
        requested=request.settings,
        decided_by="flag" if request.by_flag else "recipe",
        size_multiple=loaded.architecture.size_multiple,
        anyway=request.anyway,
        where=where,
    )
    reading = loaded.readings[choice.index]
    network = loaded.network(reading)
    equal = reparameterize(
        network, reading.value_range, dense_bsconv=request.dense_bsconv, merge_parallel=request.merge_parallel
    )
    return Subject(
        architecture=loaded.architecture.name,
        scale=reading.config.scale,
        channels=reading.config.colors,
        value_range=reading.value_range,
        detection=choice.detection,
        original=as_function(reference(network, reading.value_range)),
        module=equal.module,
        config=dataclasses.asdict(reading.config),
        folds=equal.folds,
        smallest=loaded.architecture.min_size,
        size_multiple=loaded.architecture.size_multiple,
        masked=_masked(network, reading, equal.module) if loaded.architecture.mask_guided else None,
    )


def _masked(network: Network, reading: Reading, equal: nn.Module) -> MaskedSubject:
    original, folded = cast("MaskGuided", network), cast("MaskGuided", equal)
    return MaskedSubject(
        as_functions(reference_parts(original, reading.value_range)), folded, as_functions(Parts(folded.look, folded.refine))
    )


def _candidate(loaded: LoadedCheckpoint, reading: Reading) -> Candidate:
    facts = {"value_range": reading.value_range, **dataclasses.asdict(reading.config)}
    config = reading.config
    return Candidate(
        config.scale, config.colors, facts, reading.assumes, lambda: reference(loaded.network(reading), reading.value_range)
    )
