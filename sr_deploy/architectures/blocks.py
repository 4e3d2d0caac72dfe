"""Blocks that two networks or more share, and what every foldable block offers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.algebra import Kernel, conv_of, identity_kernel

MEAN = (0.4488, 0.4371, 0.4040)
"""Mean color of DIV2K's photos, in [0, 1]."""


@dataclass(frozen=True)
class Options:
    """Folds that are exact but not always faster: measure before choosing."""

    dense_bsconv: bool = False
    merge_parallel: bool = False


@dataclass(frozen=True)
class Replacement:
    """What a block computes, in fewer operations; `fold` is the human name of what was folded."""

    module: nn.Module
    fold: str


class Network(nn.Module):
    """A network in its checkpoint's own value range: (N, C, H, W) -> (N, C, sH, sW)."""

    def fold_value_range(self, value_range: float) -> None:
        """Make the network take and give [0, 1] instead of [0, value_range], by changing its first and last convs."""
        raise NotImplementedError

    def fold_ends(self) -> tuple[str, ...]:
        """Fold what stands before the first conv or behind the last one; human names of what was folded."""
        return ()


class Foldable(nn.Module):
    """A block that may have a cheaper equal."""

    def reparameterized(self, options: Options) -> Replacement | None:
        """The replacement of this block, None where nothing folds; children have been replaced before."""
        raise NotImplementedError


class ParallelConvs(Foldable):
    """A block that trains as the activation of a sum of convs, and ships as one conv."""

    act: nn.Module

    def branches(self, x: Tensor) -> Tensor:
        """The sum, before the activation."""
        raise NotImplementedError

    def kernel(self) -> Kernel:
        """Weight and bias of the 3x3 conv that equals the sum; gradients flow through it to the branches."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.branches(x))
        return y


def conv3(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def conv1(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=bias)


def named(**modules: nn.Module) -> nn.Sequential:
    """Modules one after the other, under the names that they have in checkpoints."""
    return nn.Sequential(OrderedDict(modules))


def scale_input(conv: nn.Module, factor: float) -> None:
    """Make a conv compute conv(factor * x)."""
    pointwise = conv.pw if isinstance(conv, BSConvU) else conv
    assert isinstance(pointwise, nn.Conv2d)
    with torch.no_grad():
        pointwise.weight.mul_(factor)


def scale_output(conv: nn.Module, factor: float) -> None:
    """Make a conv compute factor * conv(x)."""
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    with torch.no_grad():
        conv.weight.mul_(factor)
        if conv.bias is not None:
            conv.bias.mul_(factor)


def repeated(x: Tensor, times: int) -> Tensor:
    """Each channel `times` times, by a conv: a pixel shuffle makes nearest-neighbor upscaling of it.

    A sum before the shuffle lets runtimes add where the conv before it ends, and move bytes in the shuffle.
    """
    weight = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).repeat_interleave(times, dim=0)
    return F.conv2d(x, weight[:, :, None, None])


def enlarged(x: Tensor, scale: int) -> Tensor:
    """The image upscaled by bilinear interpolation."""
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


class SkipConv(nn.Conv2d, Foldable):
    """conv3(x) + x."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        conv = conv_of(self.weight + identity_kernel(self.weight), self.bias, padding=1)
        return Replacement(conv, "conv(x) + x folded into one conv")


class Pointwise(nn.Linear, Foldable):
    """A 1x1 conv whose weight is stored as a Linear's: (outputs, inputs)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        return Replacement(conv_of(self.weight[:, :, None, None], self.bias), "Linear turned into conv 1x1")


class BSConvU(Foldable):
    """Blueprint separable conv: `pointwise`, then a depthwise 3x3.

    Source: Haase and Amthor, Rethinking Depthwise Separable Convolutions, CVPR 2020.
    """

    def __init__(self, pointwise: nn.Module, outputs: int, *, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.pw = pointwise
        self.dw = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=padding, groups=outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dw(self.pw(x))
        return y

    def dense(self) -> nn.Conv2d | None:
        """The equal dense 3x3, None where `pw` has a bias: the zero padding of `dw` comes after that bias."""
        pw = self.pw
        if not isinstance(pw, nn.Conv2d) or pw.bias is not None:
            return None
        # dw: [O, 1, 3, 3] * pw: [O, I, 1, 1]
        weight = self.dw.weight * pw.weight
        return conv_of(weight, self.dw.bias, stride=int(self.dw.stride[0]), padding=int(self.dw.padding[0]))

    def reparameterized(self, options: Options) -> Replacement | None:
        dense = self.dense() if options.dense_bsconv else None
        return None if dense is None else Replacement(dense, "BSConvU folded into one dense 3x3")


class SkipBSConvU(BSConvU):
    """bsconv(x) + x."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x

    def reparameterized(self, options: Options) -> Replacement | None:
        dense = self.dense() if options.dense_bsconv else None
        if dense is None:
            return None
        conv = conv_of(dense.weight + identity_kernel(dense.weight), dense.bias, padding=1)
        return Replacement(conv, "BSConvU(x) + x folded into one dense 3x3")


