"""Compact: one chain of convs over the LR image, on top of its nearest-neighbor upscaling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Network, conv3, repeated, scale_input, scale_output

Activation = Literal["prelu", "relu", "lrelu"]


@dataclass(frozen=True)
class CompactConfig(Config):
    """`blocks`: convs between the first and the last. `activation`: after each but the last; `lrelu` has a slope of 0.1."""

    channels: int = 64
    blocks: int = 16
    activation: Activation = "prelu"


class Compact(Network):
    """SRVGGNetCompact of the paper's code.

    Source: Wang et al., Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data, ICCV Workshops 2021.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.scale = config.scale
        inputs = [config.colors, *[config.channels] * config.blocks]
        hidden = [module for width in inputs for module in (conv3(width, config.channels), _activation(config))]
        self.body = nn.Sequential(*hidden, conv3(config.channels, config.colors * config.scale**2))
        self.shuffle = nn.PixelShuffle(config.scale)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shuffle(self.body(x) + repeated(x, self.scale**2))
        return y

    def fold_value_range(self, value_range: float) -> None:
        scale_input(self.body[0], value_range)
        scale_output(self.body[-1], 1 / value_range)


def _activation(config: CompactConfig) -> nn.Module:
    if config.activation == "prelu":
        return nn.PReLU(config.channels)
    return nn.ReLU() if config.activation == "relu" else nn.LeakyReLU(0.1)


def _read_config(state: StateDict) -> CompactConfig:
    channels, colors = state["body.0.weight"].shape[:2]
    convs = count(state, "body.{}.", step=2)
    if convs < 2:
        raise ValueError(f"{convs} conv, expected 2 or more")
    key = f"body.{2 * convs - 2}.weight"
    return CompactConfig(
        scale=scale_of(state[key].shape[0], colors, key=key),
        colors=colors,
        channels=channels,
        blocks=convs - 2,
        activation="prelu" if "body.1.weight" in state else "relu",
    )


def _variants(config: CompactConfig) -> tuple[CompactConfig, ...]:
    if config.activation == "prelu":
        return (config,)
    return (replace(config, activation="relu"), replace(config, activation="lrelu"))


ARCHITECTURE = Architecture(
    name="compact",
    title="Compact",
    paper="Wang et al., Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data, ICCV Workshops 2021",
    signature=Signature(has_all=("body.0.weight", "body.2.weight")),
    default=CompactConfig(scale=4, colors=3),
    read_config=_read_config,
    build=Compact,
    value_range=1.0,
    variants=_variants,
    value_ranges=lambda _state: (1.0,),
    halo=lambda config: config.blocks + 2,
)
