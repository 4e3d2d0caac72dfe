"""PlainUSR-T and -U: three blocks, and attention that sees few pixels, in the training form and merged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, scale_of
from sr_deploy.architectures.blocks import conv3
from sr_deploy.architectures.plain_unet import PAPER, PlainUNet, block, width_of


@dataclass(frozen=True)
class PlainUSRUltraConfig(Config):
    """The outer blocks work on `channels`, the one between on the first `inner`; `merged` tells the deployed form from the
    training form."""

    channels: int = 16
    inner: int = 8
    merged: bool = True


class SmallAttention(nn.Module):
    """x times a mask that a 3x3 conv makes of it, and times the first channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv3(channels, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.body(x) * torch.sigmoid(x[:, :1])
        return y


class PlainUSRUltra(PlainUNet):
    """Source: Wang et al., PlainUSR: Chasing Faster ConvNet for Efficient Super-Resolution, ACCV 2024."""

    def __init__(self, config: PlainUSRUltraConfig) -> None:
        outer, inner, merged = config.channels, config.inner, config.merged
        first, last = (block(outer, convs=2, attention=None, merged=merged) for _ in range(2))
        middle = block(inner, convs=2, attention=SmallAttention(inner), merged=merged)
        super().__init__(config, outer, {"block1": (outer, first), "blockm": (inner, middle), "block2": (outer, last)})


def _read_config(state: StateDict) -> PlainUSRUltraConfig:
    rows, colors = state["tail.0.weight"].shape[0], state["head.weight"].shape[1]
    return PlainUSRUltraConfig(
        scale=scale_of(rows, colors, key="tail.0.weight"),
        colors=colors,
        channels=width_of(state, "block1"),
        inner=width_of(state, "blockm"),
        merged="block1.body.0.weight" in state,
    )


ARCHITECTURE = Architecture(
    name="plainusr_ultra",
    title="PlainUSR-U",
    paper=PAPER,
    signature=Signature(
        has_all=("head.weight", "tail.0.weight"),
        has_any=("blockm.body.0.weight", "blockm.body.0.reduce_conv.weight"),
        has_none=("block4.body.0.weight", "block4.body.0.reduce_conv.weight"),
    ),
    default=PlainUSRUltraConfig(scale=4, colors=3),
    read_config=_read_config,
    build=PlainUSRUltra,
    value_range=1.0,
    halo=lambda _config: 9,
)
