"""SAFMN++ light: modulation of features by a view of the image at an eighth of its size, for real time."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.algebra import chain_of, conv_of, kernel_of
from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Foldable, Network, Options, Replacement, conv1, conv3, scale_input, scale_output

SHRINK = 8


@dataclass(frozen=True)
class SAFMNPPLightConfig(Config):
    """`hidden` is the number of channels inside the mixer of channels."""

    channels: int = 32
    hidden: int = 48
    blocks: int = 2


def shrunk(x: Tensor, axis: int) -> Tensor:
    """Adaptive max pooling of one axis to an eighth of its size, rounded down, in operators of ONNX. Needs 8 pixels.

    Window i of n begins at floor(i * size / n) and ends before ceil((i + 1) * size / n), which is where window n - 1 - i begins
    when counted from the other end. It has 8 to 16 pixels: its first 8 and its last 8.
    """
    size = x.shape[axis]
    number = size // SHRINK
    maxima = F.max_pool2d(x, (SHRINK, 1) if axis == 2 else (1, SHRINK), stride=1)
    first = torch.arange(number, device=x.device) * size // number
    last = size - SHRINK - first.flip(0)
    return torch.maximum(maxima.index_select(axis, first), maxima.index_select(axis, last))


class SAFM(nn.Module):
    """Spatially-adaptive feature modulation: half of the channels by their maxima, refined and enlarged again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.proj = conv3(channels, channels, bias=False)
        self.dwconv = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.out: nn.Module = conv1(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        modulated, kept = self.proj(x).chunk(2, 1)
        small = self.dwconv(shrunk(shrunk(modulated, 2), 3))
        mask = F.gelu(F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False))
        y: Tensor = self.out(F.gelu(torch.cat([kept, mask * modulated], 1)))
        return y


class Mixer(nn.Module):
    """Two convs and an activation between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv3(channels, hidden, bias=False), nn.GELU(), conv1(hidden, channels, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class ModulationBlock(Foldable):
    """Modulation, then mixing of channels."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = SAFM(channels)
        self.conv2 = Mixer(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return y

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        modulation, mixer = deepcopy(self.conv1), deepcopy(self.conv2.conv)
        out, first = modulation.out, mixer[0]
        assert isinstance(out, nn.Conv2d) and isinstance(first, nn.Conv2d)
        mixer[0] = conv_of(*chain_of(kernel_of(out), kernel_of(first)), padding=1)
        modulation.out = nn.Identity()
        return Replacement(nn.Sequential(modulation, mixer), "1x1 conv folded into the 3x3 behind it")


class SAFMNPPLight(Network):
    """Source: Sun et al., Spatially-Adaptive Feature Modulation for Efficient Image Super-Resolution, ICCV 2023; and
    Conde et al., Real-Time 4K Super-Resolution of Compressed AVIF Images. AIS 2024 Challenge Survey, CVPR Workshops 2024."""

    def __init__(self, config: SAFMNPPLightConfig) -> None:
        super().__init__()
        channels = config.channels
        self.to_feat = conv3(config.colors, channels, bias=False)
        self.feats = nn.Sequential(*(ModulationBlock(channels, config.hidden) for _ in range(config.blocks)))
        last = conv3(channels, config.colors * config.scale**2, bias=False)
        self.to_img = nn.Sequential(last, nn.PixelShuffle(config.scale))

    def forward(self, x: Tensor) -> Tensor:
        features = self.to_feat(x)
        y: Tensor = self.to_img(self.feats(features) + features)
        return y

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.to_feat, value_range)
        scale_output(self.to_img[0], 1 / value_range)


def _read_config(state: StateDict) -> SAFMNPPLightConfig:
    channels, colors = state["to_feat.weight"].shape[:2]
    return SAFMNPPLightConfig(
        scale=scale_of(state["to_img.0.weight"].shape[0], colors, key="to_img.0.weight"),
        colors=colors,
        channels=channels,
        hidden=state["feats.0.conv2.conv.0.weight"].shape[0],
        blocks=count(state, "feats.{}."),
    )


ARCHITECTURE = Architecture(
    name="safmnpp_light",
    title="SAFMN++ light",
    paper="Sun et al., Spatially-Adaptive Feature Modulation for Efficient Image Super-Resolution, ICCV 2023",
    signature=Signature(has_all=("to_feat.weight", "feats.0.conv1.dwconv.weight", "feats.0.conv2.conv.2.weight")),
    default=SAFMNPPLightConfig(scale=4, colors=3),
    read_config=_read_config,
    build=SAFMNPPLight,
    value_range=1.0,
    min_size=SHRINK,
)
