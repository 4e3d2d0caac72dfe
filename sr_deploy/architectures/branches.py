"""Branches of training-time blocks that two networks or more share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.algebra import Kernel, chain_of, conv_of, kernel_of, sum_of
from sr_deploy.architectures.blocks import Options, ParallelConvs, Replacement, conv1, conv3, named


class EdgeConv(nn.Module):
    """A 1x1 conv, then a fixed 3x3 edge filter per channel, scaled: one branch of a training-time block.

    The border of the 1x1's output is what the 1x1 gives for a zero pixel, its bias, so that the merge is exact there too.
    Source: Zhang et al., Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices, ACM MM 2021.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, mask: list[list[float]]) -> None:
        super().__init__()
        self.k0 = nn.Parameter(conv1(inputs, outputs).weight.detach())
        self.b0 = nn.Parameter(torch.zeros(outputs))
        self.scale = nn.Parameter(torch.randn(outputs, 1, 1, 1) * 1e-3)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("mask", torch.tensor([[mask]]).repeat(outputs, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(F.pad(x, (1, 1, 1, 1)), self.k0, self.b0)
        return F.conv2d(y, self.scale * self.mask, self.bias, groups=self.bias.shape[0])

    def kernel(self) -> Kernel:
        kernel = self.scale * self.mask
        return kernel * self.k0, self.bias + kernel.sum((1, 2, 3)) * self.b0


SOBEL_X = [[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]
SOBEL_Y = [[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]]
LAPLACIAN = [[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]


class ExpandConv(nn.Module):
    """A 1x1 conv to `width`, then a 3x3; the border of the 1x1's output is its bias."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.k0 = nn.Parameter(conv1(inputs, width).weight.detach())
        self.b0 = nn.Parameter(torch.zeros(width))
        self.k1 = nn.Parameter(conv3(width, outputs).weight.detach())
        self.b1 = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(F.pad(x, (1, 1, 1, 1)), self.k0, self.b0), self.k1, self.b1)

    def kernel(self) -> Kernel:
        return chain_of((self.k0, self.b0), (self.k1, self.b1))


def merged_rep_block(conv: nn.Conv2d, act: nn.Module) -> nn.Module:
    """What a RepBlock is when it ships."""
    return named(rbr_reparam=conv, act=act)


class RepBlock(ParallelConvs):
    """The activation of the sum of four convs of different shapes and x."""

    fold = "RepBlock of five branches merged into one conv"

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__()
        self.rbr_3x3_branch = conv3(channels, channels)
        self.rbr_3x1_branch = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.rbr_1x3_branch = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.rbr_1x1_branch = conv1(channels, channels)
        self.act = act

    def branches(self, x: Tensor) -> Tensor:
        y: Tensor = self.rbr_3x3_branch(x) + self.rbr_3x1_branch(x) + self.rbr_1x3_branch(x) + self.rbr_1x1_branch(x) + x
        return y

    def kernels(self) -> list[Kernel]:
        """Of all branches but the identity."""
        convs = (self.rbr_3x3_branch, self.rbr_3x1_branch, self.rbr_1x3_branch, self.rbr_1x1_branch)
        return [kernel_of(conv) for conv in convs]

    def kernel(self) -> Kernel:
        return sum_of(self.kernels(), identity=True)

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        return Replacement(merged_rep_block(conv_of(*self.kernel(), padding=1), self.act), self.fold)
