"""FMEN's attentions: rescaled so that fp16 holds what they compute, and the same to the last bit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sr_deploy.architectures import load_checkpoint
from sr_deploy.architectures.blocks import Options
from sr_deploy.architectures.fmen import HFAB


def _largest(module: nn.Module, x: Tensor) -> float:
    found: list[float] = []
    hooks = [
        child.register_forward_hook(lambda _module, _inputs, y: found.append(float(y.abs().max())))
        for child in module.modules()
        if isinstance(child, nn.Conv2d)
    ]
    module(x)
    for hook in hooks:
        hook.remove()
    return max(found)


def test_rescaling_keeps_every_bit_and_lets_nothing_grow(shared: Path) -> None:
    loaded = load_checkpoint(shared / "checkpoints" / "team03_fmen.pth")
    network = loaded.network(loaded.readings[0])
    torch.manual_seed(0)
    x = torch.randn(1, 50, 24, 20) * 300
    attentions = [module for module in network.modules() if isinstance(module, HFAB)]
    assert len(attentions) == 5
    with torch.inference_mode():
        for attention in attentions:
            rescaled = attention.reparameterized(Options()).module
            assert torch.equal(rescaled(x), attention(x))
            assert _largest(rescaled, x) < 0.01 * _largest(attention, x)
            assert _largest(rescaled, x) < 32000
