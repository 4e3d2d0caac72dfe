"""What is being exported, whatever it came from: the original as a function, and the module or graph that shall equal it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from sr_deploy.architectures import LoadedCheckpoint, Network, Reading, reference, reparameterize
from sr_deploy.architectures.mga import MaskGuided, Parts, reference_parts
from sr_deploy.arrays import Array
from sr_deploy.card import Detection
from sr_deploy.engines.parity import Look, Refine
from sr_deploy.errors import ExportError
from sr_deploy.export.certify import ImageFunction, as_function
from sr_deploy.export.hypothesis import Candidate, Choice, choose


@dataclass(frozen=True)
class Request:
    """What the caller wants beyond the file: settings by recipe or flag, optional folds, whether nonsense goes through, and
    whether a file is trusted that can run code."""

    settings: dict[str, Any]
    by_flag: bool
    dense_bsconv: bool = False
    merge_parallel: bool = False
    anyway: bool = False
    trust: bool = False

    @property
    def decided_by(self) -> Literal["recipe", "flag"]:
        """Who settled what is settled."""
        return "flag" if self.by_flag else "recipe"


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


PROBE = 64
"""Side of the picture by which a foreign network's scale is found."""


def channels_of(inputs: int, outputs: int, *, where: str) -> int:
    """Colors of a foreign network.

    Raises: ExportError unless they are RGB or Y on both sides.
    """
    if inputs != outputs or inputs not in (1, 3):
        raise ExportError(f"{where}: takes {inputs} channels and gives {outputs}, expected RGB (3) or Y (1) on both sides")
    return inputs


def scale_of(shape: tuple[int, ...], channels: int, *, where: str) -> int:
    """Scale of a foreign network that makes `shape` of (1, channels, PROBE, PROBE).

    Raises: ExportError when it is no whole number.
    """
    if len(shape) != 4 or shape[1] != channels or shape[2] != shape[3] or shape[2] % PROBE or not shape[2]:
        raise ExportError(f"{where}: makes {shape} of (1, {channels}, {PROBE}, {PROBE}), expected a whole-numbered scale")
    return shape[2] // PROBE


def choose_foreign(candidates: Sequence[Candidate], request: Request, where: str, *, size_multiple: int = 1) -> Choice:
    """The reading of a foreign network, as `choose` finds it for what was asked."""
    return choose(
        candidates,
        requested=request.settings,
        decided_by=request.decided_by,
        size_multiple=size_multiple,
        anyway=request.anyway,
        where=where,
    )


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
    carried = _carried(loaded)
    choice = choose(
        [_candidate(loaded, reading) for reading in loaded.readings],
        requested=carried | request.settings,
        decided_by=request.decided_by if request.settings else "checkpoint",
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


def _carried(loaded: LoadedCheckpoint) -> dict[str, Any]:
    """What the weights leave open and the checkpoint says beside them, as those of our own training do."""
    settings = loaded.checkpoint.settings
    return {
        name: settings[name]
        for name in loaded.readings[0].assumes
        if any(reading.assumes[name] == settings.get(name) for reading in loaded.readings)
    }


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
