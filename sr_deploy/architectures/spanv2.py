"""SPANV2: blocks of three convs with a learned attention, on top of a small upscaling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Network, conv1, conv3, named, scale_input, scale_output


@dataclass(frozen=True)
class SPANV2Config(Config):
    channels: int = 32
    blocks: int = 5


class ThreeConvBlock(nn.Module):
    """Three convs, an activation after each."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.c1 = _conv(inputs, channels)
        self.c2 = _conv(channels, channels)
        self.c3 = _conv(channels, channels)
        self.act = nn.ReLU()

    def refine(self, x: Tensor) -> Tensor:
        """The last conv's output."""
        y: Tensor = self.c3(self.act(self.c2(self.act(self.c1(x)))))
        return y

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.refine(x))
        return y


class GuidedBlock(ThreeConvBlock):
    """Three convs, their output added to x, and a map made of it by a 1x1 as a factor."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)
        self.guidance_map_conv = conv1(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.refine(x)
        out: Tensor = (x + y) * self.guidance_map_conv(y)
        return out


class SPANV2(Network):
    """Source: Ren et al., The Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report, CVPR Workshops 2026."""

    def __init__(self, config: SPANV2Config) -> None:
        super().__init__()
        colors, channels = config.colors, config.channels
        rows = colors * config.scale**2
        self.block_names = [f"block_{number}" for number in range(1, config.blocks + 1)]
        for name in self.block_names:
            self.add_module(name, ThreeConvBlock(colors, channels) if name == "block_1" else GuidedBlock(channels))
        self.conv_near = nn.Conv2d(colors, rows, 3, padding=1, groups=colors, bias=False)
        joined = channels + rows
        self.depthwise_conv = nn.Conv2d(joined, joined, 3, padding=1, groups=joined, bias=False)
        self.pointwise_conv = nn.Conv2d(joined, rows, 1, bias=False)
        self.shuffle = nn.PixelShuffle(config.scale)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for name in self.block_names:
            y = self.get_submodule(name)(y)
        joined = torch.cat([self.conv_near(x), y], 1)
        out: Tensor = self.shuffle(self.pointwise_conv(self.depthwise_conv(joined)))
        return out

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.conv_near, value_range)
        scale_input(self.get_submodule("block_1.c1.conv"), value_range)
        scale_output(self.pointwise_conv, 1 / value_range)


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return named(conv=conv3(inputs, outputs, bias=False))


def _read_config(state: StateDict) -> SPANV2Config:
    channels, colors = state["block_1.c1.conv.weight"].shape[:2]
    return SPANV2Config(
        scale=scale_of(state["conv_near.weight"].shape[0], colors, key="conv_near.weight"),
        colors=colors,
        channels=channels,
        blocks=count(state, "block_{}.", first=1),
    )


ARCHITECTURE = Architecture(
    name="spanv2",
    title="SPANV2",
    paper="Ren et al., The Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report, CVPR Workshops 2026",
    signature=Signature(
        has_all=("block_1.c1.conv.weight", "conv_near.weight", "pointwise_conv.weight"),
        shapes={"depthwise_conv.weight": (None, 1, 3, 3)},
    ),
    default=SPANV2Config(scale=4, colors=3),
    read_config=_read_config,
    build=SPANV2,
    value_range=1.0,
    value_ranges=lambda _state: (1.0,),
    halo=lambda config: 3 * config.blocks + 1,
)
