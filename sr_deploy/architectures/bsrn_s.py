"""BSRN-S: the small BSRN, with every 1x1 stored as a Linear."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sr_deploy.architectures.algebra import conv_of
from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import (
    BSConvU,
    DeepESA,
    DistillationBlock,
    Foldable,
    Options,
    Pointwise,
    Replacement,
    SkipBSConvU,
)
from sr_deploy.architectures.bsrn import SeparableNetwork, colors_of


@dataclass(frozen=True)
class BSRNSConfig(Config):
    """`distilled` channels are kept by each step of a block, `esa` is the width of its attention."""

    channels: int = 48
    distilled: int = 24
    esa: int = 12
    blocks: int = 5


class ProjectedBlock(DistillationBlock):
    """A distillation block of BSConvUs, a 1x1 behind it, and its input added."""

    def __init__(self, config: BSRNSConfig) -> None:
        act = nn.GELU()
        strided = nn.Conv2d(config.esa, config.esa, 3, stride=2)
        super().__init__(
            config.channels,
            config.distilled,
            act=act,
            esa=DeepESA(config.channels, config.esa, act, _bsconv, pointwise=Pointwise, strided=strided),
            conv=_bsconv,
            refine=lambda channels: SkipBSConvU(Pointwise(channels, channels), channels),
            pointwise=Pointwise,
        )
        self.conv_out: nn.Module = Pointwise(config.channels, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_out(super().forward(x)) + x
        return y


class WeightedBlock(ProjectedBlock, Foldable):
    """A projected block with a learned weight per channel before the 1x1."""

    def __init__(self, config: BSRNSConfig) -> None:
        super().__init__(config)
        self.config = config
        self.cw = nn.Parameter(torch.ones(1, config.channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_out(DistillationBlock.forward(self, x) * self.cw[:, :, None, None]) + x
        return y

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        with torch.device("meta"):
            block = ProjectedBlock(self.config)
        for name, child in self.named_children():
            block.add_module(name, child)
        out = self.conv_out
        assert isinstance(out, nn.Conv2d)
        block.conv_out = conv_of(out.weight * self.cw[:, :, None, None], out.bias)
        return Replacement(block, "channel weights folded into conv_out")


class BSRNS(SeparableNetwork):
    """Source: Li et al., Blueprint Separable Residual Network for Efficient Image Super-Resolution, CVPR Workshops 2022."""

    def __init__(self, config: BSRNSConfig) -> None:
        blocks: list[nn.Module] = [WeightedBlock(config) for _ in range(config.blocks)]
        super().__init__(config, config.channels, blocks, pointwise=Pointwise, first=Pointwise)


def _bsconv(inputs: int, outputs: int) -> BSConvU:
    return BSConvU(Pointwise(inputs, outputs), outputs)


def _read_config(state: StateDict) -> BSRNSConfig:
    channels, columns = state["fea_conv.pw.weight"].shape[:2]
    colors, key = colors_of(columns), "upsampler.upsampleOneStep.0.weight"
    return BSRNSConfig(
        scale=scale_of(state[key].shape[0], colors, key=key),
        colors=colors,
        channels=channels,
        distilled=state["B1.c1_d.weight"].shape[0],
        esa=state["B1.esa.conv1.weight"].shape[0],
        blocks=count(state, "B{}.", first=1),
    )


ARCHITECTURE = Architecture(
    name="bsrn_s",
    title="BSRN-S",
    paper="Li et al., Blueprint Separable Residual Network for Efficient Image Super-Resolution, CVPR Workshops 2022",
    signature=Signature(
        has_all=("B1.cw", "B1.conv_out.weight", "B1.esa.conv_max.pw.weight", "c2.pw.bias"),
        shapes={"fea_conv.pw.weight": (None, None), "upsampler.upsampleOneStep.0.weight": (None, None, 3, 3)},
    ),
    default=BSRNSConfig(scale=4, colors=3),
    read_config=_read_config,
    build=BSRNS,
    value_range=1.0,
    min_size=15,
)
