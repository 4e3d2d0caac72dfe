"""MSRN: multi-scale residual network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.algebra import conv_of, identity_kernel
from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count
from sr_deploy.architectures.blocks import (
    MEAN,
    Foldable,
    Network,
    Options,
    Replacement,
    conv1,
    conv3,
    scale_input,
    scale_output,
)


@dataclass(frozen=True)
class MSRNConfig(Config):
    channels: int = 64
    blocks: int = 8

    @property
    def factors(self) -> tuple[int, ...]:
        """Upsampling stages."""
        return (3,) if self.scale == 3 else (2,) * (self.scale.bit_length() - 1)


class Subtract(nn.Module):
    """x - mean, per channel."""

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone().reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean


class MeanShift(nn.Conv2d, Foldable):
    """A 1x1 conv that only adds a color."""

    def __init__(self, color: Tensor) -> None:
        super().__init__(len(color), len(color), 1)
        self.weight = nn.Parameter(identity_kernel(self.weight.detach()))
        self.bias = nn.Parameter(color)

    def reparameterized(self, options: Options) -> Replacement | None:  # noqa: ARG002
        if self.bias is None or not torch.equal(self.weight, identity_kernel(self.weight)):
            return None
        return Replacement(Subtract(-self.bias), "1x1 conv of the mean turned into a subtraction")


class MSRB(Foldable):
    """Multi-scale residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_3_1 = conv3(channels, channels)
        self.conv_3_2 = conv3(2 * channels, 2 * channels)
        self.conv_5_1 = nn.Conv2d(channels, channels, 5, padding=2)
        self.conv_5_2 = nn.Conv2d(2 * channels, 2 * channels, 5, padding=2)
        self.confusion = conv1(4 * channels, channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        act = self.act
        y = torch.cat([act(self.conv_3_1(x)), act(self.conv_5_1(x))], 1)
        y = torch.cat([act(self.conv_3_2(y)), act(self.conv_5_2(y))], 1)
        out: Tensor = self.confusion(y) + x
        return out

    def reparameterized(self, options: Options) -> Replacement | None:
        if not options.merge_parallel:
            return None
        first, second = _side_by_side(self.conv_3_1, self.conv_5_1), _side_by_side(self.conv_3_2, self.conv_5_2)
        return Replacement(MergedMSRB(first, second, self.confusion), "parallel 3x3 and 5x5 made one 5x5, twice per block")


class MergedMSRB(nn.Module):
    """A multi-scale residual block whose 3x3 convs stand inside the 5x5 ones."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, confusion: nn.Module) -> None:
        super().__init__()
        self.conv_1 = first
        self.conv_2 = second
        self.confusion = confusion
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.confusion(self.act(self.conv_2(self.act(self.conv_1(x))))) + x
        return y


class MSRN(Network):
    """Source: Li et al., Multi-scale Residual Network for Image Super-Resolution, ECCV 2018."""

    def __init__(self, config: MSRNConfig) -> None:
        super().__init__()
        channels = config.channels
        color = 255 * torch.tensor(MEAN if config.colors == 3 else [sum(MEAN) / 3] * config.colors)
        stages: list[nn.Module] = []
        for factor in config.factors:
            stages += [conv3(channels, channels * factor**2), nn.PixelShuffle(factor)]
        self.sub_mean = MeanShift(-color)
        self.head = nn.Sequential(conv3(config.colors, channels))
        self.body = nn.ModuleList(MSRB(channels) for _ in range(config.blocks))
        self.tail = nn.Sequential(
            conv1((config.blocks + 1) * channels, channels),
            conv3(channels, channels),
            nn.Sequential(*stages),
            conv3(channels, config.colors),
        )
        self.add_mean: nn.Module = conv1(config.colors, config.colors)
        self.add_mean.load_state_dict({"weight": self.sub_mean.weight, "bias": color})

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(self.sub_mean(x))
        outputs = [features]
        for block in self.body:
            outputs.append(block(outputs[-1]))
        y: Tensor = self.add_mean(self.tail(torch.cat([*outputs[1:], features], 1)))
        return y

    def fold_ends(self) -> tuple[str, ...]:
        last, shift = self.tail[3], self.add_mean
        if not isinstance(shift, nn.Conv2d):
            return ()
        assert isinstance(last, nn.Conv2d)
        matrix = shift.weight[:, :, 0, 0]
        bias = torch.zeros_like(matrix[0]) if last.bias is None else matrix @ last.bias
        weight = torch.einsum("om,mihw->oihw", matrix, last.weight)
        self.tail[3] = conv_of(weight, bias if shift.bias is None else bias + shift.bias, padding=1)
        self.add_mean = nn.Identity()
        return ("the mean added by the last conv",)

    def fold_value_range(self, value_range: float) -> None:
        shift: nn.Module = self.sub_mean
        color = shift.mean if isinstance(shift, Subtract) else shift.bias
        assert isinstance(color, Tensor)
        color.div_(value_range)
        scale_input(self.head[0], value_range)
        scale_output(self.tail[3], 1 / value_range)


def _side_by_side(small: nn.Conv2d, large: nn.Conv2d) -> nn.Conv2d:
    """One conv with the outputs of a 3x3 and then those of a 5x5."""
    assert small.bias is not None
    assert large.bias is not None
    weight = torch.cat([F.pad(small.weight, (1, 1, 1, 1)), large.weight])
    return conv_of(weight, torch.cat([small.bias, large.bias]), padding=2)


def _read_config(state: StateDict) -> MSRNConfig:
    channels, colors = state["head.0.weight"].shape[:2]
    stages = sum(key.startswith("tail.2.") and key.endswith(".weight") for key in state)
    rows = state["tail.2.0.weight"].shape[0]
    if rows not in (4 * channels, 9 * channels):
        raise ValueError(f"'tail.2.0.weight' has {rows} rows, expected {4 * channels} or {9 * channels}")
    return MSRNConfig(
        scale=3 if rows == 9 * channels else 2**stages,
        colors=colors,
        channels=channels,
        blocks=count(state, "body.{}."),
    )


def _value_ranges(state: StateDict) -> tuple[float, ...]:
    """The mean that the network subtracts is stated in its value range."""
    mean = float(state["sub_mean.bias"].abs().max())
    return (255.0,) if mean > 1 else (1.0,) if mean > 0 else (255.0, 1.0)


ARCHITECTURE = Architecture(
    name="msrn",
    title="MSRN",
    paper="Li et al., Multi-scale Residual Network for Image Super-Resolution, ECCV 2018",
    signature=Signature(
        has_all=("body.0.conv_3_1.weight", "body.0.conv_5_2.weight", "body.0.confusion.weight", "tail.3.weight"),
        shapes={"head.0.weight": (None, None, 3, 3), "tail.2.0.weight": (None, None, 3, 3)},
    ),
    default=MSRNConfig(scale=2, colors=3),
    read_config=_read_config,
    build=MSRN,
    value_range=255.0,
    value_ranges=_value_ranges,
    halo=lambda config: 4 * config.blocks + 4,
)
