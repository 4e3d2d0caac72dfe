"""ESPAN: SPAN with a large first conv and a short last block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Network, conv1, named, scale_input, scale_output
from sr_deploy.architectures.spab import SPAB, attended, merged_conv3xc


@dataclass(frozen=True)
class ESPANConfig(Config):
    """`blocks` are those before the short one."""

    channels: int = 32
    blocks: int = 5


class ShortSPAB(nn.Module):
    """An SPAB of two convs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.c1_r = merged_conv3xc(channels, channels)
        self.c2_r = merged_conv3xc(channels, channels)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return attended(self.c2_r(self.act(self.c1_r(x))), x)


class ESPAN(Network):
    """Source: Wang et al., Expanded SPAN for Efficient Super-Resolution, CVPR Workshops 2025."""

    def __init__(self, config: ESPANConfig) -> None:
        super().__init__()
        channels = config.channels
        self.block_names = [f"block_{number}" for number in range(1, config.blocks + 1)]
        self.conv_1 = named(eval_conv=nn.Conv2d(config.colors, channels, 9, padding=4))
        for name in self.block_names:
            self.add_module(name, SPAB(channels, channels))
        self.teacher_block_seq = ShortSPAB(channels)
        self.tea_conv_cat = conv1(4 * channels, channels)
        self.tea_conv_2 = merged_conv3xc(channels, channels)
        upsampling = merged_conv3xc(channels, config.colors * config.scale**2)
        self.tea_upsampler = nn.Sequential(upsampling, nn.PixelShuffle(config.scale))

    def forward(self, x: Tensor) -> Tensor:
        features = y = self.conv_1(x)
        outputs = []
        for name in self.block_names:
            y, _ = self.get_submodule(name)(y)
            outputs.append(y)
        y = self.teacher_block_seq(y)
        joined = self.tea_conv_cat(torch.cat([features, self.tea_conv_2(y), outputs[0], y], 1))
        out: Tensor = self.tea_upsampler(joined)
        return out

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.get_submodule("conv_1.eval_conv"), value_range)
        scale_output(self.get_submodule("tea_upsampler.0.eval_conv"), 1 / value_range)


def _read_config(state: StateDict) -> ESPANConfig:
    channels, colors = state["conv_1.eval_conv.weight"].shape[:2]
    key = "tea_upsampler.0.eval_conv.weight"
    return ESPANConfig(
        scale=scale_of(state[key].shape[0], colors, key=key),
        colors=colors,
        channels=channels,
        blocks=count(state, "block_{}.", first=1),
    )


ARCHITECTURE = Architecture(
    name="espan",
    title="ESPAN",
    paper="Wang et al., Expanded SPAN for Efficient Super-Resolution, CVPR Workshops 2025",
    signature=Signature(
        has_all=("block_1.c1_r.eval_conv.weight", "teacher_block_seq.c1_r.eval_conv.weight", "tea_conv_cat.weight"),
        shapes={"conv_1.eval_conv.weight": (None, None, 9, 9), "tea_upsampler.0.eval_conv.weight": (None, None, 3, 3)},
    ),
    default=ESPANConfig(scale=4, colors=3),
    read_config=_read_config,
    build=ESPAN,
    value_range=1.0,
    value_ranges=lambda _state: (1.0,),
    halo=lambda config: 3 * config.blocks + 8,
)
