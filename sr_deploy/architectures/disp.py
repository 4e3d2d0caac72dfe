"""DISP: residual blocks of four convs with SiLU, without attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Network, conv1, conv3, scale_input, scale_output
from sr_deploy.architectures.spab import merged_conv3xc


@dataclass(frozen=True)
class DISPConfig(Config):
    channels: int = 32
    blocks: int = 4


class FourConvBlock(nn.Module):
    """Four convs, an activation after each, and the input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.c1_r = merged_conv3xc(channels, channels)
        self.c2_r = merged_conv3xc(channels, channels)
        self._extern_conv_block = nn.Sequential(merged_conv3xc(channels, channels), nn.SiLU())
        self.c3_r = merged_conv3xc(channels, channels)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self._extern_conv_block(self.act(self.c2_r(self.act(self.c1_r(x)))))
        out: Tensor = self.act(self.c3_r(y)) + x
        return out


class DISP(Network):
    """Source: Ren et al., The Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report, CVPR Workshops 2026."""

    def __init__(self, config: DISPConfig) -> None:
        super().__init__()
        channels = config.channels
        self.conv_1 = merged_conv3xc(config.colors, channels)
        self.blocks = nn.Sequential(*(FourConvBlock(channels) for _ in range(config.blocks)))
        self.conv_2 = conv1(channels, channels)
        self.upsampler = nn.Sequential(conv3(channels, config.colors * config.scale**2), nn.PixelShuffle(config.scale))

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv_1(x)
        out: Tensor = self.upsampler(self.conv_2(self.blocks(features)) + features)
        return out

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.get_submodule("conv_1.eval_conv"), value_range)
        scale_output(self.upsampler[0], 1 / value_range)


def _read_config(state: StateDict) -> DISPConfig:
    channels, colors = state["conv_1.eval_conv.weight"].shape[:2]
    return DISPConfig(
        scale=scale_of(state["upsampler.0.weight"].shape[0], colors, key="upsampler.0.weight"),
        colors=colors,
        channels=channels,
        blocks=count(state, "blocks.{}."),
    )


ARCHITECTURE = Architecture(
    name="disp",
    title="DISP",
    paper="Ren et al., The Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report, CVPR Workshops 2026",
    signature=Signature(
        has_all=("blocks.0.c1_r.eval_conv.weight", "blocks.0._extern_conv_block.0.eval_conv.weight"),
        shapes={"conv_1.eval_conv.weight": (None, None, 3, 3), "conv_2.weight": (None, None, 1, 1)},
    ),
    default=DISPConfig(scale=4, colors=3),
    read_config=_read_config,
    build=DISP,
    value_range=1.0,
    value_ranges=lambda _state: (1.0,),
    halo=lambda config: 4 * config.blocks + 2,
)
