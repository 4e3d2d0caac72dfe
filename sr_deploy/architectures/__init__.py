"""Checkpoint file -> network: read it safely, recognize it, build it strictly."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sr_deploy.architectures import (
    abpn,
    bsrn,
    bsrn_s,
    compact,
    dipnet,
    disp,
    dscf,
    ecbsr,
    ecbsr_et,
    efdn,
    espan,
    espcn,
    etds,
    fmen,
    fsrcnn,
    imdn,
    msrn,
    pan,
    pan_mga,
    pds,
    plain,
    plainrfdn,
    plainusr,
    plainusr_ultra,
    reprfn,
    reprlfn,
    rfdn,
    rfdn_mga,
    rlfn,
    rt4ksr,
    rvsr,
    safmnpp_light,
    span,
    spanf,
    spanv2,
)
from sr_deploy.architectures.architecture import Architecture, Config, detect, require
from sr_deploy.architectures.blocks import Network
from sr_deploy.architectures.checkpoint import Checkpoint, read_checkpoint
from sr_deploy.architectures.reparameterize import Reparameterized, merge, reference, reparameterize
from sr_deploy.errors import UsageError, did_you_mean

__all__ = [
    "REGISTRY",
    "Architecture",
    "Checkpoint",
    "Config",
    "LoadedCheckpoint",
    "Network",
    "Reading",
    "Reparameterized",
    "architecture_named",
    "detect",
    "load_checkpoint",
    "merge",
    "read_checkpoint",
    "reference",
    "reparameterize",
]

REGISTRY: tuple[Architecture[Any], ...] = (
    rfdn.ARCHITECTURE,
    rlfn.ARCHITECTURE,
    reprfn.ARCHITECTURE,
    bsrn.ARCHITECTURE,
    bsrn_s.ARCHITECTURE,
    pan.ARCHITECTURE,
    msrn.ARCHITECTURE,
    ecbsr.ARCHITECTURE,
    compact.ARCHITECTURE,
    span.ARCHITECTURE,
    spanf.ARCHITECTURE,
    pds.ARCHITECTURE,
    espan.ARCHITECTURE,
    disp.ARCHITECTURE,
    spanv2.ARCHITECTURE,
    dscf.ARCHITECTURE,
    rfdn_mga.ARCHITECTURE,
    pan_mga.ARCHITECTURE,
    dipnet.ARCHITECTURE,
    reprlfn.ARCHITECTURE,
    efdn.ARCHITECTURE,
    plainrfdn.ARCHITECTURE,
    imdn.ARCHITECTURE,
    fmen.ARCHITECTURE,
    safmnpp_light.ARCHITECTURE,
    plain.ARCHITECTURE,
    etds.ARCHITECTURE,
    ecbsr_et.ARCHITECTURE,
    abpn.ARCHITECTURE,
    espcn.ARCHITECTURE,
    fsrcnn.ARCHITECTURE,
    rvsr.ARCHITECTURE,
    rt4ksr.ARCHITECTURE,
    plainusr.ARCHITECTURE,
    plainusr_ultra.ARCHITECTURE,
)


@dataclass(frozen=True)
class Reading:
    """One function that a state dict may stand for.

    `value_range`: 1 or 255. `assumes`: what was assumed because the weights do not tell, empty when they tell all.
    """

    config: Config
    value_range: float
    assumes: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A recognized checkpoint. `readings`: the functions that it may stand for, the published one first."""

    checkpoint: Checkpoint
    architecture: Architecture[Any]
    readings: tuple[Reading, ...]

    def network(self, reading: Reading) -> Network:
        """The network of that reading with these weights, in eval mode: the published forward, in the checkpoint's own value
        range. (N, C, H, W) float32 -> (N, C, sH, sW)."""
        network = self.architecture.build_empty(reading.config).to_empty(device="cpu")
        network.load_state_dict(self.checkpoint.state, strict=True)
        return network.eval()


def load_checkpoint(path: Path, *, architecture: str | None = None) -> LoadedCheckpoint:
    """Read a checkpoint and recognize its network, or check it against the one named by `architecture`.

    Raises: CheckpointError for a file without usable weights; UnknownArchitectureError for weights of another network;
    UsageError for a name that is not in the registry.
    """
    named = None if architecture is None else architecture_named(architecture)
    checkpoint = read_checkpoint(path)
    if named is None:
        named = detect(checkpoint.state, REGISTRY, where=str(path))
    else:
        require(checkpoint.state, named, where=str(path))
    return LoadedCheckpoint(checkpoint, named, _readings(checkpoint, named))


def _readings(checkpoint: Checkpoint, architecture: Architecture[Any]) -> tuple[Reading, ...]:
    variants = architecture.variants(architecture.read_config(checkpoint.state))
    ranges = architecture.readable_ranges(checkpoint.state)
    facts = [{"value_range": value_range, **dataclasses.asdict(config)} for config in variants for value_range in ranges]
    open_facts = [name for name in facts[0] if any(fact[name] != facts[0][name] for fact in facts)]
    candidates = [(config, value_range) for config in variants for value_range in ranges]
    return tuple(
        Reading(config, value_range, {name: fact[name] for name in open_facts})
        for (config, value_range), fact in zip(candidates, facts, strict=True)
    )


def architecture_named(name: str, *, where: str = "") -> Architecture[Any]:
    """The architecture of that name. `where`: how the message begins.

    Raises: UsageError with the nearest name, or all of them.
    """
    known = {entry.name: entry for entry in REGISTRY}
    if name not in known:
        hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
        raise UsageError(f"{where}unknown architecture '{name}'{hint}")
    return known[name]
