"""What all sizes of PlainUSR share: blocks that work on the first channels of a map, in the training form and merged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr_deploy.architectures.algebra import Kernel, chain_of, conv_of, kernel_of, stack_of
from sr_deploy.architectures.architecture import Config, StateDict
from sr_deploy.architectures.blocks import Foldable, Network, Options, Replacement, conv1, conv3, scale_input, scale_output
from sr_deploy.architectures.rrrb import RRRB

PAPER = "Wang et al., PlainUSR: Chasing Faster ConvNet for Efficient Super-Resolution, ACCV 2024"


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


class PlainBlock(nn.Module):
    """Convs with activations between them, then attention if there is any."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


class TrainingBlock(PlainBlock, Foldable):
    """A block with a conv of the first channel before its attention."""

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        *convs, last, first_channel, attention = self.body
        assert isinstance(first_channel, FirstChannelConv)
        return Replacement(
            PlainBlock(*convs, first_channel.after(last), attention), "1x1 conv of one channel folded into the 3x3"
        )


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


def block(channels: int, *, convs: int, attention: nn.Module | None, merged: bool) -> PlainBlock:
    """A block of that many convs."""
    body: list[nn.Module] = []
    for _ in range(convs):
        body += [conv3(channels, channels) if merged else RepMBConv(channels), nn.LeakyReLU(0.05)]
    body.pop()
    if attention is None:
        return PlainBlock(*body)
    return PlainBlock(*body, attention) if merged else TrainingBlock(*body, FirstChannelConv(channels), attention)


def width_of(state: StateDict, name: str) -> int:
    """The channels that a block works on, merged or not."""
    key = f"{name}.body.0.weight"
    return state[key if key in state else f"{name}.body.0.reduce_conv.weight"].shape[0]
