"""Weights to start from: the same network's, those of another scale, or those of the plain network of a mask-guided one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sr_deploy.architectures import Architecture, Config, Network, read_checkpoint
from sr_deploy.errors import UsageError


@dataclass(frozen=True)
class Start:
    """What a warm start took: how many tensors, and the names of those that stayed random."""

    path: Path
    sha256: str
    taken: int
    fresh: tuple[str, ...]


def warm_start(network: Network, config: Config, architecture: Architecture[Any], path: Path) -> Start:
    """Copy the weights of a checkpoint into the network; of another scale, all but the upsampler's; of the plain network of a
    mask-guided one, those of the blocks that both have.

    Raises: CheckpointError for a file without usable weights; UsageError for weights of another network or form.
    """
    checkpoint = read_checkpoint(path)
    own = network.state_dict()
    plain = {} if architecture.of_plain is None else architecture.of_plain(checkpoint.state, config)
    if plain and all(key in own and value.shape == own[key].shape for key, value in plain.items()):
        network.load_state_dict(plain, strict=False)
        return Start(path, checkpoint.sha256, len(plain), tuple(key for key in own if key not in plain))
    fits = {key: value for key, value in checkpoint.state.items() if key in own and value.shape == own[key].shape}
    fresh = tuple(key for key in own if key not in fits)
    strange = [key for key in checkpoint.state if key not in own]
    if fresh or strange:
        _check_scale(checkpoint.state, config, architecture, fresh, strange, path)
    network.load_state_dict(fits, strict=False)
    return Start(path, checkpoint.sha256, len(fits), fresh)


def _check_scale(
    state: dict[str, Tensor],
    config: Config,
    architecture: Architecture[Any],
    fresh: tuple[str, ...],
    strange: list[str],
    path: Path,
) -> None:
    """Another scale excuses tensors that do not fit, as long as the rest of the network is the same."""
    try:
        found = architecture.read_config(state)
    except (KeyError, ValueError, IndexError) as exc:
        raise UsageError(f"{path}: no {architecture.name} of this form (its keys begin with {next(iter(state))!r})") from exc
    differing = [
        f"{name} {getattr(found, name)}, expected {value}"
        for name, value in vars(config).items()
        if getattr(found, name) != value and name not in ("scale", "identity", "inner_skips")
    ]
    if differing or found.scale == config.scale:
        names = "; ".join(differing) or f"{len(fresh)} tensors missing or of another shape, {len(strange)} unknown"
        hint = "; start from the training form, which a run leaves beside its checkpoint" if found.scale == config.scale else ""
        raise UsageError(f"{path}: not the weights of this {architecture.name} ({names}){hint}")
