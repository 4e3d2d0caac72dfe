"""FSRCNN: convs over the LR image, and a transposed conv that makes the large one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count
from sr_deploy.architectures.blocks import Network, conv1, conv3, scale_input, scale_output


@dataclass(frozen=True)
class FSRCNNConfig(Config):
    """`shrunk`: channels of the `blocks` convs in the middle."""

    channels: int = 56
    shrunk: int = 12
    blocks: int = 4


class FSRCNN(Network):
    """Source: Dong et al., Accelerating the Super-Resolution Convolutional Neural Network, ECCV 2016."""

    def __init__(self, config: FSRCNNConfig) -> None:
        super().__init__()
        channels, shrunk = config.channels, config.shrunk
        middle = [conv1(channels, shrunk), *(conv3(shrunk, shrunk) for _ in range(config.blocks)), conv1(shrunk, channels)]
        self.first_part = nn.Sequential(nn.Conv2d(config.colors, channels, 5, padding=2), nn.PReLU(channels))
        self.mid_part = nn.Sequential(*(module for conv in middle for module in (conv, nn.PReLU(conv.out_channels))))
        self.last_part = nn.ConvTranspose2d(
            channels, config.colors, 9, stride=config.scale, padding=4, output_padding=config.scale - 1
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last_part(self.mid_part(self.first_part(x)))
        return y

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.first_part[0], value_range)
        scale_output(self.last_part, 1 / value_range)


def _read_config(state: StateDict) -> FSRCNNConfig:
    channels, colors = state["first_part.0.weight"].shape[:2]
    return FSRCNNConfig(
        scale=2,
        colors=colors,
        channels=channels,
        shrunk=state["mid_part.0.weight"].shape[0],
        blocks=count(state, "mid_part.{}.", step=2) - 2,
    )


ARCHITECTURE = Architecture(
    name="fsrcnn",
    title="FSRCNN",
    paper="Dong et al., Accelerating the Super-Resolution Convolutional Neural Network, ECCV 2016",
    signature=Signature(
        has_all=("first_part.1.weight", "mid_part.0.weight"),
        shapes={"first_part.0.weight": (None, None, 5, 5), "last_part.weight": (None, None, 9, 9)},
    ),
    default=FSRCNNConfig(scale=2, colors=3),
    read_config=_read_config,
    build=FSRCNN,
    value_range=1.0,
    variants=lambda config: tuple(replace(config, scale=scale) for scale in (2, 3, 4)),
    halo=lambda config: config.blocks + 4,
)
