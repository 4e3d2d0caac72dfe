"""RT4KSR: convs over an image of half the size and four times the channels, in the training form and merged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.algebra import conv_of
from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Network, conv3, scale_input, scale_output
from sr_deploy.architectures.rrrb import rrrb


@dataclass(frozen=True)
class RT4KSRConfig(Config):
    """`unused` tells weights that come with a branch for high frequencies, which the published network does not run; `merged`
    tells the deployed form from the training form."""

    channels: int = 24
    blocks: int = 4
    unused: bool = True
    merged: bool = True


class LayerNorm(nn.Module):
    """The channels of each pixel brought to mean 0 and variance 1, then a weight and a bias per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = x - x.mean(1, keepdim=True)
        y = y / torch.sqrt((y * y).mean(1, keepdim=True) + 1e-6)
        return y * self.weight[:, None, None] + self.bias[:, None, None]


class RT4KSRBlock(nn.Module):
    """The activation of an RRRB of what was normalized."""

    def __init__(self, config: RT4KSRConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(config.channels)
        self.conv1 = rrrb(config.channels, merged=config.merged)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.conv1(self.norm(x)))
        return y


class RT4KSR(Network):
    """Source: Zamfir et al., Towards Real-Time 4K Image Super-Resolution, CVPR Workshops 2023."""

    def __init__(self, config: RT4KSRConfig) -> None:
        super().__init__()
        channels, factor = config.channels, 2 * config.scale
        self.down: nn.Module = nn.PixelUnshuffle(2)
        self.head = nn.Sequential(conv3(4 * config.colors, channels))
        self.body = nn.Sequential(*(RT4KSRBlock(config) for _ in range(config.blocks)))
        self.tail = nn.Sequential(LayerNorm(channels), rrrb(channels, merged=config.merged))
        self.upsample = nn.Sequential(conv3(channels, config.colors * factor**2), nn.PixelShuffle(factor))
        if config.unused:
            self.gamma = nn.Parameter(torch.zeros(1))
            self.hfb = nn.Sequential(rrrb(channels, merged=config.merged))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.upsample(self.tail(self.body(self.head(self.down(x)))))
        return y

    def fold_ends(self) -> tuple[str, ...]:
        folds = []
        if isinstance(self.down, nn.PixelUnshuffle):
            self.down, self.head[0] = nn.Identity(), _strided(self.head[0])
            folds.append("pixel unshuffle and first conv made one conv of stride 2")
        if hasattr(self, "hfb"):
            del self.gamma, self.hfb
            folds.append("the branch for high frequencies dropped, which is not run")
        return tuple(folds)

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.head[0], value_range)
        scale_output(self.upsample[0], 1 / value_range)


def _strided(conv: nn.Module) -> nn.Conv2d:
    """The conv of stride 2 that equals a 3x3 conv behind a pixel unshuffle by 2."""
    assert isinstance(conv, nn.Conv2d)
    return conv_of(F.pixel_shuffle(conv.weight, 2), conv.bias, stride=2, padding=2)


def _read_config(state: StateDict) -> RT4KSRConfig:
    channels, columns = state["head.0.weight"].shape[:2]
    colors, rows, key = columns // 4, state["upsample.0.weight"].shape[0], "upsample.0.weight"
    factor = scale_of(rows, colors, key=key)
    if factor % 2:
        raise ValueError(f"'{key}' has {rows} rows, expected {colors} * (2 * scale)^2")
    return RT4KSRConfig(
        scale=factor // 2,
        colors=colors,
        channels=channels,
        blocks=count(state, "body.{}."),
        unused="gamma" in state,
        merged="tail.1.rep_conv.weight" in state,
    )


ARCHITECTURE = Architecture(
    name="rt4ksr",
    title="RT4KSR",
    paper="Zamfir et al., Towards Real-Time 4K Image Super-Resolution, CVPR Workshops 2023",
    signature=Signature(
        has_all=("head.0.weight", "body.0.norm.weight", "tail.0.weight", "upsample.0.weight"),
        has_any=("tail.1.rep_conv.weight", "tail.1.expand_conv.weight"),
    ),
    default=RT4KSRConfig(scale=2, colors=3),
    read_config=_read_config,
    build=RT4KSR,
    value_range=1.0,
    halo=lambda config: 2 * config.blocks + 6,
    min_size=2,
    size_multiple=2,
)
