"""ECBSR: edge-oriented convolution blocks, in the training form and merged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor, nn

from sr_deploy.architectures.algebra import Kernel, conv_of, kernel_of, sum_of
from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import (
    Network,
    Options,
    ParallelConvs,
    Replacement,
    conv3,
    repeated,
    scale_input,
    scale_output,
)
from sr_deploy.architectures.branches import LAPLACIAN, SOBEL_X, SOBEL_Y, EdgeConv, ExpandConv


@dataclass(frozen=True)
class ECBSRConfig(Config):
    """`blocks` is M of the paper: the ECBs between the first and the last. `merged` tells the plain form from the training
    form, whose ECBs add x where `identity` is set and the channel counts agree."""

    channels: int = 16
    blocks: int = 4
    merged: bool = True
    identity: bool = False

    @property
    def widths(self) -> list[int]:
        """Channels before, between and after the ECBs."""
        return [self.colors, *[self.channels] * (self.blocks + 1), self.colors * self.scale**2]


class ECB(ParallelConvs):
    """Edge-oriented convolution block: the activation of the sum of parallel branches."""

    def __init__(self, inputs: int, outputs: int, act: nn.Module) -> None:
        super().__init__()
        self.conv3x3 = conv3(inputs, outputs)
        self.conv1x1_3x3 = ExpandConv(inputs, 2 * outputs, outputs)
        self.conv1x1_sbx = EdgeConv(inputs, outputs, SOBEL_X)
        self.conv1x1_sby = EdgeConv(inputs, outputs, SOBEL_Y)
        self.conv1x1_lpl = EdgeConv(inputs, outputs, LAPLACIAN)
        self.act = act

    def branches(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv3x3(x) + self.conv1x1_3x3(x) + self.conv1x1_sbx(x) + self.conv1x1_sby(x) + self.conv1x1_lpl(x)
        return y

    def kernel(self) -> Kernel:
        return self.sum_of_kernels(identity=False)

    def sum_of_kernels(self, *, identity: bool) -> Kernel:
        branches = (self.conv1x1_3x3, self.conv1x1_sbx, self.conv1x1_sby, self.conv1x1_lpl)
        return sum_of([kernel_of(self.conv3x3), *(branch.kernel() for branch in branches)], identity=identity)

    def merged(self) -> nn.Module:
        return nn.Sequential(conv_of(*self.kernel(), padding=1), self.act)

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        return Replacement(self.merged(), "ECB of five branches merged into one conv")


class IdentityECB(ECB):
    """An ECB that adds its input, too."""

    def branches(self, x: Tensor) -> Tensor:
        return super().branches(x) + x

    def kernel(self) -> Kernel:
        return self.sum_of_kernels(identity=True)

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        return Replacement(self.merged(), "ECB of five branches and identity merged into one conv")


class ECBSR(Network):
    """Source: Zhang et al., Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices, ACM MM 2021."""

    def __init__(self, config: ECBSRConfig) -> None:
        super().__init__()
        self.scale = config.scale
        widths = config.widths
        last = len(widths) - 2
        self.backbone = nn.Sequential(*(_block(config, widths[i], widths[i + 1], activated=i < last) for i in range(last + 1)))
        self.shuffle = nn.PixelShuffle(config.scale)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shuffle(self.backbone(x) + repeated(x, self.scale**2))
        return y

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.backbone.get_submodule("0.0"), value_range)
        scale_output(self.backbone.get_submodule(f"{len(self.backbone) - 1}.0"), 1 / value_range)


def _block(config: ECBSRConfig, inputs: int, outputs: int, *, activated: bool) -> nn.Module:
    if config.merged:
        return nn.Sequential(conv3(inputs, outputs), *([nn.PReLU(outputs)] if activated else []))
    kind = IdentityECB if config.identity and inputs == outputs else ECB
    return kind(inputs, outputs, nn.PReLU(outputs) if activated else nn.Identity())


def _read_config(state: StateDict) -> ECBSRConfig:
    merged = "backbone.0.0.weight" in state
    name = "0" if merged else "conv3x3"
    channels, colors = state[f"backbone.0.{name}.weight"].shape[:2]
    number = count(state, "backbone.{}.")
    key = f"backbone.{number - 1}.{name}.weight"
    if number < 2:
        raise ValueError(f"{number} block, expected 2 or more")
    return ECBSRConfig(
        scale=scale_of(state[key].shape[0], colors, key=key),
        colors=colors,
        channels=channels,
        blocks=number - 2,
        merged=merged,
    )


def ends_in_1x1(state: StateDict) -> bool:
    """Whether the last part of the backbone is a 1x1 conv, as in ECBSR-ET."""
    last = state.get(f"backbone.{count(state, 'backbone.{}.', first=1)}.0.weight")
    return last is not None and last.shape[2:] == (1, 1)


def _variants(config: ECBSRConfig) -> tuple[ECBSRConfig, ...]:
    widths = config.widths
    if config.merged or not any(before == after for before, after in pairwise(widths)):
        return (config,)
    return (replace(config, identity=False), replace(config, identity=True))


ARCHITECTURE = Architecture(
    name="ecbsr",
    title="ECBSR",
    paper="Zhang et al., Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices, ACM MM 2021",
    signature=Signature(
        has_all=(),
        has_any=("backbone.1.0.weight", "backbone.1.conv3x3.weight"),
        rule=lambda state: not ends_in_1x1(state),
    ),
    default=ECBSRConfig(scale=2, colors=1),
    read_config=_read_config,
    build=ECBSR,
    value_range=1.0,
    variants=_variants,
    halo=lambda config: config.blocks + 2,
)
