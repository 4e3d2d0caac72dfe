"""ABPN: anchor-based plain network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Network, conv3, repeated, scale_input, scale_output


@dataclass(frozen=True)
class ABPNConfig(Config):
    """`blocks`: convs between the first and the two last."""

    channels: int = 28
    blocks: int = 4


class ABPN(Network):
    """Source: Du et al., Anchor-based Plain Net for Mobile Image Super-Resolution, CVPR Workshops 2021."""

    def __init__(self, config: ABPNConfig) -> None:
        super().__init__()
        self.scale = config.scale
        channels, rows = config.channels, config.colors * config.scale**2
        self.backbone = nn.Sequential(
            conv3(config.colors, channels),
            nn.ReLU(),
            *(nn.Sequential(conv3(channels, channels), nn.ReLU()) for _ in range(config.blocks)),
            conv3(channels, rows),
            nn.ReLU(),
            conv3(rows, rows),
        )
        self.shuffle = nn.PixelShuffle(config.scale)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shuffle(self.backbone(x) + repeated(x, self.scale**2))
        return y

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.backbone[0], value_range)
        scale_output(self.backbone[-1], 1 / value_range)


def _read_config(state: StateDict) -> ABPNConfig:
    channels, colors = state["backbone.0.weight"].shape[:2]
    parts = count(state, "backbone.{}.", first=2)
    key = f"backbone.{parts + 3}.weight"
    return ABPNConfig(scale=scale_of(state[key].shape[0], colors, key=key), colors=colors, channels=channels, blocks=parts - 1)


ARCHITECTURE = Architecture(
    name="abpn",
    title="ABPN",
    paper="Du et al., Anchor-based Plain Net for Mobile Image Super-Resolution, CVPR Workshops 2021",
    signature=Signature(has_all=("backbone.0.weight", "backbone.2.0.weight")),
    default=ABPNConfig(scale=4, colors=3),
    read_config=_read_config,
    build=ABPN,
    value_range=1.0,
    halo=lambda config: config.blocks + 3,
)
