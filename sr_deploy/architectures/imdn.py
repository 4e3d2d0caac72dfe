"""IMDN: information multi-distillation network, in the form of its challenge, without channel attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Network, conv1, conv3, scale_input, scale_output


@dataclass(frozen=True)
class IMDNConfig(Config):
    """`distilled` channels are kept by each step of a block."""

    channels: int = 64
    distilled: int = 16
    blocks: int = 8


class IMDB(nn.Module):
    """Information multi-distillation block: three times keep a few channels and refine the rest, then join what was kept."""

    def __init__(self, config: IMDNConfig) -> None:
        super().__init__()
        channels, distilled = config.channels, config.distilled
        self.sizes = [distilled, channels - distilled]
        self.conv1 = _activated(channels, channels)
        self.conv2 = _activated(channels - distilled, channels)
        self.conv3 = _activated(channels - distilled, channels)
        self.conv4 = conv3(channels - distilled, distilled)
        self.conv1x1 = conv1(4 * distilled, channels)

    def forward(self, x: Tensor) -> Tensor:
        kept1, rest = self.conv1(x).split(self.sizes, 1)
        kept2, rest = self.conv2(rest).split(self.sizes, 1)
        kept3, rest = self.conv3(rest).split(self.sizes, 1)
        y: Tensor = self.conv1x1(torch.cat([kept1, kept2, kept3, self.conv4(rest)], 1)) + x
        return y


def _activated(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv3(inputs, outputs), nn.LeakyReLU(0.05))


class Body(nn.Module):
    """sub(x) + x."""

    def __init__(self, config: IMDNConfig) -> None:
        super().__init__()
        blocks = [IMDB(config) for _ in range(config.blocks)]
        self.sub = nn.Sequential(*blocks, conv3(config.channels, config.channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.sub(x) + x
        return y


class IMDN(Network):
    """Source: Hui et al., Lightweight Image Super-Resolution with Information Multi-distillation Network, ACM MM 2019; and
    Zhang et al., AIM 2019 Challenge on Constrained Super-Resolution: Methods and Results, ICCV Workshops 2019."""

    def __init__(self, config: IMDNConfig) -> None:
        super().__init__()
        channels = config.channels
        last = conv3(channels, config.colors * config.scale**2)
        self.model = nn.Sequential(conv3(config.colors, channels), Body(config), last, nn.PixelShuffle(config.scale))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.model[0], value_range)
        scale_output(self.model[2], 1 / value_range)


def _read_config(state: StateDict) -> IMDNConfig:
    channels, colors = state["model.0.weight"].shape[:2]
    return IMDNConfig(
        scale=scale_of(state["model.2.weight"].shape[0], colors, key="model.2.weight"),
        colors=colors,
        channels=channels,
        distilled=state["model.1.sub.0.conv4.weight"].shape[0],
        blocks=count(state, "model.1.sub.{}.") - 1,
    )


ARCHITECTURE = Architecture(
    name="imdn",
    title="IMDN",
    paper="Hui et al., Lightweight Image Super-Resolution with Information Multi-distillation Network, ACM MM 2019",
    signature=Signature(has_all=("model.0.weight", "model.1.sub.0.conv1.0.weight", "model.1.sub.0.conv1x1.weight")),
    default=IMDNConfig(scale=4, colors=3),
    read_config=_read_config,
    build=IMDN,
    value_range=1.0,
    halo=lambda config: 4 * config.blocks + 3,
)
