"""FMEN: fast and memory-efficient network, merged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Foldable, Network, Options, Replacement, conv3, scale_input, scale_output
from sr_deploy.architectures.rrrb import rep_conv


@dataclass(frozen=True)
class FMENConfig(Config):
    """`warmup` is the width of the first attention, `attention` that of the others; `warmup_pairs` and `attention_pairs` count
    the pairs of convs inside."""

    channels: int = 50
    blocks: int = 4
    warmup: int = 12
    warmup_pairs: int = 2
    attention: int = 16
    attention_pairs: int = 1


class ConvPair(nn.Module):
    """Two convs and an activation between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = rep_conv(conv3(channels, channels))
        self.conv2 = rep_conv(conv3(channels, channels))
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.act(self.conv1(x)))
        return y


class Gate(nn.Module):
    """x * sigmoid(body(x))."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.body(x))


class HFAB(Foldable):
    """High-frequency attention block: a mask by convs on few channels."""

    def __init__(self, channels: int, width: int, pairs: int) -> None:
        super().__init__()
        self.squeeze = conv3(channels, width)
        self.convs = nn.Sequential(*(ConvPair(width) for _ in range(pairs)))
        self.excitate = conv3(width, channels)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.convs(self.act(self.squeeze(x))))
        return x * torch.sigmoid(self.excitate(y))

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        body = deepcopy(nn.Sequential(self.squeeze, self.act, self.convs, self.act, self.excitate))
        rescale([module for module in body.modules() if isinstance(module, nn.Conv2d)])
        return Replacement(Gate(body), "HFAB rescaled by powers of two")


def rescale(convs: Sequence[nn.Conv2d]) -> None:
    """Give all convs but the last a gain of 1/2 to 1 by a power of two, and make up for it in the last.

    With nothing but LeakyReLU between its convs, the chain stays the same to the last bit.
    Its values no longer grow from conv to conv until fp16 does not hold them.
    """
    *convs, last = convs
    total = 1.0
    for conv in convs:
        gain = conv.weight.square().sum((1, 2, 3)).mean().sqrt()
        factor = 0.5 ** math.frexp(float(gain))[1]
        total *= factor
        conv.weight.mul_(factor)
        assert conv.bias is not None
        conv.bias.mul_(total)
    last.weight.div_(total)


class FMEN(Network):
    """Source: Du et al., Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution, CVPR Workshops 2022."""

    def __init__(self, config: FMENConfig) -> None:
        super().__init__()
        channels, numbers = config.channels, range(config.blocks)
        self.head = conv3(config.colors, channels)
        self.warmup = nn.Sequential(conv3(channels, channels), HFAB(channels, config.warmup, config.warmup_pairs))
        self.basic_blocks = nn.ModuleList(ConvPair(channels) for _ in numbers)
        self.hfabs = nn.ModuleList(HFAB(channels, config.attention, config.attention_pairs) for _ in numbers)
        self.lr_conv = conv3(channels, channels)
        self.tail = nn.Sequential(conv3(channels, config.colors * config.scale**2), nn.PixelShuffle(config.scale))

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)
        y = self.warmup(features)
        for block, attention in zip(self.basic_blocks, self.hfabs, strict=True):
            y = attention(block(y))
        out: Tensor = self.tail(self.lr_conv(y) + features)
        return out

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.head, value_range)
        scale_output(self.tail[0], 1 / value_range)


def _read_config(state: StateDict) -> FMENConfig:
    channels, colors = state["head.weight"].shape[:2]
    return FMENConfig(
        scale=scale_of(state["tail.0.weight"].shape[0], colors, key="tail.0.weight"),
        colors=colors,
        channels=channels,
        blocks=count(state, "hfabs.{}."),
        warmup=state["warmup.1.squeeze.weight"].shape[0],
        warmup_pairs=count(state, "warmup.1.convs.{}."),
        attention=state["hfabs.0.squeeze.weight"].shape[0],
        attention_pairs=count(state, "hfabs.0.convs.{}."),
    )


ARCHITECTURE = Architecture(
    name="fmen",
    title="FMEN",
    paper="Du et al., Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution, CVPR Workshops 2022",
    signature=Signature(has_all=("warmup.1.squeeze.weight", "basic_blocks.0.conv1.rep_conv.weight", "hfabs.0.excitate.weight")),
    default=FMENConfig(scale=4, colors=3),
    read_config=_read_config,
    build=FMEN,
    value_range=255.0,
    halo=lambda config: 6 + 2 * config.warmup_pairs + config.blocks * (4 + 2 * config.attention_pairs),
)
