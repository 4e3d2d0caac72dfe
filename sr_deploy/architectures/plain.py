"""Plain networks: one chain of convs and ReLUs over the LR image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Network, conv3, scale_input, scale_output


@dataclass(frozen=True)
class PlainConfig(Config):
    """`blocks`: convs between the first and the last."""

    channels: int = 32
    blocks: int = 6


class Plain(Network):
    """The plain network that ETDS is compared with.

    Source: Chao et al., Equivalent Transformation and Dual Stream Network Construction for Mobile Image Super-Resolution,
    CVPR 2023.
    """

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        channels = config.channels
        self.conv_first = conv3(config.colors, channels)
        self.backbone_convs = nn.ModuleList(conv3(channels, channels) for _ in range(config.blocks))
        self.conv_last = conv3(channels, config.colors * config.scale**2)
        self.act = nn.ReLU()
        self.shuffle = nn.PixelShuffle(config.scale)

    def last(self, x: Tensor) -> Tensor:
        """What the last conv makes: (N, C, H, W) -> (N, rows, H, W)."""
        y = self.act(self.conv_first(x))
        for conv in self.backbone_convs:
            y = self.act(conv(y))
        out: Tensor = self.conv_last(y)
        return out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shuffle(self.last(x))
        return y

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.conv_first, value_range)
        scale_output(self.conv_last, 1 / value_range)


def _read_config(state: StateDict) -> PlainConfig:
    channels, colors = state["conv_first.weight"].shape[:2]
    return PlainConfig(
        scale=scale_of(state["conv_last.weight"].shape[0], colors, key="conv_last.weight"),
        colors=colors,
        channels=channels,
        blocks=count(state, "backbone_convs.{}."),
    )


ARCHITECTURE = Architecture(
    name="plain",
    title="Plain",
    paper="Chao et al., Equivalent Transformation and Dual Stream Network Construction for Mobile Image Super-Resolution, "
    "CVPR 2023",
    signature=Signature(
        has_all=("conv_first.weight", "backbone_convs.0.weight", "conv_last.weight"),
        has_none=("conv_clip.weight", "conv_residual_first.weight"),
    ),
    default=PlainConfig(scale=4, colors=3),
    read_config=_read_config,
    build=Plain,
    value_range=1.0,
    halo=lambda config: config.blocks + 2,
)
