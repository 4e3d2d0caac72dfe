"""SPAN: swift parameter-free attention network, in its training form and merged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import MEAN, conv1, conv3
from sr_deploy.architectures.spab import SPAB, Conv3XC, NormalizedNetwork, merged_conv3xc

Mean = Literal["div2k", "half", "none", "stored"]


@dataclass(frozen=True)
class SPANConfig(Config):
    """`joined` is the number of channels before the upsampler. `merged` tells the deployed form from the training form.

    `mean` is subtracted from the image: that of DIV2K, 1/2, none, or one in the state dict. `img_range` is a factor after it.
    `no_norm` tells a state dict that says itself that there is neither.
    """

    channels: int = 48
    joined: int = 48
    blocks: int = 6
    merged: bool = True
    mean: Mean = "div2k"
    img_range: float = 255.0
    no_norm: bool = False


class SPAN(NormalizedNetwork):
    """Source: Wan et al., Swift Parameter-free Attention Network for Efficient Super-Resolution, CVPR Workshops 2024."""

    def __init__(self, config: SPANConfig) -> None:
        super().__init__(_mean(config), config.img_range)
        channels = config.channels
        conv = merged_conv3xc if config.merged else Conv3XC
        self.block_names = [f"block_{number}" for number in range(1, config.blocks + 1)]
        if config.no_norm:
            self.register_buffer("no_norm", torch.zeros(1))
        self.conv_1 = conv(config.colors, channels)
        for name in self.block_names:
            self.add_module(name, SPAB(channels, channels, conv))
        self.conv_cat = conv1(4 * channels, config.joined)
        self.conv_2 = conv(channels, channels)
        self.upsampler = nn.Sequential(conv3(config.joined, config.colors * config.scale**2), nn.PixelShuffle(config.scale))

    def forward(self, x: Tensor) -> Tensor:
        features = y = self.conv_1(self.normalized(x))
        outputs = []
        for name in self.block_names:
            y, inner = self.get_submodule(name)(y)
            outputs.append(y)
        joined = self.conv_cat(torch.cat([features, self.conv_2(y), outputs[0], inner], 1))
        out: Tensor = self.upsampler(joined)
        return out

    def first_convs(self) -> tuple[nn.Module, ...]:
        return (self.get_submodule("conv_1.eval_conv"),)


def _mean(config: SPANConfig) -> tuple[float, ...] | nn.Parameter:
    if config.mean == "stored":
        return nn.Parameter(torch.full((1, config.colors, 1, 1), 0.5))
    return {"div2k": MEAN, "half": (0.5,) * config.colors, "none": ()}[config.mean]


def _read_config(state: StateDict) -> SPANConfig:
    channels, colors = state["conv_1.eval_conv.weight"].shape[:2]
    key = "upsampler.0.weight"
    rows, joined = state[key].shape[:2]
    config = SPANConfig(
        scale=scale_of(rows, colors, key=key),
        colors=colors,
        channels=channels,
        joined=joined,
        blocks=count(state, "block_{}.", first=1),
        merged="conv_1.sk.weight" not in state,
    )
    if "mean" in state:
        return replace(config, mean="stored")
    no_norm = "no_norm" in state
    return replace(config, mean="none", img_range=1.0, no_norm=no_norm) if no_norm or colors != len(MEAN) else config


def _variants(config: SPANConfig) -> tuple[SPANConfig, ...]:
    normalizations: tuple[tuple[Mean, float], ...] = ((config.mean, config.img_range),)
    if config.mean == "stored":
        normalizations = (("stored", 255.0), ("stored", 1.0))
    elif not config.no_norm and config.colors == len(MEAN):
        normalizations = (("div2k", 255.0), ("none", 1.0), ("div2k", 1.0), ("half", 1.0))
    return tuple(replace(config, mean=mean, img_range=img_range) for mean, img_range in normalizations)


ARCHITECTURE = Architecture(
    name="span",
    title="SPAN",
    paper="Wan et al., Swift Parameter-free Attention Network for Efficient Super-Resolution, CVPR Workshops 2024",
    signature=Signature(
        has_all=("block_1.c1_r.eval_conv.weight", "conv_2.eval_conv.weight", "conv_cat.weight"),
        shapes={"conv_1.eval_conv.weight": (None, None, 3, 3), "upsampler.0.weight": (None, None, 3, 3)},
    ),
    default=SPANConfig(scale=4, colors=3),
    read_config=_read_config,
    build=SPAN,
    value_range=1.0,
    variants=_variants,
    value_ranges=lambda _state: (1.0,),
    halo=lambda config: 3 * config.blocks + 3,
)