class ESA(nn.Module):
    """Enhanced spatial attention: a mask from a view of the image at a sixth of its size. Needs H, W >= 15.

    `pointwise` makes the 1x1s, `strided` is the 3x3 of stride 2 without padding. Without `pooled` the view is of half the size,
    and H, W >= 3 are enough.
    Source: Liu et al., Residual Feature Aggregation Network, CVPR 2020.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        pointwise: Callable[[int, int], nn.Module] = conv1,
        strided: nn.Module | None = None,
        pooled: bool = True,
    ) -> None:
        super().__init__()
        self.pooled = pooled
        self.conv1 = pointwise(channels, width)
        self.conv_f = pointwise(width, width)
        self.conv2 = strided or nn.Conv2d(width, width, 3, stride=2)
        self.conv4 = pointwise(width, channels)

    def middle(self, b: Tensor) -> Tensor:
        """What is done to the small map."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv1(x)
        b = self.conv2(a)
        if self.pooled:
            b = F.max_pool2d(b, kernel_size=7, stride=3)
        b = F.interpolate(self.middle(b), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(b + self.conv_f(a)))


class PlainESA(ESA):
    """ESA with one conv in the middle."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width)
        self.conv3 = conv3(width, width)

    def middle(self, b: Tensor) -> Tensor:
        y: Tensor = self.conv3(b)
        return y


class DeepESA(ESA):
    """ESA with three convs, made by `conv`, in the middle."""

    def __init__(
        self,
        channels: int,
        width: int,
        act: nn.Module,
        conv: Callable[[int, int], nn.Module],
        *,
        pointwise: Callable[[int, int], nn.Module] = conv1,
        strided: nn.Module | None = None,
        pooled: bool = True,
    ) -> None:
        super().__init__(channels, width, pointwise=pointwise, strided=strided, pooled=pooled)
        self.conv_max = conv(width, width)
        self.conv3 = conv(width, width)
        self.conv3_ = conv(width, width)
        self.act = act

    def middle(self, b: Tensor) -> Tensor:
        y: Tensor = self.conv3_(self.act(self.conv3(self.act(self.conv_max(b)))))
        return y


class DistillationBlock(nn.Module):
    """Three times: keep a few channels and refine all; then join what was kept. Ends in ESA.

    `pointwise` and `conv` make the convs, `refine` those that keep the number of channels.
    Source: Liu et al., Residual Feature Distillation Network, ECCV Workshops 2020.
    """

    def __init__(
        self,
        channels: int,
        distilled: int,
        *,
        act: nn.Module,
        esa: nn.Module,
        conv: Callable[[int, int], nn.Module],
        refine: Callable[[int], nn.Module],
        pointwise: Callable[[int, int], nn.Module] = conv1,
    ) -> None:
        super().__init__()
        self.c1_d, self.c1_r = pointwise(channels, distilled), refine(channels)
        self.c2_d, self.c2_r = pointwise(channels, distilled), refine(channels)
        self.c3_d, self.c3_r = pointwise(channels, distilled), refine(channels)
        self.c4 = conv(channels, distilled)
        self.c5 = pointwise(4 * distilled, channels)
        self.esa = esa
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        act = self.act
        d1, r1 = act(self.c1_d(x)), act(self.c1_r(x))
        d2, r2 = act(self.c2_d(r1)), act(self.c2_r(r1))
        d3, r3 = act(self.c3_d(r2)), act(self.c3_r(r2))
        y: Tensor = self.esa(self.c5(torch.cat([d1, d2, d3, act(self.c4(r3))], 1)))
        return y
