"""RepRLFN: RLFN whose convs are trained as parallel ones, in its training form and merged."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import PlainESA, conv1, conv3
from sr_deploy.architectures.branches import RepBlock, merged_rep_block
from sr_deploy.architectures.rlfn import RLFN

SLOPE = 0.05 * 0.05
"""Each conv has LeakyReLU(0.05) twice."""


@dataclass(frozen=True)
class RepRLFNConfig(Config):
    """`esa` is the width of the attention; `merged` tells the deployed form from the training form."""

    channels: int = 48
    esa: int = 15
    blocks: int = 4
    merged: bool = True


class RepRLFB(nn.Module):
    """Residual local feature block of RepBlocks."""

    def __init__(self, config: RepRLFNConfig) -> None:
        super().__init__()
        self.c1_r = _rep_block(config)
        self.c2_r = _rep_block(config)
        self.c3_r = _rep_block(config)
        self.c5 = conv1(config.channels, config.channels)
        self.esa = PlainESA(config.channels, config.esa)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.esa(self.c5(self.c3_r(self.c2_r(self.c1_r(x))) + x))
        return y


def _rep_block(config: RepRLFNConfig) -> nn.Module:
    channels, act = config.channels, nn.LeakyReLU(SLOPE)
    return merged_rep_block(conv3(channels, channels), act) if config.merged else RepBlock(channels, act)


def _build(config: RepRLFNConfig) -> RLFN:
    return RLFN(config, [RepRLFB(config) for _ in range(config.blocks)], config.channels)


def _read_config(state: StateDict) -> RepRLFNConfig:
    channels, colors = state["conv_1.weight"].shape[:2]
    return RepRLFNConfig(
        scale=scale_of(state["upsampler.0.weight"].shape[0], colors, key="upsampler.0.weight"),
        colors=colors,
        channels=channels,
        esa=state["block_1.esa.conv1.weight"].shape[0],
        blocks=count(state, "block_{}.", first=1),
        merged="block_1.c1_r.rbr_reparam.weight" in state,
    )


ARCHITECTURE = Architecture(
    name="reprlfn",
    title="RepRLFN",
    paper="Ren et al., The Tenth NTIRE 2025 Efficient Super-Resolution Challenge Report, CVPR Workshops 2025",
    signature=Signature(
        has_all=("block_1.c5.weight", "block_1.esa.conv3.weight", "conv_2.weight"),
        has_any=("block_1.c1_r.rbr_reparam.weight", "block_1.c1_r.rbr_3x3_branch.weight"),
        shapes={"conv_1.weight": (None, None, 3, 3), "upsampler.0.weight": (None, None, 3, 3)},
    ),
    default=RepRLFNConfig(scale=4, colors=3),
    read_config=_read_config,
    build=_build,
    value_range=1.0,
    min_size=15,
)
