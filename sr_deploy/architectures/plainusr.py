"""PlainUSR: a chain of blocks that work on fewer and fewer channels in place, in its training form and merged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.algebra import Kernel, chain_of, conv_of, kernel_of, stack_of
from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Foldable, Network, Options, Replacement, conv1, conv3, scale_input, scale_output
from sr_deploy.architectures.rrrb import RRRB

PAPER = "Wang et al., PlainUSR: Chasing Faster ConvNet for Efficient Super-Resolution, ACCV 2024"


@dataclass(frozen=True)
class PlainUSRConfig(Config):
    """Blocks 1 and 4 work on `channels`, 2 and 3 on the first `middle` of them, the one between on the first `inner`.
    `attention` is the width of theirs; `convs` is how many each has, 3 in PlainUSR-L; `merged` tells the deployed form from the
    training form."""

    channels: int = 32
    middle: int = 16
    inner: int = 8
    attention: int = 4
    convs: int = 2
    merged: bool = True


class RepMBConv(RRRB):
    """An RRRB whose 3x3 has a weight per channel, made of a tensor that does not depend on the image."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.se = ChannelWeights(2 * channels)

    def features(self) -> Kernel:
        weight, bias = kernel_of(self.fea_conv)
        factors = self.se()
        return weight * factors[:, None, None, None], None if bias is None else bias * factors

    def merged(self) -> nn.Module:
        return conv_of(*self.kernel(), padding=1)


class ChannelWeights(nn.Module):
    """A weight per channel, out of a learned tensor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.tensor = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.se = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels, channels // 4, bias=False),
            nn.SiLU(),
            nn.Linear(channels // 4, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self) -> Tensor:
        y: Tensor = self.se(self.tensor)
        return y[0]


class FirstChannelConv(nn.Module):
    """A 1x1 conv whose one output takes the place of the first channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv1(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), x[:, 1:]], 1)

    def after(self, conv: nn.Module) -> nn.Conv2d:
        """The conv that equals `conv` and then this one."""
        assert isinstance(conv, nn.Conv2d)
        weight, bias = kernel_of(conv)
        rest = weight[1:], None if bias is None else bias[1:]
        return conv_of(*stack_of(chain_of((weight, bias), kernel_of(self.conv)), rest), padding=1)


class SoftPool(nn.Module):
    """The mean over 7x7 pixels, each weighted by its exponential."""

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.exp(x)
        return F.avg_pool2d(weights * x, 7, stride=3) / F.avg_pool2d(weights, 7, stride=3)


class LocalAttention(nn.Module):
    """x times a mask from a view of the image at a sixth of its size, and times the first channel. Needs H, W >= 7."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv1(channels, width),
            SoftPool(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            conv3(width, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        mask = F.interpolate(self.body(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return x * mask * torch.sigmoid(x[:, :1])


class Block(nn.Module):
    """Convs with activations between them, then attention if there is any."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


class TrainingBlock(Block, Foldable):
    """A block with a conv of the first channel before its attention."""

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        *convs, last, first_channel, attention = self.body
        assert isinstance(first_channel, FirstChannelConv)
        return Replacement(Block(*convs, first_channel.after(last), attention), "1x1 conv of one channel folded into the 3x3")


class PlainUNet(Network):
    """`blocks`, by name and in their order, each of which changes the first channels of a map and leaves the others.

    Source: Wang et al., PlainUSR: Chasing Faster ConvNet for Efficient Super-Resolution, ACCV 2024.
    """

    def __init__(self, config: Config, channels: int, blocks: dict[str, tuple[int, nn.Module]]) -> None:
        super().__init__()
        self.widths = {name: width for name, (width, _) in blocks.items()}
        self.head = conv3(config.colors, channels + 3)
        for name, (_, block) in blocks.items():
            self.add_module(name, block)
        self.tail = nn.Sequential(conv3(channels + 3, config.colors * config.scale**2), nn.PixelShuffle(config.scale))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(x)
        for name, width in self.widths.items():
            y = torch.cat([self.get_submodule(name)(y[:, :width]), y[:, width:]], 1)
        out: Tensor = self.tail(y)
        return out

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.head, value_range)
        scale_output(self.tail[0], 1 / value_range)


class PlainUSR(PlainUNet):
    """PlainUSR-S, -M, -L and the base."""

    def __init__(self, config: PlainUSRConfig) -> None:
        outer, middle, inner = config.channels, config.middle, config.inner
        order = {"block1": outer, "block2": middle, "blockm": inner, "block3": middle, "block4": outer}
        super().__init__(config, outer, {name: (width, _block(config, width)) for name, width in order.items()})


def block(channels: int, *, convs: int, attention: nn.Module | None, merged: bool) -> Block:
    """A block of that many convs."""
    body: list[nn.Module] = []
    for _ in range(convs):
        body += [conv3(channels, channels) if merged else RepMBConv(channels), nn.LeakyReLU(0.05)]
    body.pop()
    if attention is None:
        return Block(*body)
    return Block(*body, attention) if merged else TrainingBlock(*body, FirstChannelConv(channels), attention)


def _block(config: PlainUSRConfig, channels: int) -> Block:
    attention = LocalAttention(channels, config.attention)
    return block(channels, convs=config.convs, attention=attention, merged=config.merged)


def width_of(state: StateDict, name: str) -> int:
    """The channels that a block works on, merged or not."""
    key = f"{name}.body.0.weight"
    return state[key if key in state else f"{name}.body.0.reduce_conv.weight"].shape[0]


def _read_config(state: StateDict) -> PlainUSRConfig:
    merged = "block1.body.0.weight" in state
    convs = count(state, "block1.body.{}.weight" if merged else "block1.body.{}.reduce_conv.", step=2)
    rows, colors = state["tail.0.weight"].shape[0], state["head.weight"].shape[1]
    return PlainUSRConfig(
        scale=scale_of(rows, colors, key="tail.0.weight"),
        colors=colors,
        channels=width_of(state, "block1"),
        middle=width_of(state, "block2"),
        inner=width_of(state, "blockm"),
        attention=state[f"block1.body.{2 * convs - merged}.body.0.weight"].shape[0],
        convs=convs,
        merged=merged,
    )


ARCHITECTURE = Architecture(
    name="plainusr",
    title="PlainUSR",
    paper=PAPER,
    signature=Signature(
        has_all=("head.weight", "tail.0.weight"),
        has_any=("block4.body.0.weight", "block4.body.0.reduce_conv.weight"),
    ),
    default=PlainUSRConfig(scale=4, colors=3),
    read_config=_read_config,
    build=PlainUSR,
    value_range=1.0,
    min_size=7,
)
