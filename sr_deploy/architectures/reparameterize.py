"""Reparameterization: exact algebra only, on a copy."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sr_deploy.architectures.blocks import Foldable, Network, Options


@dataclass(frozen=True)
class Reparameterized:
    """A network with everything folded that folds exactly.

    `module`: (N, C, H, W) in [0, 1] -> (N, C, sH, sW), about [0, 1], not clamped. `folds`: human names of what was folded.
    """

    module: nn.Module
    folds: tuple[str, ...]


class UnitRange(nn.Module):
    """Runs a network of another value range on [0, 1]."""

    def __init__(self, network: nn.Module, value_range: float) -> None:
        super().__init__()
        self.network = network
        self.value_range = value_range

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x * self.value_range) / self.value_range
        return y


def reference(network: nn.Module, value_range: float) -> nn.Module:
    """The network as published, between [0, 1] and about [0, 1]; it shares the network's weights. Not clamped."""
    return UnitRange(network, value_range).train(network.training)


def reparameterize(
    network: Network, value_range: float, *, dense_bsconv: bool = False, merge_parallel: bool = False
) -> Reparameterized:
    """A copy of the network for [0, 1] with branches merged, identities absorbed and the value range folded in.

    The arithmetic is done in float64, the result has the dtype of the network's weights; the network stays as it is.
    `dense_bsconv` turns 1x1-then-depthwise into a dense 3x3; it has no effect where the 1x1 has a bias (bsrn_s), which does
    not fold at the borders. `merge_parallel` makes one conv of convs that read the same map (msrn). Both have no effect on
    networks without such blocks; `folds` tells what was done.
    """
    dtype = next(network.parameters()).dtype
    options = Options(dense_bsconv=dense_bsconv, merge_parallel=merge_parallel)
    found: Counter[str] = Counter()
    with torch.no_grad():
        module = _replaced(copy.deepcopy(network).double(), options, found)
        assert isinstance(module, Network)
        ends = list(module.fold_ends())
        if value_range != 1:
            module.fold_value_range(value_range)
            ends.append(f"value range {value_range:g} folded into the first and last conv")
    blocks = [fold if number == 1 else f"{number} x {fold}" for fold, number in found.items()]
    return Reparameterized(module.to(dtype).eval(), (*blocks, *ends))


def merge(network: Network) -> Network:
    """A copy of the network in its deployed form: branches merged, all else as it was."""
    dtype = next(network.parameters()).dtype
    with torch.no_grad():
        module = _replaced(copy.deepcopy(network).double(), Options(), Counter())
    assert isinstance(module, Network)
    return module.to(dtype).eval()


def _replaced(module: nn.Module, options: Options, found: Counter[str]) -> nn.Module:
    """What takes the place of a module: all in it that folds is replaced, then the module itself."""
    for name, child in list(module.named_children()):
        setattr(module, name, _replaced(child, options, found))
    replacement = module.reparameterized(options) if isinstance(module, Foldable) else None
    if replacement is None:
        return module
    found[replacement.fold] += 1
    return replacement.module
