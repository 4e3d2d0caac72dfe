"""DSCF: SPAN with the convs before and behind its blocks fused, as published."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import MEAN, conv1, conv3
from sr_deploy.architectures.spab import SPAB, NormalizedNetwork, attended, merged_conv3xc


@dataclass(frozen=True)
class DSCFConfig(Config):
    channels: int = 26
    blocks: int = 6


class FusedSPAB(nn.Module):
    """An SPAB whose first conv is fused into one before it: it takes the output of that conv beside x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.c2_r = merged_conv3xc(channels, channels)
        self.c3_r = merged_conv3xc(channels, channels)
        self.act = nn.SiLU()

    def forward(self, inner: Tensor, x: Tensor) -> Tensor:
        return attended(self.c3_r(self.act(self.c2_r(self.act(inner)))), x)


class DSCF(NormalizedNetwork):
    """Source: Ren et al., The Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report, CVPR Workshops 2026."""

    def __init__(self, config: DSCFConfig) -> None:
        super().__init__(MEAN, 255.0)
        colors, channels = config.colors, config.channels
        self.block_names = [f"block_{number}" for number in range(2, config.blocks + 1)]
        self.conv_1 = merged_conv3xc(colors, channels)
        self.conv_fused = nn.Conv2d(colors, channels, 5, padding=2)
        self.block_1 = FusedSPAB(channels)
        for name in self.block_names:
            self.add_module(name, SPAB(channels, channels))
        self.conv_cat_other = conv1(3 * channels, channels)
        self.conv2_fused = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.upsampler = nn.Sequential(conv3(channels, colors * config.scale**2), nn.PixelShuffle(config.scale))

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalized(x)
        features = self.conv_1(x)
        first = y = self.block_1(self.conv_fused(x), features)
        for name in self.block_names:
            y, inner = self.get_submodule(name)(y)
        out: Tensor = self.upsampler(self.conv_cat_other(torch.cat([features, first, inner], 1)) + self.conv2_fused(y))
        return out

    def first_convs(self) -> tuple[nn.Module, ...]:
        return self.get_submodule("conv_1.eval_conv"), self.conv_fused


def _read_config(state: StateDict) -> DSCFConfig:
    channels, colors = state["conv_fused.weight"].shape[:2]
    blocks = count(state, "block_{}.", first=1)
    if blocks < 2:
        raise ValueError(f"{blocks} block, expected 2 or more")
    return DSCFConfig(
        scale=scale_of(state["upsampler.0.weight"].shape[0], colors, key="upsampler.0.weight"),
        colors=colors,
        channels=channels,
        blocks=blocks,
    )


ARCHITECTURE = Architecture(
    name="dscf",
    title="DSCF",
    paper="Ren et al., The Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report, CVPR Workshops 2026",
    signature=Signature(
        has_all=("conv_1.eval_conv.weight", "conv_cat_other.weight", "conv2_fused.weight"),
        shapes={"conv_fused.weight": (None, len(MEAN), 5, 5), "upsampler.0.weight": (None, None, 3, 3)},
    ),
    default=DSCFConfig(scale=4, colors=3),
    read_config=_read_config,
    build=DSCF,
    value_range=1.0,
    value_ranges=lambda _state: (1.0,),
    halo=lambda config: 3 * config.blocks + 3,
)
