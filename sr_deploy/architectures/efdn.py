"""EFDN: edge-enhanced feature distillation network, in its training form and merged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sr_deploy.architectures.algebra import Kernel, conv_of, kernel_of, sum_of
from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, scale_of
from sr_deploy.architectures.blocks import (
    DeepESA,
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
from sr_deploy.architectures.branches import LAPLACIAN, SOBEL_X, SOBEL_Y, EdgeConv, ExpandConv

Branches = Literal["plain", "expanded", "identity", "expanded_identity", "converted"]


@dataclass(frozen=True)
class EFDNConfig(Config):
    """`distilled` channels are kept by each step of a cell, `esa` is the width of its attention. `merged` tells the deployed
    form from the training form, of whose branches `branches` says which are summed: without or with the expanded one and the
    identity, or `converted`, where the 1x1s are in the 3x3 already and the identity is added."""

    channels: int = 48
    distilled: int = 24
    esa: int = 12
    merged: bool = True
    branches: Branches = "plain"


class EDBB(ParallelConvs):
    """Edge-enhanced diverse branch block: the activation of the sum of parallel branches."""

    def __init__(self, channels: int, branches: Branches) -> None:
        super().__init__()
        self.rep_conv = conv3(channels, channels)
        self.conv1x1 = conv1(channels, channels)
        self.conv1x1_3x3 = ExpandConv(channels, channels, channels)
        self.conv1x1_sbx = EdgeConv(channels, channels, SOBEL_X)
        self.conv1x1_sby = EdgeConv(channels, channels, SOBEL_Y)
        self.conv1x1_lpl = EdgeConv(channels, channels, LAPLACIAN)
        self.act = nn.PReLU(channels)
        self.converted = branches == "converted"
        self.expanded = branches in ("expanded", "expanded_identity")
        self.identity = branches in ("identity", "expanded_identity", "converted")

    def branches(self, x: Tensor) -> Tensor:
        y: Tensor = self.rep_conv(x) + self.conv1x1_sbx(x) + self.conv1x1_sby(x) + self.conv1x1_lpl(x)
        if not self.converted:
            y = y + self.conv1x1(x)
        if self.expanded:
            y = y + self.conv1x1_3x3(x)
        return y + x if self.identity else y

    def kernel(self) -> Kernel:
        kernels = [
            kernel_of(self.rep_conv),
            *(edge.kernel() for edge in (self.conv1x1_sbx, self.conv1x1_sby, self.conv1x1_lpl)),
        ]
        if not self.converted:
            kernels.append(kernel_of(self.conv1x1))
        if self.expanded:
            kernels.append(self.conv1x1_3x3.kernel())
        return sum_of(kernels, identity=self.identity)

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        conv = conv_of(*self.kernel(), padding=1)
        return Replacement(named(rep_conv=conv, act=self.act), "EDBB of parallel branches merged into one conv")


class Cell(nn.Module):
    """Three convs one after the other; what goes into each and what comes out of the last is distilled and fused."""

    def __init__(self, config: EFDNConfig) -> None:
        super().__init__()
        channels = config.channels
        self.conv1 = named(conv1x1=conv1(channels, channels), act=nn.PReLU(channels))
        self.conv2 = _edbb(config)
        self.conv3 = _edbb(config)
        self.branch = nn.ModuleList(conv1(channels, config.distilled) for _ in range(4))
        self.fuse = conv1(4 * config.distilled, channels)
        self.att = DeepESA(channels, config.esa, nn.ReLU(), conv3)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv1(x)
        b = self.conv2(a)
        c = self.conv3(b)
        kept = [branch(y) for branch, y in zip(self.branch, (x, a, b, c), strict=True)]
        out: Tensor = self.att(self.fuse(torch.cat(kept, 1))) + x
        return out


class EFDN(Network):
    """The published forward clamps to [0, 1], as the graph does.

    Source: Wang, Edge-enhanced Feature Distillation Network for Efficient Super-Resolution, CVPR Workshops 2022.
    """

    def __init__(self, config: EFDNConfig) -> None:
        super().__init__()
        channels = config.channels
        self.head = conv3(config.colors, channels)
        self.cells = nn.ModuleList(Cell(config) for _ in range(4))
        self.local_fuse = nn.ModuleList(conv1(2 * channels, channels) for _ in range(3))
        self.tail = nn.Sequential(conv3(channels, config.colors * config.scale**2), nn.PixelShuffle(config.scale))

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)
        a = self.cells[0](features)
        b = self.cells[1](a)
        c = self.cells[2](self.local_fuse[0](torch.cat([a, b], 1)))
        d = self.cells[3](self.local_fuse[1](torch.cat([b, c], 1)))
        y: Tensor = self.tail(self.local_fuse[2](torch.cat([b, d], 1)) + features)
        return y

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.head, value_range)
        scale_output(self.tail[0], 1 / value_range)


def _edbb(config: EFDNConfig) -> nn.Module:
    channels = config.channels
    if config.merged:
        return named(rep_conv=conv3(channels, channels), act=nn.PReLU(channels))
    return EDBB(channels, config.branches)


def _read_config(state: StateDict) -> EFDNConfig:
    channels, colors = state["head.weight"].shape[:2]
    return EFDNConfig(
        scale=scale_of(state["tail.0.weight"].shape[0], colors, key="tail.0.weight"),
        colors=colors,
        channels=channels,
        distilled=state["cells.0.branch.0.weight"].shape[0],
        esa=state["cells.0.att.conv1.weight"].shape[0],
        merged="cells.0.conv2.conv1x1_sbx.k0" not in state,
    )


def _variants(config: EFDNConfig) -> tuple[EFDNConfig, ...]:
    if config.merged:
        return (config,)
    return tuple(replace(config, branches=branches) for branches in get_args(Branches))


ARCHITECTURE = Architecture(
    name="efdn",
    title="EFDN",
    paper="Wang, Edge-enhanced Feature Distillation Network for Efficient Super-Resolution, CVPR Workshops 2022",
    signature=Signature(has_all=("cells.0.conv1.conv1x1.weight", "cells.0.conv2.rep_conv.weight", "local_fuse.0.weight")),
    default=EFDNConfig(scale=4, colors=3),
    read_config=_read_config,
    build=EFDN,
    value_range=1.0,
    variants=_variants,
    value_ranges=lambda _state: (1.0,),
    min_size=15,
)
