"""RepRFN: reparameterized residual feature network, in its training form and merged."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sr_deploy.architectures.algebra import Kernel, chain_of, kernel_of
from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Network, PlainESA, conv1, conv3, scale_input, scale_output
from sr_deploy.architectures.branches import LAPLACIAN, SOBEL_X, SOBEL_Y, EdgeConv, RepBlock, merged_rep_block


@dataclass(frozen=True)
class RepRFNConfig(Config):
    """`esa` is the width of the attention; `merged` tells the deployed form from the training form."""

    channels: int = 48
    esa: int = 16
    blocks: int = 4
    merged: bool = True


class EdgeRepBlock(RepBlock):
    """A RepBlock with four branches more: a wide one, and three that find edges."""

    fold = "RepBlock of nine branches merged into one conv"

    def __init__(self, channels: int) -> None:
        super().__init__(channels, nn.LeakyReLU(0.05))
        self.rbr_1x1_3x3_branch_1x1 = conv1(channels, 2 * channels, bias=False)
        self.rbr_1x1_3x3_branch_3x3 = conv3(2 * channels, channels, bias=False)
        self.rbr_conv1x1_sbx_branch = EdgeConv(channels, channels, SOBEL_X)
        self.rbr_conv1x1_sby_branch = EdgeConv(channels, channels, SOBEL_Y)
        self.rbr_conv1x1_lpl_branch = EdgeConv(channels, channels, LAPLACIAN)

    def branches(self, x: Tensor) -> Tensor:
        y: Tensor = (
            super().branches(x)
            + self.rbr_1x1_3x3_branch_3x3(self.rbr_1x1_3x3_branch_1x1(x))
            + self.rbr_conv1x1_sbx_branch(x)
            + self.rbr_conv1x1_sby_branch(x)
            + self.rbr_conv1x1_lpl_branch(x)
        )
        return y

    def kernels(self) -> list[Kernel]:
        expanded = chain_of(kernel_of(self.rbr_1x1_3x3_branch_1x1), kernel_of(self.rbr_1x1_3x3_branch_3x3))
        edges = (self.rbr_conv1x1_sbx_branch, self.rbr_conv1x1_sby_branch, self.rbr_conv1x1_lpl_branch)
        return [*super().kernels(), expanded, *(edge.kernel() for edge in edges)]


class RepRFB(nn.Module):
    """Residual feature block of RepBlocks."""

    def __init__(self, config: RepRFNConfig) -> None:
        super().__init__()
        self.repblock1 = _rep_block(config)
        self.repblock2 = _rep_block(config)
        self.repblock3 = _rep_block(config)
        self.conv3 = conv3(config.channels, config.channels)
        self.esa = PlainESA(config.channels, config.esa)
        self.act = nn.LeakyReLU(0.05)

    def forward(self, x: Tensor) -> Tensor:
        y = self.repblock3(self.repblock2(self.repblock1(x)))
        out: Tensor = self.esa(self.act(self.conv3(y)) + x)
        return out


class Upsampler(nn.Module):
    """A conv and a pixel shuffle."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        self.conv = conv3(channels, config.colors * config.scale**2)
        self.shuffle = nn.PixelShuffle(config.scale)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shuffle(self.conv(x))
        return y


class RepRFN(Network):
    """Source: Deng et al., Reparameterized Residual Feature Network for Lightweight Image Super-Resolution, CVPRW 2023."""

    def __init__(self, config: RepRFNConfig) -> None:
        super().__init__()
        self.block_names = [f"reprfb{number}" for number in range(1, config.blocks + 1)]
        self.fea_conv = conv3(config.colors, config.channels)
        for name in self.block_names:
            self.add_module(name, RepRFB(config))
        self.lr_conv = conv3(config.channels, config.channels)
        self.upsampler = Upsampler(config.channels, config)

    def forward(self, x: Tensor) -> Tensor:
        features = y = self.fea_conv(x)
        for name in self.block_names:
            y = self.get_submodule(name)(y)
        out: Tensor = self.upsampler(self.lr_conv(y) + features)
        return out

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.fea_conv, value_range)
        scale_output(self.upsampler.conv, 1 / value_range)


def _rep_block(config: RepRFNConfig) -> nn.Module:
    channels = config.channels
    return merged_rep_block(conv3(channels, channels), nn.LeakyReLU(0.05)) if config.merged else EdgeRepBlock(channels)


def _read_config(state: StateDict) -> RepRFNConfig:
    channels, colors = state["fea_conv.weight"].shape[:2]
    return RepRFNConfig(
        scale=scale_of(state["upsampler.conv.weight"].shape[0], colors, key="upsampler.conv.weight"),
        colors=colors,
        channels=channels,
        esa=state["reprfb1.esa.conv1.weight"].shape[0],
        blocks=count(state, "reprfb{}.", first=1),
        merged="reprfb1.repblock1.rbr_reparam.weight" in state,
    )


ARCHITECTURE = Architecture(
    name="reprfn",
    title="RepRFN",
    paper="Deng et al., Reparameterized Residual Feature Network for Lightweight Image Super-Resolution, CVPR Workshops 2023",
    signature=Signature(
        has_all=("reprfb1.conv3.weight", "reprfb1.esa.conv3.weight", "lr_conv.weight"),
        has_any=("reprfb1.repblock1.rbr_reparam.weight", "reprfb1.repblock1.rbr_3x3_branch.weight"),
        shapes={"fea_conv.weight": (None, None, 3, 3), "upsampler.conv.weight": (None, None, 3, 3)},
    ),
    default=RepRFNConfig(scale=4, colors=3),
    read_config=_read_config,
    build=RepRFN,
    value_range=1.0,
    min_size=15,
)
