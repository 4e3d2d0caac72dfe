"""PAN: pixel attention network."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count
from sr_deploy.architectures.blocks import Network, conv1, conv3, enlarged, scale_input, scale_output


@dataclass(frozen=True)
class PANConfig(Config):
    """`split` is the width of each half of a block, `width` that of the upsampler."""

    channels: int = 40
    split: int = 20
    width: int = 24
    blocks: int = 16

    @property
    def factors(self) -> tuple[int, ...]:
        """Upsampling stages."""
        return (2, 2) if self.scale == 4 else (self.scale,)


class PixelAttention(nn.Module):
    """x * sigmoid(conv(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv1(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(x))


class PAConv(nn.Module):
    """A 3x3 conv weighted by pixel attention, and another one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.k2 = conv1(channels, channels)
        self.k3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.k4 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.k4(self.k3(x) * torch.sigmoid(self.k2(x)))
        return y


class SCPA(nn.Module):
    """Self-calibrated block with pixel attention."""

    def __init__(self, channels: int, split: int) -> None:
        super().__init__()
        self.conv1_a = nn.Conv2d(channels, split, 1, bias=False)
        self.conv1_b = nn.Conv2d(channels, split, 1, bias=False)
        self.k1 = nn.Sequential(nn.Conv2d(split, split, 3, padding=1, bias=False))
        self.PAConv = PAConv(split)
        self.conv3 = nn.Conv2d(2 * split, channels, 1, bias=False)
        self.act = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.act(self.k1(self.act(self.conv1_a(x))))
        b = self.act(self.PAConv(self.act(self.conv1_b(x))))
        y: Tensor = self.conv3(torch.cat([a, b], 1)) + x
        return y


class PANTail(Network):
    """A network that ends as PAN does."""

    def __init__(self, config: PANConfig) -> None:
        super().__init__()
        self.factors = config.factors
        channels, width = config.channels, config.width
        for stage in range(1, len(config.factors) + 1):
            self.add_module(f"upconv{stage}", conv3(channels if stage == 1 else width, width))
            self.add_module(f"att{stage}", PixelAttention(width))
            self.add_module(f"HRconv{stage}", conv3(width, width))
        self.conv_last = conv3(width, config.colors)
        self.act = nn.LeakyReLU(0.2)

    def upsample(self, y: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, C, sH, sW), to be added to the upscaled image."""
        for stage, factor in enumerate(self.factors, start=1):
            upconv, attention, conv = (self.get_submodule(f"{name}{stage}") for name in ("upconv", "att", "HRconv"))
            y = upconv(F.interpolate(y, scale_factor=factor, mode="nearest"))
            y = self.act(conv(self.act(attention(y))))
        out: Tensor = self.conv_last(y)
        return out


class PAN(PANTail):
    """Source: Zhao et al., Efficient Image Super-Resolution Using Pixel Attention, ECCV Workshops 2020."""

    def __init__(self, config: PANConfig) -> None:
        super().__init__(config)
        self.scale = config.scale
        self.conv_first = conv3(config.colors, config.channels)
        self.SCPA_trunk = nn.Sequential(*(SCPA(config.channels, config.split) for _ in range(config.blocks)))
        self.trunk_conv = conv3(config.channels, config.channels)

    def features(self, x: Tensor) -> Tensor:
        """What the upsampler takes: (N, C, H, W) -> (N, channels, H, W)."""
        y = self.conv_first(x)
        out: Tensor = y + self.trunk_conv(self.SCPA_trunk(y))
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(self.features(x)) + enlarged(x, self.scale)

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.conv_first, value_range)
        scale_output(self.conv_last, 1 / value_range)


def _read_config(state: StateDict) -> PANConfig:
    channels, colors = state["conv_first.weight"].shape[:2]
    return PANConfig(
        scale=4 if "upconv2.weight" in state else 2,
        colors=colors,
        channels=channels,
        split=state["SCPA_trunk.0.conv1_a.weight"].shape[0],
        width=state["upconv1.weight"].shape[0],
        blocks=count(state, "SCPA_trunk.{}."),
    )


ARCHITECTURE = Architecture(
    name="pan",
    title="PAN",
    paper="Zhao et al., Efficient Image Super-Resolution Using Pixel Attention, ECCV Workshops 2020",
    signature=Signature(
        has_all=("SCPA_trunk.0.PAConv.k2.weight", "trunk_conv.weight", "att1.conv.weight", "conv_last.weight"),
        shapes={"conv_first.weight": (None, None, 3, 3), "upconv1.weight": (None, None, 3, 3)},
    ),
    default=PANConfig(scale=4, colors=3),
    read_config=_read_config,
    build=PAN,
    value_range=1.0,
    variants=lambda config: (config,) if config.scale == 4 else (replace(config, scale=2), replace(config, scale=3)),
    halo=lambda config: 2 * config.blocks + 4,
)
