"""Training forms and merged forms of one network."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures import Architecture, Config, Network, merge
from sr_deploy.architectures.blocks import ParallelConvs
from sr_deploy.errors import CheckpointError

LARGEST_DIFFERENCE = 1e-4


def run_merged(network: nn.Module) -> None:
    """Make blocks of parallel convs merge their kernels in every forward and run one conv on the image.

    The function and the gradients of all branches stay as they were, and a step takes about a third of the time: kernels are
    far smaller than images. The state dict stays that of the training form.
    """
    for block in network.modules():
        if isinstance(block, ParallelConvs):
            block.forward = partial(_merged_forward, block)  # type: ignore[method-assign]


def merged_state(
    network: Network, config: Config, architecture: Architecture[Config], lr: Tensor
) -> tuple[dict[str, Tensor], float]:
    """The state dict to ship, and its largest difference from the trained network on `lr`, a share of the value range.

    lr: (1, C, H, W) in [0, 1]. A network without parallel convs ships as it is.

    Raises: CheckpointError when the merged network is not the same function.
    """
    if not getattr(config, "merged", True):
        merged = architecture.build(dataclasses.replace(config, merged=True))  # type: ignore[call-arg]
        merged.load_state_dict(merge(network).state_dict(), strict=True)
        difference = _difference(network, merged, lr * architecture.value_range) / architecture.value_range
    else:
        merged, difference = network, 0.0
    if not difference < LARGEST_DIFFERENCE:
        raise CheckpointError(
            f"merged weights differ from the trained ones by {difference:.2g} of the value range, {LARGEST_DIFFERENCE:g} is "
            "allowed; training diverged, or its branches cancel each other: lower the learning rate"
        )
    return {key: tensor.detach().cpu().clone() for key, tensor in merged.state_dict().items()}, difference


def _merged_forward(block: ParallelConvs, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        weight, bias = block.kernel()
    y: Tensor = block.act(F.conv2d(x, weight, bias, padding=1))
    return y


def _difference(network: Network, merged: Network, x: Tensor) -> float:
    with torch.inference_mode():
        return float((network.eval()(x) - merged.eval()(x)).abs().max())
