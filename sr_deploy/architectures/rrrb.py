"""A 1x1, a 3x3 and a 1x1 conv in a row that ship as one 3x3."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.algebra import Kernel, chain_of, conv_of, kernel_of, sum_of
from sr_deploy.architectures.blocks import Options, ParallelConvs, Replacement, conv1, conv3, named


class RRRB(ParallelConvs):
    """Residual in residual reparameterizable block: reduce(fea(y) + y) + x, where y = expand(x).

    The border of y is what the 1x1 gives for a zero pixel, its bias, so that the merge is exact there too.
    Source: Du et al., Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution, CVPR Workshops 2022.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand_conv = conv1(channels, 2 * channels)
        self.fea_conv = nn.Conv2d(2 * channels, 2 * channels, 3)
        self.reduce_conv = conv1(2 * channels, channels)
        self.act = nn.Identity()

    def features(self) -> Kernel:
        """The 3x3 kernel in the middle."""
        return kernel_of(self.fea_conv)

    def branches(self, x: Tensor) -> Tensor:
        y = self.expand_conv(F.pad(x, (1, 1, 1, 1)))
        y = F.conv2d(y, *self.features()) + y[..., 1:-1, 1:-1]
        out: Tensor = self.reduce_conv(y) + x
        return out

    def kernel(self) -> Kernel:
        middle = sum_of([self.features()], identity=True)
        return sum_of([chain_of(kernel_of(self.expand_conv), middle, kernel_of(self.reduce_conv))], identity=True)

    def merged(self) -> nn.Module:
        """The conv that equals the block."""
        return rep_conv(conv_of(*self.kernel(), padding=1))

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        return Replacement(self.merged(), "convs of 1x1, 3x3 and 1x1 with their skips merged into one")


def rep_conv(conv: nn.Conv2d) -> nn.Sequential:
    """A conv under the name that merged blocks give it."""
    return named(rep_conv=conv)


def rrrb(channels: int, *, merged: bool) -> nn.Module:
    """The block, or the conv that it is when it ships."""
    return rep_conv(conv3(channels, channels)) if merged else RRRB(channels)
