"""RLFN: residual local feature network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Network, PlainESA, conv1, conv3, scale_input, scale_output


@dataclass(frozen=True)
class RLFNConfig(Config):
    """`inner` is the number of channels inside a block, `esa` the width of its attention."""

    channels: int = 52
    inner: int = 52
    esa: int = 16
    blocks: int = 6


class RLFB(nn.Module):
    """Residual local feature block. Without `bias` the convs outside of the attention have none, as in DIPNet."""

    def __init__(self, config: RLFNConfig, *, bias: bool = True) -> None:
        super().__init__()
        self.c1_r = conv3(config.channels, config.inner, bias=bias)
        self.c2_r = conv3(config.inner, config.inner, bias=bias)
        self.c3_r = conv3(config.inner, config.channels, bias=bias)
        self.c5 = conv1(config.channels, config.channels, bias=bias)
        self.esa = PlainESA(config.channels, config.esa)
        self.act = nn.LeakyReLU(0.05)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.c2_r(self.act(self.c1_r(x))))
        out: Tensor = self.esa(self.c5(self.act(self.c3_r(y)) + x))
        return out


class RLFN(Network):
    """`blocks` on features of `channels`.

    Source: Kong et al., Residual Local Feature Network for Efficient Super-Resolution, CVPR Workshops 2022.
    """

    def __init__(self, config: Config, blocks: Sequence[nn.Module], channels: int, *, bias: bool = True) -> None:
        super().__init__()
        self.block_names = [f"block_{number}" for number in range(1, len(blocks) + 1)]
        self.conv_1 = conv3(config.colors, channels, bias=bias)
        for name, block in zip(self.block_names, blocks, strict=True):
            self.add_module(name, block)
        self.conv_2 = conv3(channels, channels, bias=bias)
        last = conv3(channels, config.colors * config.scale**2, bias=bias)
        self.upsampler = nn.Sequential(last, nn.PixelShuffle(config.scale))

    def forward(self, x: Tensor) -> Tensor:
        features = y = self.conv_1(x)
        for name in self.block_names:
            y = self.get_submodule(name)(y)
        out: Tensor = self.upsampler(self.conv_2(y) + features)
        return out

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.conv_1, value_range)
        scale_output(self.upsampler[0], 1 / value_range)


def rlfn(config: RLFNConfig, *, bias: bool = True) -> RLFN:
    """The network of a config."""
    return RLFN(config, [RLFB(config, bias=bias) for _ in range(config.blocks)], config.channels, bias=bias)


def read_config(state: StateDict) -> RLFNConfig:
    channels, colors = state["conv_1.weight"].shape[:2]
    return RLFNConfig(
        scale=scale_of(state["upsampler.0.weight"].shape[0], colors, key="upsampler.0.weight"),
        colors=colors,
        channels=channels,
        inner=state["block_1.c1_r.weight"].shape[0],
        esa=state["block_1.esa.conv1.weight"].shape[0],
        blocks=count(state, "block_{}.", first=1),
    )


ARCHITECTURE = Architecture(
    name="rlfn",
    title="RLFN",
    paper="Kong et al., Residual Local Feature Network for Efficient Super-Resolution, CVPR Workshops 2022",
    signature=Signature(
        has_all=("block_1.c1_r.weight", "block_1.c5.weight", "block_1.esa.conv3.weight", "conv_1.bias", "conv_2.weight"),
        has_none=("block_1.esa.conv_max.weight",),
        shapes={"conv_1.weight": (None, None, 3, 3), "upsampler.0.weight": (None, None, 3, 3)},
    ),
    default=RLFNConfig(scale=4, colors=3),
    read_config=read_config,
    build=rlfn,
    value_range=255.0,
    min_size=15,
)
