"""ETDS: two streams of convs, one for what the image lacks and one for the image, apart as in training and converted to one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sr_deploy.architectures.algebra import Kernel, conv_of, joint_of, kernel_of, stack_of
from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Foldable, Network, Options, Replacement, conv3, scale_input
from sr_deploy.architectures.clip import (
    FOLD,
    ClipConv,
    clipped_rows,
    clipped_scale,
    fold_clip,
    scale_clipped,
)
from sr_deploy.architectures.plain import Plain, PlainConfig


@dataclass(frozen=True)
class ETDSConfig(Config):
    """`channels` of both streams together. `residual` of them carry the image in the training form; 0 tells the converted
    form, in which the streams are one."""

    channels: int = 16
    blocks: int = 5
    residual: int = 0

    @property
    def plain(self) -> PlainConfig:
        """The network of one stream."""
        return PlainConfig(self.scale, self.colors, self.channels, self.blocks)


class ConvertedETDS(Plain):
    """A plain network that clips its output to [0, 1].

    Source: Chao et al., Equivalent Transformation and Dual Stream Network Construction for Mobile Image Super-Resolution,
    CVPR 2023.
    """

    def __init__(self, config: ETDSConfig) -> None:
        super().__init__(config.plain)
        self.conv_last = conv3(config.channels, clipped_rows(config))
        self.conv_clip: nn.Module = ClipConv(config)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shuffle(self.conv_clip(self.last(x)))
        return y

    def fold_ends(self) -> tuple[str, ...]:
        folded = fold_clip(self.conv_last, self.conv_clip)
        if folded is None:
            return ()
        self.conv_last, self.conv_clip = folded
        return (FOLD,)

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.conv_first, value_range)
        scale_clipped(self.conv_last, self.conv_clip, 1 / value_range)


class ETDS(Network, Foldable):
    """Source: as `ConvertedETDS`, whose output equals this one's between 0 and 1."""

    def __init__(self, config: ETDSConfig) -> None:
        super().__init__()
        self.config = config
        image, rows = config.residual, config.colors * config.scale**2
        inner = config.channels - image
        self.conv_first = conv3(config.colors, inner)
        self.conv_residual_first = conv3(config.colors, image)
        self.backbone_convs = nn.ModuleList(conv3(inner, inner) for _ in range(config.blocks))
        self.residual_convs = nn.ModuleList(conv3(image, image) for _ in range(config.blocks))
        self.add_residual_convs = nn.ModuleList(conv3(image, inner) for _ in range(config.blocks))
        self.conv_last = conv3(inner, rows)
        self.conv_residual_last = conv3(image, rows)
        self.act = nn.ReLU()
        self.shuffle = nn.PixelShuffle(config.scale)

    def forward(self, x: Tensor) -> Tensor:
        act = self.act
        y, image = act(self.conv_first(x)), act(self.conv_residual_first(x))
        for backbone, residual, add in zip(self.backbone_convs, self.residual_convs, self.add_residual_convs, strict=True):
            y, image = act(backbone(y) + add(image)), act(residual(image))
        out: Tensor = self.shuffle(self.conv_last(y) + self.conv_residual_last(image))
        return out

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        plain = Plain(self.config.plain)
        plain.conv_first = _merged(stack_of(kernel_of(self.conv_first), kernel_of(self.conv_residual_first)))
        for number in range(self.config.blocks):
            kernels = (convs[number] for convs in (self.backbone_convs, self.add_residual_convs, self.residual_convs))
            backbone, add, residual = map(_kernel, kernels)
            nothing = torch.zeros_like(add[0]).transpose(0, 1), None
            plain.backbone_convs[number] = _merged(stack_of(joint_of(backbone, add), joint_of(nothing, residual)))
        plain.conv_last = _merged(joint_of(kernel_of(self.conv_last), kernel_of(self.conv_residual_last)))
        return Replacement(plain, "two streams of convs made one")


def _kernel(conv: nn.Module) -> Kernel:
    assert isinstance(conv, nn.Conv2d)
    return kernel_of(conv)


def _merged(kernel: Kernel) -> nn.Conv2d:
    return conv_of(*kernel, padding=1)


def _build(config: ETDSConfig) -> Network:
    return ETDS(config) if config.residual else ConvertedETDS(config)


def _read_config(state: StateDict) -> ETDSConfig:
    channels, colors = state["conv_first.weight"].shape[:2]
    rows, blocks = state["conv_last.weight"].shape[0], count(state, "backbone_convs.{}.")
    if "conv_clip.weight" in state:
        return ETDSConfig(clipped_scale(rows, colors, key="conv_last.weight"), colors, channels, blocks)
    residual = state["conv_residual_first.weight"].shape[0]
    return ETDSConfig(scale_of(rows, colors, key="conv_last.weight"), colors, channels + residual, blocks, residual)


ARCHITECTURE = Architecture(
    name="etds",
    title="ETDS",
    paper="Chao et al., Equivalent Transformation and Dual Stream Network Construction for Mobile Image Super-Resolution, "
    "CVPR 2023",
    signature=Signature(
        has_all=("conv_first.weight", "backbone_convs.0.weight", "conv_last.weight"),
        has_any=("conv_clip.weight", "conv_residual_first.weight"),
    ),
    default=ETDSConfig(scale=4, colors=3),
    read_config=_read_config,
    build=_build,
    value_range=1.0,
    value_ranges=lambda _state: (1.0,),
    halo=lambda config: config.blocks + 2,
)
