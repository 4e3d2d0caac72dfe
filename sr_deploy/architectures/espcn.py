"""ESPCN: efficient sub-pixel convolutional network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, scale_of
from sr_deploy.architectures.blocks import Network, conv3, scale_input, scale_output


@dataclass(frozen=True)
class ESPCNConfig(Config):
    """`channels` and `inner`: outputs of the first and the second conv. `sigmoid`: whether one ends the network."""

    channels: int = 64
    inner: int = 32
    sigmoid: bool = True


class Scaled(nn.Module):
    """factor * x."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class ESPCN(Network):
    """Source: Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
    Network, CVPR 2016.
    """

    def __init__(self, config: ESPCNConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(config.colors, config.channels, 5, padding=2)
        self.conv2 = conv3(config.channels, config.inner)
        self.conv3 = conv3(config.inner, config.colors * config.scale**2)
        self.act = nn.Tanh()
        self.end = nn.Sequential(nn.Sigmoid()) if config.sigmoid else nn.Sequential()
        self.shuffle = nn.PixelShuffle(config.scale)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv2(self.act(self.conv1(x))))
        out: Tensor = self.shuffle(self.end(self.conv3(y)))
        return out

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.conv1, value_range)
        if len(self.end):
            self.end.append(Scaled(1 / value_range))
        else:
            scale_output(self.conv3, 1 / value_range)


def _read_config(state: StateDict) -> ESPCNConfig:
    channels, colors = state["conv1.weight"].shape[:2]
    return ESPCNConfig(
        scale=scale_of(state["conv3.weight"].shape[0], colors, key="conv3.weight"),
        colors=colors,
        channels=channels,
        inner=state["conv2.weight"].shape[0],
    )


ARCHITECTURE = Architecture(
    name="espcn",
    title="ESPCN",
    paper="Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural "
    "Network, CVPR 2016",
    signature=Signature(
        has_all=("conv2.weight", "conv3.weight"),
        shapes={"conv1.weight": (None, None, 5, 5), "conv3.weight": (None, None, 3, 3)},
    ),
    default=ESPCNConfig(scale=3, colors=3),
    read_config=_read_config,
    build=ESPCN,
    value_range=1.0,
    variants=lambda config: (replace(config, sigmoid=True), replace(config, sigmoid=False)),
    value_ranges=lambda _state: (1.0,),
    halo=lambda _config: 4,
)
