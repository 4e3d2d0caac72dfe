"""RFDN: residual feature distillation network."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import (
    DeepESA,
    DistillationBlock,
    Network,
    SkipConv,
    conv1,
    conv3,
    scale_input,
    scale_output,
)


@dataclass(frozen=True)
class RFDNConfig(Config):
    """`distilled` channels are kept by each step of a block, `esa` is the width of its attention. Without `inner_skips` the
    blocks compute conv(x) in place of conv(x) + x, as in checkpoints whose skips were folded into the weights."""

    channels: int = 50
    distilled: int = 25
    esa: int = 12
    blocks: int = 4
    inner_skips: bool = True


class RFDN(Network):
    """Without `pooled` its attention has no max pooling, as in RFDN-MGA.

    Source: Liu et al., Residual Feature Distillation Network for Lightweight Image Super-Resolution, ECCVW 2020.
    """

    def __init__(self, config: RFDNConfig, *, pooled: bool = True) -> None:
        super().__init__()
        channels = config.channels
        self.block_names = [f"B{number}" for number in range(1, config.blocks + 1)]
        self.fea_conv = conv3(config.colors, channels)
        for name in self.block_names:
            self.add_module(name, rfdb(config, pooled=pooled))
        self.c = nn.Sequential(conv1(config.blocks * channels, channels), nn.LeakyReLU(0.05))
        self.LR_conv = conv3(channels, channels)
        self.upsampler = nn.Sequential(conv3(channels, config.colors * config.scale**2), nn.PixelShuffle(config.scale))

    def features(self, x: Tensor) -> Tensor:
        """What the upsampler takes: (N, C, H, W) -> (N, channels, H, W)."""
        features = self.fea_conv(x)
        outputs = [features]
        for name in self.block_names:
            outputs.append(self.get_submodule(name)(outputs[-1]))
        y: Tensor = self.LR_conv(self.c(torch.cat(outputs[1:], 1))) + features
        return y

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.upsampler(self.features(x))
        return y

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.fea_conv, value_range)
        scale_output(self.upsampler[0], 1 / value_range)


def rfdb(config: RFDNConfig, *, pooled: bool) -> DistillationBlock:
    """A block of RFDN."""
    return DistillationBlock(
        config.channels,
        config.distilled,
        act=nn.LeakyReLU(0.05),
        esa=DeepESA(config.channels, config.esa, nn.ReLU(), conv3, pooled=pooled),
        conv=conv3,
        refine=SkipConv if config.inner_skips else lambda channels: conv3(channels, channels),
    )


def _read_config(state: StateDict) -> RFDNConfig:
    channels, colors = state["fea_conv.weight"].shape[:2]
    return RFDNConfig(
        scale=scale_of(state["upsampler.0.weight"].shape[0], colors, key="upsampler.0.weight"),
        colors=colors,
        channels=channels,
        distilled=state["B1.c1_d.weight"].shape[0],
        esa=state["B1.esa.conv1.weight"].shape[0],
        blocks=count(state, "B{}.", first=1),
    )


ARCHITECTURE = Architecture(
    name="rfdn",
    title="RFDN",
    paper="Liu et al., Residual Feature Distillation Network for Lightweight Image Super-Resolution, ECCV Workshops 2020",
    signature=Signature(
        has_all=("B1.c1_d.weight", "B1.c3_r.weight", "B1.esa.conv_max.weight", "c.0.weight", "LR_conv.weight"),
        shapes={"fea_conv.weight": (None, None, 3, 3), "upsampler.0.weight": (None, None, 3, 3)},
    ),
    default=RFDNConfig(scale=4, colors=3),
    read_config=_read_config,
    build=RFDN,
    value_range=255.0,
    variants=lambda config: (replace(config, inner_skips=True), replace(config, inner_skips=False)),
    min_size=15,
)
