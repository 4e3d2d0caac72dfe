"""RVSR: a small transformer-like network of convs, in its training form and merged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.algebra import Kernel, chain_of, conv_of, kernel_of, sum_of
from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import (
    Network,
    Options,
    ParallelConvs,
    Replacement,
    conv1,
    conv3,
    enlarged,
    scale_input,
    scale_output,
)
from sr_deploy.architectures.rrrb import rep_conv


@dataclass(frozen=True)
class RVSRConfig(Config):
    """`attention` is the width of a block's attention; `merged` tells the deployed form from the training form."""

    channels: int = 16
    attention: int = 8
    blocks: int = 8
    merged: bool = True


class RepConv(ParallelConvs):
    """The sum of two expanded convs, a 3x3, a 1x1 and the input.

    The border of what the first 1x1s make is their bias, so that the merge is exact there too.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand_conv, self.expand1_conv = conv1(channels, 2 * channels), conv1(channels, 2 * channels)
        self.fea_conv, self.fea1_conv = (nn.Conv2d(2 * channels, 2 * channels, 3) for _ in range(2))
        self.reduce_conv, self.reduce1_conv = conv1(2 * channels, channels), conv1(2 * channels, channels)
        self.res_conv3x3 = conv3(channels, channels)
        self.res_conv1x1 = conv1(channels, channels)
        self.act = nn.Identity()

    def branches(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1))
        first = self.reduce_conv(self.fea_conv(self.expand_conv(padded)))
        second = self.reduce1_conv(self.fea1_conv(self.expand1_conv(padded)))
        y: Tensor = first + second + self.res_conv3x3(x) + self.res_conv1x1(x) + x
        return y

    def kernel(self) -> Kernel:
        first = chain_of(*map(kernel_of, (self.expand_conv, self.fea_conv, self.reduce_conv)))
        second = chain_of(*map(kernel_of, (self.expand1_conv, self.fea1_conv, self.reduce1_conv)))
        return sum_of([first, second, kernel_of(self.res_conv3x3), kernel_of(self.res_conv1x1)], identity=True)

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        conv = conv_of(*self.kernel(), padding=1)
        return Replacement(rep_conv(conv), "RepConv of four branches and identity merged into one conv")


class ChannelAttention(nn.Module):
    """x times a weight per channel, made of the means over the image."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.fc1 = conv1(channels, width)
        self.fc2 = conv1(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(mean))))


class FeedForward(nn.Module):
    """Two 1x1 convs, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(conv1(channels, 2 * channels), nn.GELU(), conv1(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.ffn(x) + x
        return y


class MixerBlock(nn.Module):
    """A conv that mixes pixels, attention to channels, and convs that mix channels."""

    def __init__(self, config: RVSRConfig) -> None:
        super().__init__()
        self.token_mixer = _rep_conv(config)
        self.attn = ChannelAttention(config.channels, config.attention)
        self.channel_mixer = FeedForward(config.channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.channel_mixer(self.attn(self.token_mixer(x)))
        return y


class RVSR(Network):
    """Source: Li et al., RVSR: Towards Real-Time Super-Resolution with Re-parameterization and ViT Architecture, AIS 2024."""

    def __init__(self, config: RVSRConfig) -> None:
        super().__init__()
        self.scale = config.scale
        self.head = nn.Sequential(conv3(config.colors, config.channels))
        self.body = nn.Sequential(*(MixerBlock(config) for _ in range(config.blocks)))
        self.tail = nn.Sequential(
            _rep_conv(config), conv1(config.channels, config.colors * config.scale**2), nn.PixelShuffle(config.scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)
        y: Tensor = self.tail(self.body(features) + features) + enlarged(x, self.scale)
        return y

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.head[0], value_range)
        scale_output(self.tail[1], 1 / value_range)


def _rep_conv(config: RVSRConfig) -> nn.Module:
    channels = config.channels
    return rep_conv(conv3(channels, channels)) if config.merged else RepConv(channels)


def _read_config(state: StateDict) -> RVSRConfig:
    channels, colors = state["head.0.weight"].shape[:2]
    return RVSRConfig(
        scale=scale_of(state["tail.1.weight"].shape[0], colors, key="tail.1.weight"),
        colors=colors,
        channels=channels,
        attention=state["body.0.attn.fc1.weight"].shape[0],
        blocks=count(state, "body.{}."),
        merged="tail.0.rep_conv.weight" in state,
    )


ARCHITECTURE = Architecture(
    name="rvsr",
    title="RVSR",
    paper="Li et al., RVSR: Towards Real-Time Super-Resolution with Re-parameterization and ViT Architecture, AIS 2024",
    signature=Signature(
        has_all=("head.0.weight", "body.0.attn.fc1.weight", "body.0.channel_mixer.ffn.0.weight", "tail.1.weight"),
        has_any=("tail.0.rep_conv.weight", "tail.0.expand_conv.weight"),
    ),
    default=RVSRConfig(scale=4, colors=3),
    read_config=_read_config,
    build=RVSR,
    value_range=1.0,
)
