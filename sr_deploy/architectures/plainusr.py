"""PlainUSR-S, -M, -L and the base: blocks with attention, in the training form and merged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import conv1, conv3
from sr_deploy.architectures.plain_unet import PAPER, PlainBlock, PlainUNet, block, width_of


@dataclass(frozen=True)
class PlainUSRConfig(Config):
    """Blocks 1 and 4 work on `channels`, 2 and 3 on the first `middle` of them, the one between on the first `inner`.
    `attention` is the width of theirs; `convs` is how many each has, 3 in PlainUSR-L; `merged` tells the deployed form from the
    training form."""

    channels: int = 32
    middle: int = 16
    inner: int = 8
    attention: int = 4
    convs: int = 2
    merged: bool = True


class SoftPool(nn.Module):
    """The mean over 7x7 pixels, each weighted by its exponential."""

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.exp(x)
        return F.avg_pool2d(weights * x, 7, stride=3) / F.avg_pool2d(weights, 7, stride=3)


class LocalAttention(nn.Module):
    """x times a mask from a view of the image at a sixth of its size, and times the first channel. Needs H, W >= 7."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv1(channels, width),
            SoftPool(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            conv3(width, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        mask = F.interpolate(self.body(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return x * mask * torch.sigmoid(x[:, :1])


class PlainUSR(PlainUNet):
    """Source: Wang et al., PlainUSR: Chasing Faster ConvNet for Efficient Super-Resolution, ACCV 2024."""

    def __init__(self, config: PlainUSRConfig) -> None:
        outer, middle, inner = config.channels, config.middle, config.inner
        order = {"block1": outer, "block2": middle, "blockm": inner, "block3": middle, "block4": outer}
        super().__init__(config, outer, {name: (width, _block(config, width)) for name, width in order.items()})


def _block(config: PlainUSRConfig, channels: int) -> PlainBlock:
    attention = LocalAttention(channels, config.attention)
    return block(channels, convs=config.convs, attention=attention, merged=config.merged)


def _read_config(state: StateDict) -> PlainUSRConfig:
    merged = "block1.body.0.weight" in state
    convs = count(state, "block1.body.{}.weight" if merged else "block1.body.{}.reduce_conv.", step=2)
    rows, colors = state["tail.0.weight"].shape[0], state["head.weight"].shape[1]
    return PlainUSRConfig(
        scale=scale_of(rows, colors, key="tail.0.weight"),
        colors=colors,
        channels=width_of(state, "block1"),
        middle=width_of(state, "block2"),
        inner=width_of(state, "blockm"),
        attention=state[f"block1.body.{2 * convs - merged}.body.0.weight"].shape[0],
        convs=convs,
        merged=merged,
    )


ARCHITECTURE = Architecture(
    name="plainusr",
    title="PlainUSR",
    paper=PAPER,
    signature=Signature(
        has_all=("head.weight", "tail.0.weight"),
        has_any=("block4.body.0.weight", "block4.body.0.reduce_conv.weight"),
    ),
    default=PlainUSRConfig(scale=4, colors=3),
    read_config=_read_config,
    build=PlainUSR,
    value_range=1.0,
    min_size=7,
)
