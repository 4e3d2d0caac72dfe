"""Algebra of convs: sums and chains of them that are one conv, exactly, borders included."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kernel = tuple[Tensor, Tensor | None]
"""Weight and bias of a conv."""


def conv_of(weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """A Conv2d with these weights, on their device and in their dtype."""
    outputs, inputs, height, width = weight.shape
    with torch.device("meta"):
        conv = nn.Conv2d(inputs, outputs, (height, width), stride=stride, padding=padding, bias=bias is not None)
    conv.weight = nn.Parameter(weight.detach().clone())
    conv.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    return conv


def kernel_of(conv: nn.Conv2d) -> Kernel:
    return conv.weight, conv.bias


def sum_of(kernels: Sequence[Kernel], *, identity: bool) -> Kernel:
    """The 3x3 kernel equal to the sum of parallel convs up to 3x3, each padded to keep the size, plus x if `identity`."""
    weight = torch.stack([F.pad(weight, _margins(weight)) for weight, _ in kernels]).sum(0)
    bias = _sum_of_biases([bias for _, bias in kernels])
    return weight + identity_kernel(weight) if identity else weight, bias


def stack_of(*kernels: Kernel) -> Kernel:
    """The kernel whose outputs are those of convs of one size over the same input, one after the other."""
    biases = [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in kernels]
    return torch.cat([weight for weight, _ in kernels]), torch.cat(biases)


def joint_of(*kernels: Kernel) -> Kernel:
    """The kernel over concatenated inputs that equals the sum of convs of one size, one over each input."""
    return torch.cat([weight for weight, _ in kernels], 1), _sum_of_biases([bias for _, bias in kernels])


def _sum_of_biases(biases: Sequence[Tensor | None]) -> Tensor | None:
    given = [bias for bias in biases if bias is not None]
    return torch.stack(given).sum(0) if given else None


def _margins(weight: Tensor) -> tuple[int, int, int, int]:
    rows, columns = (3 - weight.shape[2]) // 2, (3 - weight.shape[3]) // 2
    return columns, columns, rows, rows


def identity_kernel(weight: Tensor) -> Tensor:
    """The kernel, in the shape of `weight`, whose conv returns its input."""
    kernel = torch.zeros_like(weight)
    channels, _, height, width = weight.shape
    diagonal = torch.arange(channels, device=weight.device)
    kernel[diagonal, diagonal, height // 2, width // 2] = 1
    return kernel


def chain_of(*kernels: Kernel) -> Kernel:
    """The kernel equal to convs one after the other, at most one of them larger than 1x1.

    Those before the larger one see the picture with its zero border, so that the larger one sees what they make of zeros there.

    Raises: ValueError when two are larger.
    """
    weight, bias = kernels[0]
    for next_weight, next_bias in kernels[1:]:
        bias = _sum_of_biases([None if bias is None else next_weight.sum((2, 3)) @ bias, next_bias])
        if weight.shape[2:] == (1, 1):
            weight = torch.einsum("omhw,mi->oihw", next_weight, weight[:, :, 0, 0])
        elif next_weight.shape[2:] == (1, 1):
            weight = torch.einsum("om,mihw->oihw", next_weight[:, :, 0, 0], weight)
        else:
            raise ValueError(f"{tuple(weight.shape[2:])} then {tuple(next_weight.shape[2:])} are no single conv at the borders")
    return weight, bias
