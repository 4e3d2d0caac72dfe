"""Blocks of SPAN and of the networks made from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.algebra import Kernel, chain_of, conv_of, kernel_of, sum_of
from sr_deploy.architectures.blocks import (
    Network,
    Options,
    ParallelConvs,
    Replacement,
    conv1,
    conv3,
    named,
    scale_input,
    scale_output,
)


class Conv3XC(ParallelConvs):
    """A 1x1 to twice the channels, a 3x3 and a 1x1 back, beside a 1x1; the zero border is put around the input.

    `eval_conv` is in the state dict and not in the function: it holds a merge of some earlier step.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.sk = conv1(inputs, outputs)
        middle = nn.Conv2d(2 * inputs, 2 * outputs, 3)
        self.conv = nn.Sequential(conv1(inputs, 2 * inputs), middle, conv1(2 * outputs, outputs))
        self.eval_conv = conv3(inputs, outputs)
        self.act = nn.Identity()

    def branches(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.pad(x, (1, 1, 1, 1))) + self.sk(x)
        return y

    def kernel(self) -> Kernel:
        expanded = chain_of(*(kernel_of(cast("nn.Conv2d", conv)) for conv in self.conv))
        return sum_of([expanded, kernel_of(self.sk)], identity=False)

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        conv = conv_of(*self.kernel(), padding=1)
        return Replacement(named(eval_conv=conv), "1x1, 3x3, 1x1 and the 1x1 beside them merged into one conv")


def merged_conv3xc(inputs: int, outputs: int) -> nn.Module:
    """A conv under the name that it has beside the branches."""
    return named(eval_conv=conv3(inputs, outputs))


def attended(y: Tensor, x: Tensor) -> Tensor:
    """(y + x) * (sigmoid(y) - 1/2), as a tangent, which half precision holds better around zero."""
    return (y + x) * (torch.tanh(y * 0.5) * 0.5)


class SPAB(nn.Module):
    """Swift parameter-free attention block: its output, and beside it the features after its first conv.

    There is no attention where the number of channels changes. `conv` makes its convs.
    Source: Wan et al., Swift Parameter-free Attention Network for Efficient Super-Resolution, CVPR Workshops 2024.
    """

    def __init__(self, inputs: int, channels: int, conv: Callable[[int, int], nn.Module] = merged_conv3xc) -> None:
        super().__init__()
        self.c1_r = conv(inputs, channels)
        self.c2_r = conv(channels, channels)
        self.c3_r = conv(channels, channels)
        self.act = nn.SiLU()
        self.attends = inputs == channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.act(self.c1_r(x))
        y = self.c3_r(self.act(self.c2_r(inner)))
        return attended(y, x) if self.attends else y, inner


class NormalizedNetwork(Network):
    """A network whose first convs see (x - mean) * img_range; `mean` is by color, and empty where none is subtracted.

    Numbers are not in the state dict; a mean that is, is a parameter.
    """

    upsampler: nn.Sequential

    def __init__(self, mean: tuple[float, ...] | nn.Parameter, img_range: float) -> None:
        super().__init__()
        self.mean, self.img_range = mean, img_range

    def first_convs(self) -> tuple[nn.Module, ...]:
        """Those that see the normalized image, merged."""
        raise NotImplementedError

    def normalized(self, x: Tensor) -> Tensor:
        if isinstance(self.mean, nn.Parameter):
            x = x - self.mean
        elif self.mean:
            x = x - torch.tensor(self.mean, dtype=x.dtype, device=x.device)[:, None, None]
        return x if self.img_range == 1 else x * self.img_range

    def fold_ends(self) -> tuple[str, ...]:
        img_range, self.img_range = self.img_range, 1.0
        if img_range == 1:
            return ()
        for conv in self.first_convs():
            scale_input(conv, img_range)
        return (f"img_range {img_range:g} folded into the first conv",)

    def fold_value_range(self, value_range: float) -> None:
        if isinstance(self.mean, tuple):
            self.mean = tuple(color / value_range for color in self.mean)
        else:
            self.mean.div_(value_range)
        for conv in self.first_convs():
            scale_input(conv, value_range)
        scale_output(self.upsampler[0], 1 / value_range)
