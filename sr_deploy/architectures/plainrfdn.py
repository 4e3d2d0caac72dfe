"""PlainRFDN, NEESR's EFDN: RFDN without skips inside its blocks, and with an attention of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import DistillationBlock, Network, conv1, conv3, named, scale_input, scale_output


@dataclass(frozen=True)
class PlainRFDNConfig(Config):
    """`distilled` channels are kept by each step of a block, `esa` is the width of its attention."""

    channels: int = 42
    distilled: int = 10
    esa: int = 10
    blocks: int = 4


class SeventhESA(nn.Module):
    """Enhanced spatial attention from a view of the image at a seventh of its size. Needs H, W >= 5."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = conv1(channels, width)
        self.conv_f = conv1(width, width)
        self.conv_2 = conv3(width, width)
        self.conv_3 = conv3(width, width)
        self.conv_23 = conv3(2 * width, width)
        self.conv4 = conv1(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv1(x)
        b = F.max_pool2d(a, kernel_size=7, stride=7, padding=1)
        b = self.conv_23(torch.cat([F.relu(self.conv_2(b)), F.relu(self.conv_3(b))], 1))
        b = F.interpolate(b, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(b + self.conv_f(a)))


class PlainRFDN(Network):
    """Source: Li et al., NTIRE 2022 Challenge on Efficient Super-Resolution: Methods and Results, CVPR Workshops 2022."""

    def __init__(self, config: PlainRFDNConfig) -> None:
        super().__init__()
        channels = config.channels
        self.block_names = [f"B{number}" for number in range(1, config.blocks + 1)]
        self.fea_conv = conv3(config.colors, channels)
        for name in self.block_names:
            self.add_module(name, _block(config))
        self.LR_conv = conv3(channels, channels)
        self.upsampler = nn.Sequential(conv3(channels, config.colors * config.scale**2), nn.PixelShuffle(config.scale))

    def forward(self, x: Tensor) -> Tensor:
        features = y = self.fea_conv(x)
        for name in self.block_names:
            y = self.get_submodule(name)(y)
        out: Tensor = self.upsampler(self.LR_conv(y) + features)
        return out

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.fea_conv, value_range)
        scale_output(self.upsampler[0], 1 / value_range)


def _conv(inputs: int, outputs: int) -> nn.Module:
    """Under the name that it has beside the parallel ones of the training form."""
    return named(conv3x3=conv3(inputs, outputs))


def _block(config: PlainRFDNConfig) -> DistillationBlock:
    return DistillationBlock(
        config.channels,
        config.distilled,
        act=nn.LeakyReLU(0.05),
        esa=SeventhESA(config.channels, config.esa),
        conv=_conv,
        refine=lambda channels: _conv(channels, channels),
    )


def _read_config(state: StateDict) -> PlainRFDNConfig:
    channels, colors = state["fea_conv.weight"].shape[:2]
    return PlainRFDNConfig(
        scale=scale_of(state["upsampler.0.weight"].shape[0], colors, key="upsampler.0.weight"),
        colors=colors,
        channels=channels,
        distilled=state["B1.c1_d.weight"].shape[0],
        esa=state["B1.esa.conv1.weight"].shape[0],
        blocks=count(state, "B{}.", first=1),
    )


ARCHITECTURE = Architecture(
    name="plainrfdn",
    title="PlainRFDN",
    paper="Li et al., NTIRE 2022 Challenge on Efficient Super-Resolution: Methods and Results, CVPR Workshops 2022",
    signature=Signature(
        has_all=("B1.c1_d.weight", "B1.c1_r.conv3x3.weight", "B1.esa.conv_23.weight", "LR_conv.weight"),
        shapes={"fea_conv.weight": (None, None, 3, 3), "upsampler.0.weight": (None, None, 3, 3)},
    ),
    default=PlainRFDNConfig(scale=4, colors=3),
    read_config=_read_config,
    build=PlainRFDN,
    value_range=255.0,
    min_size=5,
)
