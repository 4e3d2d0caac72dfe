"""BSRN: blueprint separable residual network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sr_deploy.architectures.algebra import conv_of
from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import (
    BSConvU,
    DeepESA,
    DistillationBlock,
    Network,
    Options,
    Replacement,
    SkipBSConvU,
    conv1,
    conv3,
    scale_input,
    scale_output,
)

INPUT_COPIES = 4


@dataclass(frozen=True)
class BSRNConfig(Config):
    """`distilled` channels are kept by each step of a block; `esa` and `cca` are the widths of its attentions."""

    channels: int = 64
    distilled: int = 32
    esa: int = 16
    cca: int = 4
    blocks: int = 8


class CopiesBSConvU(BSConvU):
    """A BSConvU that reads four copies of its input, one behind the other."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x] * INPUT_COPIES, 1))

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        pw = self.pw
        assert isinstance(pw, nn.Conv2d)
        weight = torch.stack(pw.weight.chunk(INPUT_COPIES, 1)).sum(0)
        conv = BSConvU(conv_of(weight, pw.bias), pw.out_channels)
        conv.dw = self.dw
        dense = conv.dense()
        if dense is None:
            return Replacement(conv, "four input copies summed into the first conv")
        return Replacement(dense, "four input copies summed into the first conv, which is one dense 3x3")


class CCA(nn.Module):
    """Contrast-aware channel attention: weights from the standard deviation and mean of every channel.

    Source: Hui et al., Information Multi-distillation Network, ACM MM 2019.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(conv1(channels, width), nn.ReLU(), conv1(width, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        deviation = (x - mean).square().mean((2, 3), keepdim=True).sqrt()
        y: Tensor = x * self.conv_du(deviation + mean)
        return y


class ESDB(DistillationBlock):
    """Efficient separable distillation block."""

    def __init__(self, config: BSRNConfig) -> None:
        act = nn.GELU()
        super().__init__(
            config.channels,
            config.distilled,
            act=act,
            esa=DeepESA(config.channels, config.esa, act, bsconv, strided=_strided(config.esa)),
            conv=bsconv,
            refine=lambda channels: SkipBSConvU(_pointwise(channels, channels), channels),
        )
        self.cca = CCA(config.channels, config.cca)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cca(super().forward(x)) + x
        return y


class UpsampleOneStep(nn.Module):
    """A conv and a pixel shuffle."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        conv = conv3(channels, config.colors * config.scale**2)
        self.upsampleOneStep = nn.Sequential(conv, nn.PixelShuffle(config.scale))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.upsampleOneStep(x)
        return y


class SeparableNetwork(Network):
    """The frame of BSRN and BSRN-S: `pointwise` makes the 1x1s, `first` those before a depthwise conv."""

    def __init__(
        self,
        config: Config,
        channels: int,
        blocks: list[nn.Module],
        *,
        pointwise: Callable[[int, int], nn.Module],
        first: Callable[[int, int], nn.Module],
    ) -> None:
        super().__init__()
        self.block_names = [f"B{number}" for number in range(1, len(blocks) + 1)]
        self.fea_conv = CopiesBSConvU(first(INPUT_COPIES * config.colors, channels), channels)
        for name, block in zip(self.block_names, blocks, strict=True):
            self.add_module(name, block)
        self.c1 = pointwise(len(blocks) * channels, channels)
        self.c2 = BSConvU(first(channels, channels), channels)
        self.upsampler = UpsampleOneStep(channels, config)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        features = self.fea_conv(x)
        outputs = [features]
        for name in self.block_names:
            outputs.append(self.get_submodule(name)(outputs[-1]))
        y: Tensor = self.upsampler(self.c2(self.act(self.c1(torch.cat(outputs[1:], 1)))) + features)
        return y

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.fea_conv, value_range)
        scale_output(self.upsampler.upsampleOneStep[0], 1 / value_range)


class BSRN(SeparableNetwork):
    """Source: Li et al., Blueprint Separable Residual Network for Efficient Image Super-Resolution, CVPR Workshops 2022."""

    def __init__(self, config: BSRNConfig) -> None:
        blocks: list[nn.Module] = [ESDB(config) for _ in range(config.blocks)]
        super().__init__(config, config.channels, blocks, pointwise=conv1, first=_pointwise)


def bsconv(inputs: int, outputs: int) -> BSConvU:
    return BSConvU(_pointwise(inputs, outputs), outputs)


def _pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def _strided(width: int) -> BSConvU:
    return BSConvU(_pointwise(width, width), width, stride=2, padding=0)


def colors_of(columns: int) -> int:
    """Color channels of the images, from the columns of the first 1x1.

    Raises: ValueError when they are not a multiple of the input copies.
    """
    if columns % INPUT_COPIES:
        raise ValueError(f"'fea_conv.pw.weight' has {columns} columns, expected {INPUT_COPIES} per color channel")
    return columns // INPUT_COPIES


def _read_config(state: StateDict) -> BSRNConfig:
    channels, columns = state["fea_conv.pw.weight"].shape[:2]
    colors, key = colors_of(columns), "upsampler.upsampleOneStep.0.weight"
    return BSRNConfig(
        scale=scale_of(state[key].shape[0], colors, key=key),
        colors=colors,
        channels=channels,
        distilled=state["B1.c1_d.weight"].shape[0],
        esa=state["B1.esa.conv1.weight"].shape[0],
        cca=state["B1.cca.conv_du.0.weight"].shape[0],
        blocks=count(state, "B{}.", first=1),
    )


ARCHITECTURE = Architecture(
    name="bsrn",
    title="BSRN",
    paper="Li et al., Blueprint Separable Residual Network for Efficient Image Super-Resolution, CVPR Workshops 2022",
    signature=Signature(
        has_all=("B1.c1_r.pw.weight", "B1.esa.conv_max.pw.weight", "B1.cca.conv_du.0.weight", "c2.dw.weight"),
        shapes={"fea_conv.pw.weight": (None, None, 1, 1), "upsampler.upsampleOneStep.0.weight": (None, None, 3, 3)},
    ),
    default=BSRNConfig(scale=4, colors=3),
    read_config=_read_config,
    build=BSRN,
    value_range=1.0,
    min_size=15,
)
